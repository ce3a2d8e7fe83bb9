"""People by face, or without a visible face by their looks: then proposed for review and never named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.concepts.remote.address import is_biometric
from myvlm.errors import ConceptFileError, InputError
from myvlm.heads import FaceHead, HeadScore
from myvlm.heads.encoders import register_encoder
from myvlm.heads.faces.encoders import Faces
from myvlm.heads.faces.registry import register_face_encoder
from myvlm.heads.people.head import PersonHead
from myvlm.learning.teach import new_head
from myvlm.testing import HEAD_CHECKS, check_head
from tests.support.fake_encoder import ColourEncoder
from tests.support.fake_faces import DIM, SIDE, FakeFaces, descriptor

SKIN = (210, 140, 100)
ANNA, BEN = 11, 22
COATS = {ANNA: ((200, 30, 30), (240, 220, 40)), BEN: ((20, 60, 200), (30, 160, 90))}


class MarkedFaces(FakeFaces):
    """A face is a square of skin; its green level encodes the person, its blue level the photo."""

    def _faces_of(self, pixels: np.ndarray) -> Faces:
        boxes, rows = [], []
        for top in range(0, pixels.shape[0] - SIDE + 1, SIDE):
            for left in range(0, pixels.shape[1] - SIDE + 1, SIDE):
                red, green, blue = (int(level) for level in pixels[top + SIDE // 2, left + SIDE // 2])
                if red == SKIN[0]:
                    boxes.append((float(left), float(top), float(left + SIDE), float(top + SIDE)))
                    rows.append(descriptor(green - SKIN[1], blue - SKIN[2]))
        return Faces(tuple(boxes), np.stack(rows) if rows else np.empty((0, DIM), np.float32))


LOOKS = ColourEncoder("fake/person-looks")
FACES = MarkedFaces("fake/person-faces")
register_encoder("fake/person-looks", lambda device: LOOKS)
register_face_encoder("fake/person-faces", lambda device: FACES)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYVLM_CACHE", str(tmp_path_factory.getbasetemp() / "looks"))


def photo(face: int, coat: int, draw: int) -> Image.Image:
    """A person on a lawn, with this face (0: not visible) and this coat."""
    rng = np.random.default_rng(draw)
    image = Image.new("RGB", (200, 200), tuple(int(level) for level in rng.integers(60, 120, 3)))
    brush, left = ImageDraw.Draw(image), SIDE * int(rng.integers(2, 7))
    if coat:
        cloth, stripes = COATS[coat]
        brush.rectangle((left - 40, 60, left + 60, 190), fill=cloth)
        for down in range(70, 190, 20):
            brush.rectangle((left - 40, down, left + 60, down + 6), fill=stripes)
    brush.rectangle(
        (left, 40, left + SIDE - 1, 59),
        fill=(SKIN[0], SKIN[1] + face, SKIN[2] + draw) if face else (70, 50, 30),
    )
    return image


def photos(person: int, first: int = 4, count: int = 3) -> list[Image.Image]:
    return [photo(person, person, draw) for draw in range(first, first + count)]


def new() -> PersonHead:
    return PersonHead("fake/person-faces", appearance="fake/person-looks")


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> PersonHead:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYVLM_CACHE", str(tmp_path_factory.getbasetemp() / "looks"))
        return new().fit(photos(ANNA))


def verdicts(scores: Sequence[HeadScore]) -> list[tuple[str, bool]]:
    return [(one.verdict, one.present) for one in scores]


def test_keeps_the_contract_of_heads() -> None:
    unseen = [photo(ANNA, ANNA, 50), photo(BEN, BEN, 51), photo(0, 0, 52)]
    outcomes = check_head(new, photos(ANNA), photos(BEN), unseen)
    assert [one.check for one in outcomes if one.passed] == [check.__name__ for check in HEAD_CHECKS]
    assert is_biometric(new())


def test_where_a_face_is_seen_the_face_decides(anna: PersonHead) -> None:
    shown = [photo(ANNA, ANNA, 60), photo(ANNA, BEN, 61), photo(BEN, BEN, 62)]
    assert anna.score(shown) == anna.face_.score(shown)
    assert [one.present for one in anna.score(shown)] == [True, True, False]


def test_from_behind_the_person_is_proposed_and_never_named(anna: PersonHead) -> None:
    behind = [photo(0, ANNA, draw) for draw in range(70, 80)]
    found = anna.score(behind)
    proposed = [one for one in found if one.verdict == "unsure"]
    assert len(proposed) >= 8
    assert not any(one.present for one in found)
    assert all(0.25 < one.probability < 0.5 for one in proposed)
    assert all(one.box is not None and one.box[3] > 60 for one in proposed), "the coat, not the head"
    assert FaceHead("fake/person-faces").fit(photos(ANNA)).score(behind[0])[0].verdict == "absent"


def test_somebody_else_in_the_same_coat_is_not_proposed(anna: PersonHead) -> None:
    borrowed = [photo(BEN, ANNA, draw) for draw in range(80, 90)]
    assert verdicts(anna.score(borrowed)) == [("absent", False)] * 10
    assert verdicts(anna.score([photo(0, BEN, 90), photo(0, 0, 91)])) == [("absent", False)] * 2


def test_a_library_names_faces_and_lists_who_may_be_there(anna: PersonHead, tmp_path: Path) -> None:
    concept = Concept("anna", "woman", anna)
    concept.save(tmp_path / "anna")
    library = ConceptLibrary([tmp_path / "anna", Concept("ben", "man", new().fit(photos(BEN)))])
    face, behind = library.recognise([photo(ANNA, BEN, 60), photo(0, ANNA, 70)])
    assert [one.identifier for one in face.present] == ["anna"]
    assert behind.present == []
    assert [one.verdict for one in behind] == ["unsure", "absent"]
    assert "biometric data" in (tmp_path / "anna" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot be corrected"):
        library.correct(photo(0, ANNA, 70), "anna", present=True)


def test_photos_without_the_face_say_nothing_of_the_look() -> None:
    head = new().fit([*photos(ANNA), photo(0, BEN, 9)])
    assert head.face_.boxes_[3] is None
    assert len(head.look_.boxes_) == 3
    with pytest.raises(InputError, match="no face in any"):
        new().fit([photo(0, ANNA, draw) for draw in (1, 2)])


def test_it_is_made_with_the_models_own_image_encoder() -> None:
    head = new_head("person", {"encoder": "fake/person-faces"}, encoder="fake/person-looks", device="cpu")
    assert isinstance(head, PersonHead)
    assert (head.encoder, head.appearance) == ("fake/person-faces", "fake/person-looks")


def test_a_state_of_other_heads_is_refused(anna: PersonHead) -> None:
    meta, tensors = anna.state()
    swapped = {"face": meta.settings["look"], "look": meta.settings["face"]}
    with pytest.raises(ConceptFileError, match="do not match"):
        PersonHead.from_state(meta.model_copy(update={"settings": swapped}), tensors)
