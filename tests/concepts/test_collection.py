"""A collection of concepts on disk, as commands use it: lookup, obstacles, and replaced folders."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from myvlm.concepts import collection, editing
from myvlm.concepts.collection import DEFAULT, REMOVED, single_or_default
from myvlm.concepts.concept import Concept
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    InputError,
    MissingFileError,
    NotWritableError,
    UnknownConceptError,
)
from tests.support.errors import check_said


@pytest.fixture
def shelf(concept: Concept, tmp_path: Path) -> Path:
    """A collection of `sks`, and of `Anna`, learned as `zwx`."""
    place = tmp_path / "shelf"
    concept.save(place / "mug")
    dataclasses.replace(concept, identifier="Anna", spoken="zwx").save(place / "anna")
    return place


def names(place: Path) -> list[str]:
    return sorted(one.name for one in place.iterdir())


def test_which_collection_is_meant(shelf: Path, tmp_path: Path) -> None:
    assert collection.existing_or_default(None) == DEFAULT
    assert collection.existing_or_default(shelf) == shelf
    (tmp_path / "file").touch()
    for place, got in ((tmp_path / "file", "a file"), (tmp_path / "none", "nothing at that path")):
        with pytest.raises(MissingFileError, match=got) as raised:
            collection.existing_or_default(place)
        check_said(raised.value)
    assert single_or_default(None) == single_or_default([]) == DEFAULT
    assert single_or_default([shelf]) == shelf
    assert single_or_default([tmp_path / "new"]) == tmp_path / "new", "it need not be there yet"
    for given in ([shelf, tmp_path / "new"], [shelf / "mug"]):
        with pytest.raises(InputError, match="one folder of concept folders only") as raised:
            single_or_default(given)
        assert str(given[0]) in str(raised.value.got)
        check_said(raised.value)


def test_concepts_are_found_by_what_they_are_called(shelf: Path, tmp_path: Path) -> None:
    assert [one.identifier for one in collection.entries(shelf)] == ["Anna", "sks"], "by folder name"
    assert collection.find(shelf, "sks").folder == shelf / "mug"
    with pytest.raises(UnknownConceptError, match="one of Anna, sks") as raised:
        collection.find(shelf, "zwx")
    check_said(raised.value)
    with pytest.raises(UnknownConceptError, match="none: it is empty"):
        collection.find(tmp_path / "none", "sks")


def test_a_word_belongs_to_one_concept(shelf: Path, concept: Concept) -> None:
    collection.check_free(shelf, "ohwx")
    collection.check_free(shelf, "SKS", but=shelf / "mug")
    for word in ("SKS", "anna", "ZWX"):
        with pytest.raises(ConceptExistsError, match=f"(?i)'{word}' is already in use") as raised:
            collection.check_free(shelf, "ohwx", word)
        check_said(raised.value)
    dataclasses.replace(concept, identifier="zwx", spoken="zwx").save(shelf / "twin")
    with pytest.raises(ConceptExistsError, match="use the word 'zwx'") as raised:
        collection.entries(shelf)
    assert raised.value.got == "anna and twin"
    check_said(raised.value)


def test_a_place_is_looked_at_before_any_work(shelf: Path, tmp_path: Path) -> None:
    editing.check_can_write(shelf / "new", "ohwx")
    editing.check_can_write(shelf / "mug", "sks")
    (shelf / "empty").mkdir()
    editing.check_can_write(shelf / "empty", "ohwx")
    with pytest.raises(ConceptExistsError, match="contains another concept") as raised:
        editing.check_can_write(shelf / "mug", "ohwx")
    assert (raised.value.got, raised.value.expected) == ("'sks'", "'ohwx'")
    with pytest.raises(ConceptExistsError, match="is already in use"):
        editing.check_can_write(shelf / "new", "sks")
    (tmp_path / "file").touch()
    for place, got in ((tmp_path / "file" / "deep", "file is a file"), (tmp_path, "other files in it")):
        with pytest.raises(NotWritableError, match=got) as refused:
            editing.check_can_write(place, "ohwx")
        check_said(refused.value)
    (shelf / "mug" / "concept.json").write_text("{}")
    with pytest.raises(ConceptFileError, match=f"move {re.escape(str(shelf / 'mug'))} elsewhere"):
        editing.check_can_write(shelf / "mug", "sks")


def test_a_linked_concept_is_removed_and_added_again(shelf: Path, tmp_path: Path) -> None:
    """A relative link that was moved led nowhere, so the concept could be neither restored nor erased."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mug").symlink_to(Path("..") / shelf.name / "mug")
    removed = editing.remove(tmp_path / "linked", "sks")
    assert not (tmp_path / "linked" / "mug").is_symlink()
    assert editing.add(tmp_path / "linked", removed).identifier == "sks"
    assert (shelf / "mug").is_dir()


def test_a_long_name_is_cut_to_one_that_can_be_made(concept: Concept, tmp_path: Path) -> None:
    words = (("sks", "m" * 240), ("\U00010330" * 64, "mug"), ("sks", "m" * 202 + ". m"))
    for number, (identifier, category) in enumerate(words):
        name = collection.default_folder(identifier, category).name
        assert name.startswith(identifier[:40])
        assert name == name.rstrip(". ")
        own = dataclasses.replace(concept, identifier=identifier, spoken=identifier, category=category)
        place = tmp_path / str(number) / f"{name}-12"
        editing.check_can_write(place, identifier)
        own.save(place)
        assert editing.remove(place.parent, identifier) == place.parent / REMOVED / place.name
    assert collection.default_folder("sks", "mug").name == "sks-mug"
    for place in (tmp_path / "new" / ("m" * 240), tmp_path / ("m" * 256) / "sks"):
        with pytest.raises(NotWritableError, match="name of the folder is too long") as raised:
            editing.check_can_write(place, "sks")
        check_said(raised.value)


def test_what_is_to_be_replaced_is_copied_aside(shelf: Path) -> None:
    (shelf / "mug" / "notes.txt").write_text("a gift")
    assert editing.copy_to_removed(shelf / "mug") == shelf / REMOVED / "mug"
    assert editing.copy_to_removed(shelf / "mug") == shelf / REMOVED / "mug-2"
    assert (shelf / REMOVED / "mug-2" / "notes.txt").read_text() == "a gift"
    assert collection.find(shelf, "sks").folder == shelf / "mug"
    assert names(shelf) == [REMOVED, "anna", "mug"]


def test_one_is_copied_in_with_what_lies_beside_it(shelf: Path, concept: Concept, tmp_path: Path) -> None:
    (shelf / "mug" / "notes.txt").write_text("a gift")
    place = tmp_path / "kitchen"
    entry = editing.add(place, shelf / "mug")
    assert (entry.folder, entry.identifier) == (place / "mug", "sks")
    assert (place / "mug" / "notes.txt").read_text() == "a gift"
    with pytest.raises(ConceptExistsError, match="is already in use"):
        editing.add(place, shelf / "mug")
    dataclasses.replace(concept, identifier="ohwx", spoken="ohwx").save(tmp_path / "mug")
    with pytest.raises(ConceptExistsError, match="mug already") as raised:
        editing.add(place, tmp_path / "mug")
    check_said(raised.value)
    assert collection.find(place, "sks").folder == place / "mug"
    hidden = dataclasses.replace(concept, identifier="ohwx", spoken="ohwx").save(tmp_path / ".hidden")
    assert editing.add(place, hidden).folder == place / "hidden", "no list would show a hidden one"


def test_what_is_renamed_keeps_what_it_learned(shelf: Path) -> None:
    before = (shelf / "mug" / "head.safetensors").read_bytes()
    assert editing.rename(shelf, "sks", "my mug").folder == shelf / "mug"
    after = Concept.load(shelf / "mug")
    assert (after.identifier, after.spoken) == ("my mug", "sks")
    assert (shelf / "mug" / "head.safetensors").read_bytes() == before
    assert "my mug" in (shelf / "mug" / "README.md").read_text()
    with pytest.raises(ConceptExistsError, match="is already in use"):
        editing.rename(shelf, "my mug", "anna")
    (shelf / "anna" / "head.safetensors").write_bytes(before[:-1])
    with pytest.raises(ConceptFileError):
        editing.rename(shelf, "Anna", "Ann")
    assert collection.find(shelf, "Anna").folder == shelf / "anna", "one that is cut is not written again"


def test_what_is_removed_is_put_aside_and_erased_from_both_places(shelf: Path, concept: Concept) -> None:
    assert editing.remove(shelf, "sks") == shelf / REMOVED / "mug"
    concept.save(shelf / "mug")
    assert editing.remove(shelf, "sks") == shelf / REMOVED / "mug-2"
    concept.save(shelf / "mug")
    assert editing.remove(shelf, "sks") == shelf / REMOVED / "mug-3"
    assert [one.identifier for one in collection.entries_removed(shelf)] == ["sks"] * 3
    assert [one.identifier for one in collection.entries(shelf)] == ["Anna"]
    concept.save(shelf / "mug")
    gone = editing.erase(shelf, "sks")
    assert gone[0] == shelf / "mug"
    assert sorted(one.name for one in gone[1:]) == ["mug", "mug-2", "mug-3"]
    assert names(shelf) == [REMOVED, "anna"]
    assert names(shelf / REMOVED) == []
    editing.remove(shelf, "Anna")
    assert editing.erase(shelf, "Anna") == [shelf / REMOVED / "anna"], "one that was put aside alone"
    with pytest.raises(UnknownConceptError):
        editing.erase(shelf, "Anna")


def test_what_cannot_be_moved_stays_and_says_why(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(NotWritableError, match="mug cannot be written") as raised:
        editing.remove(shelf, "sks")
    check_said(raised.value)
    assert raised.value.got == "OSError: No space left on device"
    assert collection.find(shelf, "sks").folder == shelf / "mug"


def test_a_damaged_one_goes_by_the_name_of_its_folder(shelf: Path) -> None:
    (shelf / "mug" / "concept.json").write_text("{}")
    found, wrong = collection.read(shelf)
    assert [one.identifier for one in found] == ["Anna"]
    assert list(wrong) == [shelf / "mug"]
    told: list[str] = []
    collection.notify_of_damaged(shelf, told.append)
    collection.notify_of_damaged(shelf, told.append, wrong)
    assert told[0] == told[1]
    assert f"skipping {shelf / 'mug'}, which is damaged: {wrong[shelf / 'mug']}" in told[0]
    assert f"myvlm concepts remove mug -c {shelf}" in told[0]
    with pytest.raises(UnknownConceptError):
        editing.remove(shelf, "sks")
    assert editing.remove(shelf, "mug") == shelf / REMOVED / "mug"
    assert names(shelf) == [REMOVED, "anna"]
