"""The library: adding, removing, renaming and erasing concepts, and detecting many in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.concepts.concept import Concept
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    ImageError,
    InputError,
    MissingFileError,
    NotFittedError,
    NotWritableError,
    UnknownConceptError,
)
from myvlm.heads.encoders import register_encoder
from myvlm.heads.features import forget_pictures
from myvlm.heads.objects.head import ObjectHead
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scene, scenes
from tests.support.taught import by_hand

ENCODER = ColourEncoder("fake/library", bank=everyday_bank())
register_encoder("fake/library", lambda device: ENCODER)
COLOURS = {"sks": "red", "ohwx": "lime", "zwx": (255, 0, 130)}


@pytest.fixture(scope="module")
def heads() -> dict[str, ObjectHead]:
    return {
        name: ObjectHead("fake/library").fit(scenes(40 * i, 4, colour))
        for i, (name, colour) in enumerate(COLOURS.items())
    }


@pytest.fixture
def library(heads: dict[str, ObjectHead]) -> ConceptLibrary:
    return ConceptLibrary(_concept(name, head) for name, head in heads.items())


def _concept(name: str, head: ObjectHead) -> Concept:
    return Concept(name, "square", head, {"m": Embedding(np.ones((1, 2), np.float32), "image", "", "f")})


def test_it_is_a_mapping_in_order(library: ConceptLibrary) -> None:
    assert list(library) == ["sks", "ohwx", "zwx"]
    assert len(library) == 3
    assert "sks" in library
    assert "SKS" not in library
    assert library["ohwx"].identifier == "ohwx"
    assert library.get("gone") is None
    assert [one.category for one in library.values()] == ["square"] * 3
    assert library.paths == {"sks": None, "ohwx": None, "zwx": None}


def test_recognises_each_in_one_pass(library: ConceptLibrary) -> None:
    both = Image.new("RGB", (320, 160))
    both.paste(scene(1005, colour="red")[0], (0, 0))
    both.paste(scene(1006, colour="lime")[0], (160, 0))
    ENCODER.calls.clear()
    single, pair, none = library.recognise([scene(1002, colour="red")[0], both, scene(1003, colour=None)[0]])
    assert len(ENCODER.calls) <= 4, "one pass over all pictures a look, and one over the drawn picture"
    assert [one.identifier for one in single] == ["sks", "ohwx", "zwx"]
    assert [one.present for one in single] == [True, False, False]
    assert [one.present for one in pair] == [True, True, False]
    assert [one.present for one in none] == [False, False, False]
    for one in [*single, *pair, *none]:
        assert (one.box is not None) == one.present
        assert isinstance(one.present, bool)
        assert (one.probability >= 0.5) == one.present
    red, green = pair[0].box, pair[1].box
    assert red is not None
    assert green is not None
    assert (red[0] + red[2]) / 2 < 160 < (green[0] + green[2]) / 2


def test_recognising_twice_encodes_once(library: ConceptLibrary) -> None:
    picture = scene(4000)[0]
    first = [list(one) for one in library.recognise(picture)]
    ENCODER.calls.clear()
    assert library.recognise(picture) == first
    assert ENCODER.calls == []


def test_nothing_loaded_and_no_picture(library: ConceptLibrary) -> None:
    assert ConceptLibrary().recognise(scenes(0, 2)) == [[], []]
    with pytest.raises(ImageError):
        library.recognise(np.zeros((2, 2)))


def test_add_from_a_folder(heads: dict[str, ObjectHead], tmp_path: Path) -> None:
    folder = _concept("sks", heads["sks"]).save(tmp_path / "sks")
    library = ConceptLibrary()
    added = library.add(folder)
    assert library["sks"] is added
    assert library.paths == {"sks": folder.resolve()}
    picture = scene(1000)[0]
    assert library.recognise(picture) == ConceptLibrary([_concept("sks", heads["sks"])]).recognise(picture)


def test_a_refused_concept_changes_nothing(
    library: ConceptLibrary, heads: dict[str, ObjectHead], tmp_path: Path
) -> None:
    before = dict(library)
    with pytest.raises(ConceptExistsError, match=r"(?s)'SKS' is already in use.*concepts\.remove\('sks'\)"):
        library.add(_concept("SKS", heads["sks"]))
    with pytest.raises(NotFittedError):
        library.add(Concept("new", "square", ObjectHead("fake/library")))
    with pytest.raises(MissingFileError):
        library.add(tmp_path / "gone")
    with pytest.raises(ConceptFileError):
        library.add(tmp_path)
    short = ObjectHead.from_state(
        heads["sks"].state()[0], {n: t[:1] for n, t in heads["sks"].state()[1].items()}
    )
    with pytest.raises(ConceptFileError, match=r"lengths \[1, 125\]"):
        library.add(_concept("short", short))
    assert dict(library) == before
    assert len(library.recognise(scene(0)[0])[0]) == 3


def test_add_and_remove_between_pictures(library: ConceptLibrary, heads: dict[str, ObjectHead]) -> None:
    picture = scene(1000)[0]
    before = library.recognise(picture)[0]
    removed = library.remove("ohwx")
    assert [one.identifier for one in library.recognise(picture)[0]] == ["sks", "zwx"]
    library.add(removed)
    after = library.recognise(picture)[0]
    assert [one.identifier for one in after] == ["sks", "zwx", "ohwx"]
    assert {one.identifier: one.present for one in after} == {one.identifier: one.present for one in before}
    assert library["sks"].head is heads["sks"], "the others are not reloaded"


def test_heads_of_another_kind_of_windows_work_side_by_side(library: ConceptLibrary) -> None:
    library.add(_concept("whole", ObjectHead("fake/library", crops="none").fit(scenes(0, 3))))
    assert [one.identifier for one in library.recognise(scene(1)[0])[0]] == ["sks", "ohwx", "zwx", "whole"]


def test_one_that_moves_to_another_gate_keeps_its_scores(heads: dict[str, ObjectHead]) -> None:
    whole = ObjectHead("fake/library", crops="none").fit(scenes(0, 3))
    library = ConceptLibrary([_concept("sks", whole), _concept("ohwx", heads["ohwx"])])
    library.replace(_concept("sks", heads["sks"]))
    picture = scene(1002, colour="red")[0]
    [found] = library.recognise(picture)
    assert [one.identifier for one in found] == ["sks", "ohwx"]
    assert [one.identifier for one in found.present] == ["sks"]
    assert found[0].probability == heads["sks"].score(picture)[0].probability


def test_unknown_concepts_list_the_known(library: ConceptLibrary) -> None:
    for use in (lambda: library["x"], lambda: library.remove("x"), lambda: library.rename("x", "y")):
        with pytest.raises(UnknownConceptError, match="sks, ohwx, zwx") as caught:
            use()
        assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownConceptError, match="empty"):
        ConceptLibrary()["x"]


def test_rename_keeps_head_order_and_the_spoken_word(
    library: ConceptLibrary, heads: dict[str, ObjectHead]
) -> None:
    original, embeddings = library["ohwx"], library["ohwx"].embeddings
    picture = scene(1000, colour="lime")[0]
    before = library.recognise(picture)[0]
    renamed = library.rename("ohwx", "my mug")
    assert list(library) == ["sks", "my mug", "zwx"]
    assert library["my mug"] is renamed is original, "who holds the concept goes on holding the library's"
    assert renamed.head is heads["ohwx"]
    assert renamed.embeddings is embeddings
    assert (renamed.identifier, renamed.spoken) == ("my mug", "ohwx")
    after = library.recognise(picture)[0]
    assert [one.identifier for one in after] == ["sks", "my mug", "zwx"]
    assert [one.probability for one in after] == [one.probability for one in before]
    assert library.rename("my mug", "MY MUG").spoken == "ohwx"
    library.rename("MY MUG", "ohwx")
    assert library["ohwx"].spoken == "ohwx"


def test_impossible_renames_change_nothing(library: ConceptLibrary) -> None:
    for new, error in (("sks", ConceptExistsError), ("ZWX", ConceptExistsError), ("a/b", InputError)):
        with pytest.raises(error):
            library.rename("ohwx", new)
    assert [one.identifier for one in library.values()] == list(library) == ["sks", "ohwx", "zwx"]
    assert library.rename("sks", "sks") is library["sks"]


def test_rename_survives_saving(library: ConceptLibrary, tmp_path: Path) -> None:
    library.rename("sks", "mug").save(tmp_path / "mug")
    again = Concept.load(tmp_path / "mug")
    assert (again.identifier, again.spoken) == ("mug", "sks")


def test_a_word_that_models_say_is_one_concepts_own(
    library: ConceptLibrary, heads: dict[str, ObjectHead], tmp_path: Path
) -> None:
    library.rename("sks", "cup")
    before = dict(library)
    twin, other = _concept("vase", heads["zwx"]), _concept("zwx", heads["zwx"])
    twin.spoken, other.spoken = "SKS", "sks"
    refused: list[tuple[Callable[[], object], str]] = [
        (
            lambda: library.add(_concept("sks", heads["zwx"])),
            "'sks' is already in use(.|\n)*'cup', learned as 'sks'",
        ),
        (lambda: library.add(twin), "'SKS' is already in use"),
        (lambda: library.add_all([_concept("new", heads["zwx"]), twin]), "'SKS' is already in use"),
        (lambda: library.rename("zwx", "Sks"), "'Sks' is already in use(.|\n)*another identifier"),
        (lambda: library.replace(other), "'sks' is already in use"),
        (lambda: library.check_free("sks"), "'sks' is already in use"),
        (lambda: ConceptLibrary([twin, other]), "Two concepts use the word 'sks'(.|\n)*vase and zwx"),
    ]
    for use, message in refused:
        with pytest.raises(ConceptExistsError, match=message):
            use()
        assert dict(library) == before
    library.rename("cup", "sks")
    library.remove("sks")
    library.rename("zwx", "sks")
    assert list(library) == ["ohwx", "sks"]
    twin.save(tmp_path / "a")
    other.save(tmp_path / "b")
    with pytest.raises(ConceptExistsError, match=r"use the word(.|\n)*a and (.|\n)*b"):
        ConceptLibrary.load(tmp_path)


def test_erase_finds_what_was_saved_after_a_rename(library: ConceptLibrary, tmp_path: Path) -> None:
    mug = library["sks"]
    library.rename("sks", "cup")
    folder = mug.save(tmp_path / "cup")
    library.remove("cup", erase=True)
    assert not folder.exists()
    assert mug.folder is None


def test_erase_says_where_nothing_was_erased(
    library: ConceptLibrary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library["sks"].save(tmp_path / "sks").rename(tmp_path / "elsewhere")
    library["ohwx"].save(tmp_path / "ohwx")
    library.remove("ohwx", erase=True)
    assert caplog.messages == []
    library.remove("sks", erase=True)
    library.remove("zwx", erase=True)
    assert len(library) == 0
    assert "nothing of 'sks' was erased from disk: " in caplog.messages[0]
    assert caplog.messages[1] == "nothing of 'zwx' was erased from disk: it has no folder"


def test_erase_deletes_the_folder_and_checks(heads: dict[str, ObjectHead], tmp_path: Path) -> None:
    folder = _concept("sks", heads["sks"]).save(tmp_path / "sks", include_photos=scenes(0, 2))
    library = ConceptLibrary([folder])
    library.rename("sks", "mug")
    library.remove("mug", erase=True)
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []
    assert len(library) == 0
    kept = _concept("sks", heads["sks"]).save(tmp_path / "sks")
    ConceptLibrary([kept]).remove("sks")
    assert kept.exists()


def test_erase_spares_what_is_not_the_concept(
    heads: dict[str, ObjectHead], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _concept("sks", heads["sks"]).save(tmp_path / "a")
    library = ConceptLibrary([folder])
    folder.rename(tmp_path / "b")
    _concept("ohwx", heads["ohwx"]).save(folder)
    with pytest.raises(NotWritableError, match="no longer contains this concept"):
        library.remove("sks", erase=True)
    assert folder.exists()
    assert "sks" in library
    folder.rename(tmp_path / "c")
    _concept("sks", heads["sks"]).save(folder)
    monkeypatch.setattr("shutil.rmtree", lambda *args, **options: None)
    with pytest.raises(NotWritableError, match="could not be erased completely"):
        library.remove("sks", erase=True)
    assert "sks" in library


def test_thousands_of_concepts_are_one_product(heads: dict[str, ObjectHead]) -> None:
    meta, tensors = heads["sks"].state()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (2000, 125)).astype(np.float32)
    library = ConceptLibrary(
        _concept(f"c{i}", ObjectHead.from_state(meta, {**tensors, "coef": tensors["coef"] + row}))
        for i, row in enumerate(noise)
    )
    forget_pictures()
    ENCODER.calls.clear()
    start = time.process_time()
    [found] = library.recognise(scene(7777)[0])
    drawn, first, *later = ENCODER.calls
    assert (drawn, first) == (1, 10), "the picture that the encoder is known by, and the windows"
    assert len(later) <= 2, "small windows, and refined ones, once for all"
    assert [one.identifier for one in found[:2]] == ["c0", "c1"]
    assert len(found) == 2000
    assert all(one.present for one in found)
    assert time.process_time() - start < 60, "a hang, not a benchmark"


def test_one_concepts_folder_is_no_folder_of_concepts(heads: dict[str, ObjectHead], tmp_path: Path) -> None:
    folder = _concept("sks", heads["sks"]).save(tmp_path / "mug")
    with pytest.raises(InputError, match=r"is a single concept(.|\n)*concepts\.add"):
        ConceptLibrary.load(folder)
    assert list(ConceptLibrary.load(tmp_path)) == ["sks"]


def test_a_head_is_set_only_in_the_place_of_the_one_that_is_meant() -> None:
    concept = by_hand()
    library, first = ConceptLibrary([concept]), concept.head
    second, third = copy(first), copy(first)
    assert library.set_head(concept, second, instead_of=first) is True
    assert library.set_head(concept, third, instead_of=first) is False, "somebody else was quicker"
    assert concept.head is second
