"""Changes to a collection on disk (adding, renaming, removing and erasing), and the checks before them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.concepts.collection import (
    MAX_NAME_BYTES,
    REMOVED,
    TEMPORARY_NAME_BYTES,
    Entry,
    check_free,
    command,
    entries,
    entries_removed,
    find,
    unreadable,
)
from myvlm.concepts.disk.atomic import changing, copy_with_retries, read_with_retries, recover, replacing
from myvlm.concepts.disk.card import card
from myvlm.concepts.disk.record import ConceptRecord
from myvlm.concepts.disk.storage import (
    CARD,
    PHOTOS,
    RECORD,
    erase_folder,
    read_file,
    read_record,
    tensor_files,
    write_folder,
)
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    MyVLMError,
    NotWritableError,
    UnknownConceptError,
)
from myvlm.files.claims import folder_lock
from myvlm.files.reading import absolute
from myvlm.text import check_identifier, composed

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept
    from myvlm.images import ImageSources


def check_can_write(folder: Path, identifier: str) -> None:
    """Check, before any work is done, that a concept with that identifier may be written to a folder.

    Raises:
        NotWritableError: the folder is neither empty nor a concept folder, is a file, has too long a name,
            or lies where the user may not write.
        ConceptFileError: it holds a concept that cannot be read.
        ConceptExistsError: it holds another concept, or another folder beside it has that word.
    """
    names = [*folder.parent.parts, folder.name + TEMPORARY_NAME_BYTES * "_"]
    if (longest := max(len(os.fsencode(name)) for name in names)) > MAX_NAME_BYTES:
        raise NotWritableError(
            "The name of the folder is too long.",
            got=f"{longest - TEMPORARY_NAME_BYTES} bytes: {folder}",
            expected=f"{MAX_NAME_BYTES - TEMPORARY_NAME_BYTES} bytes at most",
            fix="choose another folder with --out",
        )
    blocked = next((one for one in [folder, *folder.parents] if one.exists() and not one.is_dir()), None)
    inside = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    if blocked or (inside and RECORD not in inside):
        raise NotWritableError(
            f"No concept can be written to {folder}.",
            got=f"{blocked} is a file" if blocked else "a folder with other files in it",
            expected="a new folder, an empty one, or a concept folder",
            fix="choose another folder with --out",
        )
    check_writable(folder)
    if inside and (there := _identifier_in_folder(folder)) != identifier:
        raise ConceptExistsError(
            f"{folder} contains another concept.",
            got=repr(there),
            expected=repr(identifier),
            fix="choose another folder with --out",
        )
    check_free(folder.parent, identifier, but=folder)


def check_writable(place: Path) -> None:
    """Raise NotWritableError, before any work is done, unless a file or folder may be created there."""
    above = next(one for one in absolute(place).parents if one.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise NotWritableError(
            f"{place} cannot be written.",
            got=f"no permission to write to {above}",
            expected="a folder that you may write to",
            fix="check who owns that folder, or choose another",
        )


def load_checked(folder: Path) -> Concept:
    """Load the concept, reading and checking every file. Raises as `Concept.load`."""
    from myvlm.concepts.concept import Concept

    return Concept.load(folder)


def add(collection: Path, folder: Path) -> Entry:
    """Copy a concept folder into the collection, including photos and notes in it.

    Raises:
        MissingFileError, ConceptFileError: it is not a complete concept folder.
        ConceptExistsError: its identifier, its spoken word or its folder name is taken.
        NotWritableError: the collection cannot be written.
    """
    concept = load_checked(folder)
    target = collection / absolute(folder).name.lstrip(".")
    with _changing(collection):
        check_free(collection, concept.identifier, concept.spoken)
        if recover(absolute(target)):
            raise ConceptExistsError(
                f"{target} already exists.",
                got="a folder of that name",
                expected="a folder name that is not in use",
                fix="rename the folder that you want to add, then add it",
            )
        _copy(folder, target)
        return Entry(target, read_record(target))


def save_new(concept: Concept, folder: Path, *, photos: ImageSources | None = None) -> None:
    """Save a concept to a folder of a collection, if its words are still free there.

    Another process may have saved a concept with one of them since the words were checked. This one is then
    saved to `.removed`, and nothing is lost.

    Raises:
        ConceptExistsError: another folder of the collection has one of its words.
        NotWritableError: see `Concept.save`.
    """
    with _changing(folder.parent):
        try:
            check_free(folder.parent, concept.identifier, concept.spoken, but=folder)
        except ConceptExistsError as error:
            aside = concept.save(_unused_path_in_removed(folder), photos)
            raise ConceptExistsError(
                error.what,
                got=f"{error.got}; this one was saved to {aside}",
                expected=error.expected,
                fix=f"remove the other concept, then run: {command('add', str(aside), folder.parent)}",
            ) from error
        concept.save(folder, photos)


def rename(collection: Path, old: str, new: str) -> Entry:
    """Change a concept's identifier in `concept.json` and on its card; learned tensors do not change.

    Raises:
        UnknownConceptError, InputError, ConceptExistsError: see `ConceptLibrary.rename`.
        NotWritableError: the folder cannot be written; it is unchanged.
    """
    new = check_identifier(new)
    with folder_lock(absolute(collection)):  # else a concept that is saved meanwhile would be overwritten
        entry = find(collection, old)
        check_free(collection, new, but=entry.folder)
        whole = load_checked(entry.folder)  # a truncated or altered folder is not rewritten
        found, files = read_with_retries(entry.folder, lambda: _record_and_tensors(entry.folder))
        record = found.model_copy(update={"identifier": new})
        photos = (entry.folder / PHOTOS).is_dir()
        files[CARD] = card(record, whole.head.privacy, photos=photos).encode()
        try:
            write_folder(entry.folder, record, files)
        except NotWritableError as error:
            cause = error.__cause__
            raise _not_writable(entry.folder, cause if isinstance(cause, OSError) else error) from error
    return Entry(entry.folder, record)


def remove(collection: Path, identifier: str) -> Path:
    """Move a concept into `.removed`, and return its new path. A damaged one is given by its folder's name.

    Raises:
        UnknownConceptError: there is no such concept.
        NotWritableError: it cannot be moved.
    """
    try:
        folder = find(collection, identifier).folder
    except UnknownConceptError:
        by_name = {one.name: one for one in unreadable(collection)}
        if identifier not in by_name:
            raise
        folder = by_name[identifier]
    try:
        with folder_lock(absolute(folder).parent):  # else a writer of that folder would find it gone
            target = _unused_path_in_removed(folder)
            target.parent.mkdir(exist_ok=True)
            if folder.is_symlink():  # a relative link would lead elsewhere from there
                target.symlink_to(folder.resolve())
                folder.unlink()
            else:
                folder.rename(target)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return target


def copy_to_removed(folder: Path) -> Path:
    """Copy a concept folder that is about to be replaced into `.removed`, and return the path of the copy.

    Raises:
        NotWritableError: it cannot be copied.
    """
    target = _unused_path_in_removed(folder)
    _copy(folder, target)
    return target


def erase(collection: Path, identifier: str) -> list[Path]:
    """Delete a concept's folder with everything in it, also from `.removed`, and return the deleted paths.

    Raises:
        UnknownConceptError: it is neither in the collection nor in `.removed`.
        NotWritableError: a file of it remains.
    """
    identifier = composed(identifier)
    doomed = [one for one in entries_removed(collection) if one.identifier == identifier]
    if not doomed or any(one.identifier == identifier for one in entries(collection)):
        doomed.insert(0, find(collection, identifier))
    for entry in doomed:
        erase_folder(entry.folder, entry.record.spoken)
    return [entry.folder for entry in doomed]


def _record_and_tensors(folder: Path) -> tuple[ConceptRecord, dict[str, bytes]]:
    """Read `concept.json`, and all files whose digests it lists."""
    record = read_record(folder)
    return record, {name: read_file(folder, name, digest) for name, digest in tensor_files(record).items()}


@contextmanager
def _changing(collection: Path) -> Iterator[None]:
    """Keep other writers out of the collection, which is created if it is missing; see `changing`."""
    try:
        with changing(absolute(collection)):
            yield
    except OSError as error:
        if isinstance(error, MyVLMError):
            raise
        raise _not_writable(collection, error) from error


def _unused_path_in_removed(folder: Path) -> Path:
    """Return an unused path in the `.removed` folder next to `folder`."""
    names = (folder.name if n == 1 else f"{folder.name}-{n}" for n in count(1))
    return next(one for one in (folder.parent / REMOVED / name for name in names) if not os.path.lexists(one))


def _identifier_in_folder(folder: Path) -> str:
    try:
        return read_record(folder).identifier
    except ConceptFileError as error:
        fix = f"move {folder} elsewhere, or choose another folder with --out"
        raise ConceptFileError(error.what, got=error.got, expected=error.expected, fix=fix) from error


def _copy(folder: Path, target: Path) -> None:
    try:
        with replacing(absolute(target)) as fresh:
            copy_with_retries(folder, fresh)
    except OSError as error:
        raise _not_writable(target, error) from error


def _not_writable(place: Path, error: OSError) -> NotWritableError:
    return NotWritableError(
        f"{place} cannot be written.",
        got=f"{type(error).__name__}: {error.strerror or error}",
        expected="a folder that you may write to",
        fix="check who owns the folder, and whether the disk is full",
    )
