"""A concept is renamed, copied, moved or erased while another process saves it, or the change is
interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from myvlm.concepts import collection, editing
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk import atomic
from myvlm.concepts.disk.storage import concept_folders, erase_folder
from myvlm.errors import ConceptExistsError, NotWritableError
from myvlm.files import claims
from tests.support.errors import check_said
from tests.support.taught import by_hand, is_whole, numbered

needs_locks = pytest.mark.skipif(
    claims.fcntl is None, reason="there are no locks on this system; run it on another"
)


def test_one_that_is_saved_while_it_is_renamed_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had one version's record and the other's embedding, and could never be loaded again."""
    place = numbered(1).save(tmp_path / "sks-mug")
    check = editing.load_checked

    def late(folder: Path) -> Concept:
        found = check(folder)
        numbered(2).save(place)
        return found

    monkeypatch.setattr(editing, "load_checked", late)
    entry = editing.rename(tmp_path, "sks", "ohwx")
    concept = Concept.load(place)
    assert is_whole(concept)
    assert (concept.identifier, concept.category) == ("ohwx", "mug 2")
    assert entry.record.category == "mug 2"


@pytest.mark.parametrize("copy", [lambda place: editing.add(place.parents[1] / "b", place).folder,
                                  editing.copy_to_removed])  # fmt: skip
def test_one_that_is_saved_while_it_is_copied_is_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Callable[[Path], Path]
) -> None:
    place = numbered(1).save(tmp_path / "a" / "sks-mug")
    (place / "notes").mkdir()
    (place / "notes" / "1.txt").write_text("mine")
    copied = shutil.copyfile
    swapped: list[Path] = []

    def late(source: Any, target: Any, **options: Any) -> Any:
        copied(source, target, **options)
        if not swapped:
            swapped.append(place.rename(tmp_path / "before"))
            numbered(2).save(place)

    monkeypatch.setattr(shutil, "copyfile", late)
    target = copy(place)
    assert swapped
    assert is_whole(Concept.load(target))
    assert Concept.load(target).category == "mug 2"
    assert not (target / "notes").exists()


def test_a_folder_that_is_replaced_again_and_again_is_not_copied_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = numbered(1).save(tmp_path / "a" / "sks-mug")
    numbers = count()
    # another folder at each access
    monkeypatch.setattr(atomic, "_folder_identity", lambda folder: (next(numbers), 0))
    monkeypatch.setattr(atomic, "PAUSE", 0)
    with pytest.raises(OSError, match="during every attempt"):
        editing.copy_to_removed(place)
    assert not (place.parent / collection.REMOVED).exists()


@needs_locks
def test_a_rename_and_a_save_by_another_thread_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save was overwritten with what the rename had read before it."""
    place = numbered(1).save(tmp_path / "sks-mug")
    check = editing.load_checked

    def late(folder: Path) -> Concept:
        found = check(folder)
        saving.start()
        saving.join(timeout=0.2)
        waited.append(saving.is_alive())
        return found

    waited: list[bool] = []
    saving = Thread(target=lambda: numbered(2).save(place))
    monkeypatch.setattr(editing, "load_checked", late)
    assert editing.rename(tmp_path, "sks", "ohwx").record.category == "mug 1"
    saving.join()
    assert waited == [True]
    assert Concept.load(place).category == "mug 2"


@needs_locks
def test_of_two_that_learn_one_word_at_once_the_second_is_put_aside(tmp_path: Path) -> None:
    """Both were saved, and the collection could not be read any more."""
    first, second = tmp_path / "new" / "sks-mug", tmp_path / "new" / "sks-cup"
    refused: list[ConceptExistsError] = []
    begin = Barrier(2)

    def save(place: Path) -> None:
        begin.wait()
        try:
            editing.save_new(by_hand(), place)
        except ConceptExistsError as error:
            refused.append(error)

    writers = [Thread(target=save, args=(place,)) for place in (first, second)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    [entry], [error] = collection.entries(first.parent), refused
    [aside] = collection.entries_removed(first.parent)
    assert {entry.folder.name, aside.folder.name} == {"sks-mug", "sks-cup"}
    assert str(aside.folder) in str(error.got)
    assert error.fix is not None
    assert error.fix.endswith(collection.command("add", str(aside.folder), first.parent))
    check_said(error)


def test_a_place_that_cannot_be_made_is_refused_with_one_of_our_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for change in (
        lambda: editing.save_new(by_hand(), tmp_path / "file" / "sks-mug"),
        lambda: editing.add(tmp_path / "file", by_hand().save(tmp_path / "sks-mug")),
    ):
        with pytest.raises(NotWritableError) as refused:
            change()
        check_said(refused.value)


@needs_locks
@pytest.mark.parametrize("erased", [True, False])
def test_who_takes_a_concept_away_waits_for_those_who_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, erased: bool
) -> None:
    """Otherwise the files were deleted while being written, or the folder was missing while being read."""
    numbered(1).save(tmp_path / "sks-mug")
    alone, rename, rmtree = [], Path.rename, shutil.rmtree

    def asked(work: Callable[..., Any]) -> Callable[..., Any]:
        def working(*given: Any, **options: Any) -> Any:
            with claims.try_lock(tmp_path) as free:
                alone.append(not free)
            return work(*given, **options)

        return working

    monkeypatch.setattr(Path, "rename", asked(rename))
    monkeypatch.setattr(shutil, "rmtree", asked(rmtree))
    editing.erase(tmp_path, "sks") if erased else editing.remove(tmp_path, "sks")
    assert alone == [True]
    assert concept_folders(tmp_path) == []


def test_what_was_erased_half_is_gone_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a face remained in a folder without a record, and erasing it again was refused."""
    place = by_hand().save(tmp_path / "sks-mug")

    def stopped(folder: Path, **options: Any) -> None:
        (folder / "concept.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            erase_folder(place, "sks")
    assert not place.exists()
    assert any(tmp_path.rglob("head.safetensors"))
    assert concept_folders(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert not erase_folder(place, "sks")
