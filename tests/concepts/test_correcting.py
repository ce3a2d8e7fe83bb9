"""Correcting a concept in a library: effects, undo, saved corrections, and similar concepts."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import Change
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError, UnknownConceptError
from myvlm.heads import FaceHead, ObjectHead
from myvlm.heads.encoders import register_encoder
from myvlm.heads.faces.registry import register_face_encoder
from tests.support.fake_encoder import ColourEncoder, scenes
from tests.support.fake_faces import FakeFaces, photo, photos

ENCODER, FACES = ColourEncoder("fake/correcting"), FakeFaces("fake/correcting-faces")
register_encoder(ENCODER.id, lambda device: ENCODER)
register_face_encoder(FACES.id, lambda device: FACES)
COLOURS = {"sks": "red", "ohwx": (255, 60, 60), "zwx": "lime"}
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def heads() -> dict[str, ObjectHead]:
    return {
        name: ObjectHead(ENCODER.id).fit(scenes(20 + 40 * number, 4, colour))
        for number, (name, colour) in enumerate(COLOURS.items())
    }


@pytest.fixture
def library(heads: dict[str, ObjectHead]) -> ConceptLibrary:
    return ConceptLibrary(Concept(name, "square", head) for name, head in heads.items())


@pytest.fixture
def picture(library: ConceptLibrary) -> Image.Image:
    """A picture in which sks is detected."""
    return next(one for one in scenes(200, 20) if "sks" in _seen(library, one))


def _seen(library: ConceptLibrary, image: object) -> list[str]:
    [found] = library.recognise(image)  # type: ignore[arg-type]
    return [one.identifier for one in found.present]


def test_a_correction_is_seen_by_the_library_and_says_what_changed(
    library: ConceptLibrary, picture: Image.Image
) -> None:
    concept = library["sks"]
    correction = library.correct(picture, "sks", present=False)
    assert library["sks"] is concept, "whoever holds the concept has it corrected"
    assert "sks" not in _seen(library, picture)
    [found] = library.recognise(picture)
    assert correction.score.before >= 0.5 > correction.score.after == pytest.approx(found[0].probability)
    assert (correction.held, correction.present, correction.corrections) == (True, False, 1)
    assert len(correction.photos) == correction.kept == 4
    assert correction.lost == 0
    assert correction.seconds > 0
    assert correction.threshold.before == correction.threshold.after == concept.head.threshold_  # type: ignore[attr-defined]
    assert repr(correction).startswith("Correction(sks is not in images[0]: ")
    assert len(repr(correction)) < 160
    html = correction._repr_html_()
    assert "images[0]: sks is not there" in html
    assert str(correction.score) in html


def test_it_can_be_undone_and_what_was_said_before_comes_back(
    library: ConceptLibrary, picture: Image.Image, heads: dict[str, ObjectHead]
) -> None:
    first = library.correct(picture, "sks", present=False)
    second = library.correct(picture, "sks", present=True)
    assert "sks" in _seen(library, picture)
    back = second.undo()
    assert "sks" not in _seen(library, picture)
    assert (back.present, back.corrections) == (None, 1)
    assert first.undo().corrections == 0
    assert np.array_equal(library["sks"].head.coef_, heads["sks"].coef_)  # type: ignore[attr-defined]
    library.correct(picture, "sks", present=False)
    assert library.correct(picture, "sks", present=None).corrections == 0
    with pytest.raises(InputError, match=r"has no correction by (.|\n)*no corrections"):
        library.correct(picture, "sks", present=None)


def test_undoing_one_of_two_leaves_the_other(library: ConceptLibrary) -> None:
    two = [one for one in scenes(200, 30) if "sks" in _seen(library, one)][:2]
    first = library.correct(two[0], "sks", present=False)
    library.correct(two[1], "sks", present=False)
    first.undo()
    assert "sks" not in _seen(library, two[1])
    assert [one.present for one in library["sks"].head.known_examples().corrections] == [False]  # type: ignore[attr-defined]


def test_it_holds_in_every_library_that_the_concept_is_in(
    library: ConceptLibrary, picture: Image.Image
) -> None:
    other, apart = ConceptLibrary([library["sks"]]), ConceptLibrary([copy.copy(library["sks"])])
    for one in (library, other, apart):
        assert "sks" in _seen(one, picture)
    library.correct(picture, "sks", present=False)
    assert "sks" not in _seen(other, picture)
    assert "sks" in _seen(apart, picture), "a copy is another concept"


def test_a_renamed_concept_is_corrected_and_a_removed_one_is_not(
    library: ConceptLibrary, picture: Image.Image
) -> None:
    correction = library.correct(picture, "sks", present=False)
    library.rename("sks", "Rot")
    assert correction.undo().identifier == "Rot"
    library.remove("Rot")
    with pytest.raises(UnknownConceptError, match="no longer in this library"):
        correction.undo()
    with pytest.raises(UnknownConceptError):
        library.correct(picture, "sks", present=False)


def test_a_photo_that_it_was_taught_stays_and_that_is_said(library: ConceptLibrary) -> None:
    correction = library.correct(scenes(20, 4)[0], "sks", present=False)
    assert not correction.held
    assert correction.lost == 0
    assert "sks" in _seen(library, scenes(20, 4)[0])
    assert "not achieved: it is too similar to a photo of it" in repr(correction)
    assert "not achieved: too similar to a photo of it" in correction._repr_html_()
    other = dataclasses.replace(correction, present=True)
    assert "not achieved: it is too different from its photos" in repr(other)


def test_a_head_of_another_kind_cannot_be_corrected(library: ConceptLibrary, picture: Image.Image) -> None:
    class Plain:
        kind, privacy, gate_key = "object", "", ()

        def __getattr__(self, name: str) -> object:
            if name == "examples_":
                raise AttributeError(name)
            return lambda *given, **options: None

    library["sks"].head = Plain()  # type: ignore[assignment]
    with pytest.raises(InputError, match="cannot be corrected"):
        library.correct(picture, "sks", present=False)


# on disk


def test_a_corrected_concept_is_the_same_from_disk_and_can_be_undone_there(
    library: ConceptLibrary, picture: Image.Image, heads: dict[str, ObjectHead], tmp_path: Path
) -> None:
    picture.save(tmp_path / "desk.png")
    library.correct(tmp_path / "desk.png", "sks", present=False)
    folder = library["sks"].save(tmp_path / "sks")
    assert "- desk.png: not there" in (folder / "README.md").read_text()
    library.correct(scenes(400, 1)[0], "sks", present=True)
    library["sks"].save(folder)
    assert re.search(
        r"\n\n- desk\.png: not there[^\n]*\n- [^\n]*: there[^\n]*\n", (folder / "README.md").read_text()
    ), "a line each"
    library.correct(scenes(400, 1)[0], "sks", present=None)
    library["sks"].save(folder)
    assert (folder / "examples.safetensors").stat().st_size < 20_000
    again = ConceptLibrary.load(tmp_path)
    unseen = scenes(300, 5)
    alone = ConceptLibrary([library["sks"]])  # with others, its threshold is stricter
    ours, theirs = (one.recognise(unseen) for one in (alone, again))
    likely = [[one[0].probability for one in found] for found in (ours, theirs)]
    assert np.allclose(*likely, atol=1e-6)
    again.correct(picture, "sks", present=None)
    assert np.array_equal(again["sks"].head.coef_, heads["sks"].coef_)  # type: ignore[attr-defined]
    again["sks"].save(folder)
    assert "desk.png" not in (folder / "README.md").read_text()


def test_features_are_read_when_they_are_needed_and_erased_with_the_concept(
    library: ConceptLibrary, tmp_path: Path
) -> None:
    folder = library["sks"].save(tmp_path / "sks")
    lazy = ConceptLibrary.load(tmp_path)
    (folder / "examples.safetensors").write_bytes(b"cut")
    assert len(_seen(lazy, scenes(20, 1)[0])) == 1, "recognising needs none of them"
    with pytest.raises(ConceptFileError, match=r"examples\.safetensors was truncated or modified"):
        lazy.correct(scenes(200, 1)[0], "sks", present=False)
    with pytest.raises(ConceptFileError, match=r"examples\.safetensors was truncated or modified"):
        Concept.load(folder)
    lazy.remove("sks", erase=True)
    assert not folder.exists()


def test_what_a_concept_kept_goes_when_its_folder_is_written_without(
    library: ConceptLibrary, tmp_path: Path
) -> None:
    concept = library["sks"]
    folder = concept.save(tmp_path / "sks")
    assert json.loads((folder / "concept.json").read_text())["examples"]["meta"]["corrections"] == []
    bare = copy.copy(concept.head)
    bare.examples_ = None  # type: ignore[attr-defined]
    Concept("sks", "square", bare).save(folder)
    assert not (folder / "examples.safetensors").exists()
    assert json.loads((folder / "concept.json").read_text())["examples"] is None


def test_a_folder_of_an_older_release_says_how_it_comes_to_be_corrected() -> None:
    library = ConceptLibrary([GOLDEN / "format-1"])
    head = library["ohwx"].head
    with pytest.raises(InputError, match=r"cannot be corrected(.|\n)*older release(.|\n)*relearn") as caught:
        head.known_examples()  # type: ignore[attr-defined]
    assert caught.value.fix is not None
    assert library.confusable() == []
    assert library.separate() == []


# similar concepts


def test_concepts_that_are_seen_in_each_others_photos_are_found(
    library: ConceptLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(_, gate)] = library.gated()
    products, likely = [], gate.likely  # type: ignore[attr-defined]
    monkeypatch.setattr(gate, "likely", lambda photos: (products.append(len(photos)), likely(photos))[1])
    ENCODER.calls.clear()
    pairs = library.confusable()
    assert ENCODER.calls == [], "by what is kept alone"
    assert products == [4 * len(COLOURS)], "all photos in one product"
    assert pairs
    for pair in pairs:
        photos_of = scenes(20 + 40 * list(COLOURS).index(pair.photos_of), 4, COLOURS[pair.photos_of])
        scores = [one.probability for one in library[pair.seen].head.score(photos_of)]
        assert max(scores) >= pair.probability - 0.01, "as whole pictures say, which have more windows"
        assert pair.seen != pair.photos_of
    assert [one.probability for one in pairs] == sorted((one.probability for one in pairs), reverse=True)
    assert all(one.probability >= 0.25 for one in pairs)
    assert all(1 <= one.photos <= 4 for one in pairs)
    assert library.confusable(at_least=1.1) == []


def test_separated_concepts_are_told_apart_and_lose_no_photo(library: ConceptLibrary) -> None:
    pairs = library.confusable()
    changes = library.separate()
    assert [(one.identifier, one.picture) for one in changes] == [
        (pair.seen, f"photos of {pair.photos_of}") for pair in pairs
    ]
    assert all(one.lost == 0 for one in changes)
    assert any(one.others for one in changes), "in fewer photos of others than before"
    assert library.confusable(at_least=0.5) == []
    for number, name in enumerate(COLOURS):
        for image in scenes(20 + 40 * number, 4, COLOURS[name]):
            assert name in _seen(library, image)
    for one in changes:
        one.undo()
    assert library.confusable() == pairs


def test_named_ones_are_separated_each_from_each(library: ConceptLibrary) -> None:
    before = library["sks"].head.known_examples()  # type: ignore[attr-defined]
    changes = library.separate("sks", "zwx")
    assert before.corrections == []
    assert all(one.score.after <= max(one.score.before, 0.05) for one in changes), "far apart, not just so"
    assert [(one.identifier, one.picture) for one in changes] == [
        ("sks", "photos of zwx"),
        ("zwx", "photos of sks"),
    ]
    library.separate("sks", "zwx")
    assert len(library["sks"].head.known_examples().corrections) == 1  # type: ignore[attr-defined]
    with pytest.raises(UnknownConceptError):
        library.separate("sks", "gone")


def test_one_name_is_separated_from_those_that_it_is_confusable_with_alone(library: ConceptLibrary) -> None:
    pairs = library.confusable()
    name = pairs[0].photos_of
    with_it = [(p.seen, f"photos of {p.photos_of}") for p in pairs if name in (p.seen, p.photos_of)]
    assert len(with_it) < len(pairs)
    changes = library.separate(name)
    assert [(one.identifier, one.picture) for one in changes] == with_it
    for one in changes:
        one.undo()
    assert [one.picture for one in library.separate(name, name)] == [picture for _, picture in with_it]


def test_people_are_left_to_the_gate_which_gives_a_face_to_one_of_them() -> None:
    people = ConceptLibrary(
        Concept(name, "woman", FaceHead(FACES.id, threshold=1.39).fit(photos(number)))
        for name, number in (("Anna", 11), ("Ben", 22))
    )
    assert people.separate("Anna", "Ben") == []
    correction = people.correct(photo(22, draw=60), "Anna", present=False)
    assert correction.held
    assert len(people["Anna"].head.strangers_) == 1  # type: ignore[attr-defined]


def test_a_change_reads_as_an_arrow() -> None:
    assert str(Change(0.123, 0.9)) == "0.12 → 0.90"
