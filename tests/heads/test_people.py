"""People from end to end: learned as faces by `MyVLM` and by the command, then detected in pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from myvlm import LearnSettings, MyVLM
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError, UnknownHeadError
from myvlm.heads import FaceHead, PersonHead
from myvlm.heads.faces.registry import register_face_encoder
from tests.support.command import Myvlm, files_under
from tests.support.fake_faces import FakeFaces, photo, photos

register_face_encoder("fake/api-faces", lambda device: FakeFaces("fake/api-faces"))
SHORT = LearnSettings(steps=2, views=2)
ANNA, BEN = 11, 22
OPTIONS = {"encoder": "fake/api-faces"}


def learn(vlm: MyVLM, name: str, person: int) -> None:
    vlm.learn(
        name,
        photos(person),
        category="woman",
        kind="face",
        head_options=OPTIONS,
        settings=SHORT,
        progress=False,
    )


def test_two_people_are_learned_and_both_are_found_in_one_picture(fresh: MyVLM, tmp_path: Path) -> None:
    learn(fresh, "anna", ANNA)
    learn(fresh, "bob", BEN)
    assert isinstance(fresh.concepts["anna"].head, FaceHead)
    assert fresh.concepts["anna"].kind == "face"
    reply = fresh.caption(photo(BEN, 0, ANNA, 99, draw=40))
    assert reply.seen == ("anna", "bob")
    assert [one.box for one in reply.detections] == [(40, 0, 60, 20), (0, 0, 20, 20)]
    with fresh.generic():
        plain = fresh.caption(photo(99))
    assert fresh.caption(photo(99)).token_ids == plain.token_ids
    folder = fresh.concepts["anna"].save(tmp_path / "anna")
    fresh.concepts.remove("anna", erase=True)
    assert not folder.exists()


def test_a_person_is_named_by_the_face_and_listed_as_unsure_without(fresh: MyVLM, tmp_path: Path) -> None:
    fresh.learn(
        "anna", photos(ANNA), category="woman", kind="person", head_options=OPTIONS, settings=SHORT,
        progress=False,
    )  # fmt: skip
    head = fresh.concepts["anna"].head
    assert isinstance(head, PersonHead)
    assert (head.encoder, head.appearance) == ("fake/api-faces", "tinyworld/clip")
    fresh.concepts["anna"].save(tmp_path / "anna")
    again = fresh.with_concepts(ConceptLibrary([tmp_path / "anna"]))
    seen, other = again.caption([photo(BEN, 0, ANNA, draw=40), photo(BEN, draw=41)])
    assert (seen.seen, other.seen) == (("anna",), ())
    assert [one.verdict for one in seen.detections] == ["present"]
    [behind] = again.caption([photo(0, draw=42)])
    assert behind.seen == ()
    assert [one.verdict for one in behind.detections] in (["absent"], ["unsure"])


@pytest.mark.usefixtures("unchanged")
def test_what_cannot_be_learned_leaves_nothing_half_made(fresh: MyVLM) -> None:
    wrong: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"images": photo(0)}, InputError, "no face in any"),
        ({"images": [photo(ANNA, BEN)] * 2}, InputError, "2 people"),
        ({"negatives": [photo(ANNA, draw=2)]}, InputError, r"negative shows the person(.|\n)*images\[0\]"),
        ({"kind": "gait"}, UnknownHeadError, "gait"),
        ({"head_options": {"crop": 3}}, InputError, r"crop(.|\n)*false_alarm_rate"),
    ]
    for changes, kind, message in wrong:
        given = {"images": photos(ANNA), "kind": "face", "head_options": OPTIONS, **changes}
        with pytest.raises(kind, match=message):
            fresh.learn("anna", category="woman", settings=SHORT, progress=False, **given)  # type: ignore[arg-type]
    assert len(fresh.concepts) == 0


def test_the_command_learns_a_face_and_finds_it(myvlm: Myvlm, tmp_path: Path) -> None:
    for number, one in enumerate(photos(ANNA), start=1):
        one.save(tmp_path / f"{number}.png")
    words = ("anna", tmp_path, "--category", "woman", "--kind", "face", "--encoder", "fake/api-faces")
    run = myvlm("learn", *words, "--steps", "2", "--out", "anna", "--json")
    assert run.code == 0, run.stderr
    assert run.document["kind"] == "face"
    assert files_under(Path("anna")) == [
        "README.md",
        "concept.json",
        "embeddings",
        "embeddings/tinyworld--llava.safetensors",
        "head.safetensors",
    ]
    assert "biometric data" in Path("anna/README.md").read_text(encoding="utf-8")
    photo(BEN, ANNA, draw=60).save(tmp_path / "party.png")
    [seen] = myvlm("caption", tmp_path / "party.png", "--concepts", "anna", "--json").document["pictures"]
    [detection] = seen["detections"]
    assert detection["box"] == [20, 0, 40, 20]
    assert detection["verdict"] == "present"


def test_the_command_says_which_photos_show_no_face(myvlm: Myvlm, tmp_path: Path) -> None:
    photo(0).save(tmp_path / "wall.png")
    words = (
        "anna",
        tmp_path / "wall.png",
        "--category",
        "woman",
        "--kind",
        "face",
        "--encoder",
        "fake/api-faces",
    )
    run = myvlm("learn", *words, "--out", "anna")
    assert run.code == 2
    assert "wall.png" in run.stderr
    assert not Path("anna").exists()
