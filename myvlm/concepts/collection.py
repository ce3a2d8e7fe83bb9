"""Collections: folders of concept folders on disk, and the operations on them (add, rename, remove, …).

A collection is the counterpart on disk of a `ConceptLibrary`; `folders` converts between the two. Nothing
here loads a model or an encoder. Removed concepts go to its hidden folder `.removed`, unless erased.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.concepts.disk.atomic import copy_with_retries, read_with_retries, recover, replacing
from myvlm.concepts.disk.card import card
from myvlm.concepts.disk.record import ConceptRecord
from myvlm.concepts.disk.storage import (
    CARD,
    PHOTOS,
    RECORD,
    concept_folders,
    erase_folder,
    read_file,
    read_record,
    tensor_files,
    write_folder,
)
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    InputError,
    MissingFileError,
    NotWritableError,
    UnknownConceptError,
)
from myvlm.files.claims import folder_lock
from myvlm.files.reading import absolute
from myvlm.text import check_identifier, composed, folded

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept

DEFAULT = Path("concepts")
REMOVED = ".removed"
UNPORTABLE = re.compile(r'[<>:"|?*]')
"""Characters that some systems forbid in folder names."""
MAX_NAME_BYTES, TEMPORARY_NAME_BYTES = 255, 24
"""Bytes: the longest name that file systems allow; by how much the name of a temporary folder is longer."""


@dataclass(frozen=True)
class Entry:
    """One concept folder and the content of its `concept.json`."""

    folder: Path
    record: ConceptRecord

    @property
    def identifier(self) -> str:
        return self.record.identifier

    @property
    def words(self) -> set[str]:
        """Its identifier and its spoken word, case-folded; no other concept may have either."""
        return folded(self.record.identifier, self.record.spoken)


def existing_or_default(collection: Path | None) -> Path:
    """Return the collection to read from: the given one, which must exist, or `concepts`.

    Raises:
        MissingFileError: the given folder does not exist.
    """
    if collection is not None and not collection.is_dir():
        raise MissingFileError(
            f"There is no folder {collection}.",
            got="a file" if collection.exists() else f"nothing at that path, from {Path.cwd()}",
            expected="a folder of concept folders",
            fix="check the path, or learn a concept into it first",
        )
    return collection or DEFAULT


def single_or_default(given: Sequence[Path] | None) -> Path:
    """Return the collection to write to: the one given, or `concepts`; it need not exist yet.

    Raises:
        InputError: several folders are given, or the one given is a concept folder.
    """
    if given and (len(given) > 1 or (given[0] / RECORD).exists()):
        raise InputError(
            "Concepts can be written to one folder of concept folders only.",
            got=", ".join(map(str, given)),
            expected="one folder of concept folders",
            fix="pass one with --concepts",
        )
    return given[0] if given else DEFAULT


def entries(collection: Path) -> list[Entry]:
    """Return the readable concepts of a collection, sorted by folder name. Raises as `read`."""
    return read(collection)[0]


def read(collection: Path) -> tuple[list[Entry], dict[Path, str]]:
    """Return the readable concepts of a collection, and the unreadable folders with the reason for each.

    Raises:
        ConceptExistsError: two concepts share an identifier or spoken word.
    """
    found, wrong = _read(collection)
    taken: dict[str, Entry] = {}
    for entry in found:
        for word in entry.words:
            twin = taken.setdefault(word, entry)
            if twin is not entry:
                raise ConceptExistsError(
                    f"Two concepts in {collection} use the word {word!r}.",
                    got=f"{twin.folder.name} and {entry.folder.name}",
                    expected="identifiers and learned words that no other concept uses",
                    fix="move one of the two folders elsewhere",
                )
    return found, wrong


def notify_of_damaged(
    collection: Path, notify: Callable[[str], None], damaged: Mapping[Path, str] | None = None
) -> None:
    """Notify that each unreadable concept folder is skipped, and how to move it out of the way.

    Args:
        damaged: the unreadable folders with reasons, if already known from `read`.
    """
    known = _read(collection)[1] if damaged is None else damaged
    for folder, wrong in known.items():
        aside = command("remove", folder.name, collection)
        notify(f"skipping {folder}, which is damaged: {wrong} Move it elsewhere, or run: {aside}")


def command(verb: str, word: str, collection: Path) -> str:
    """Return a `myvlm concepts` command line, quoted for a shell.

    >>> command("add", "my mug", Path("kitchen")), command("remove", "sks", DEFAULT)
    ("myvlm concepts add 'my mug' -c kitchen", 'myvlm concepts remove sks')
    """
    place = [] if collection == DEFAULT else ["-c", str(collection)]
    return shlex.join(["myvlm", "concepts", verb, word, *place])


def find(collection: Path, identifier: str) -> Entry:
    """Return the concept with that identifier. Raises UnknownConceptError."""
    known = entries(collection)
    for entry in known:
        if entry.identifier == composed(identifier):
            return entry
    raise UnknownConceptError(
        f"There is no concept {identifier!r} in {collection}.",
        got=identifier,
        expected="one of " + ", ".join(entry.identifier for entry in known)
        if known
        else "none: the folder is empty",
        fix="see `myvlm concepts list`, or pass another folder with --concepts",
    )


def check_free(collection: Path, *words: str, but: Path | None = None) -> None:
    """Raise ConceptExistsError if a concept in a folder other than `but` has one of the words."""
    for entry in entries(collection):
        same_place = but is not None and absolute(entry.folder) == absolute(but)
        shared = folded(*words) & entry.words
        if shared and not same_place:
            raise ConceptExistsError(
                f"The word {min(shared)!r} is already in use.",
                got=f"{entry.identifier!r} in {entry.folder}, learned as {entry.record.spoken!r}",
                expected="a word that no other concept uses, in upper or lower case",
                fix="choose another identifier, or remove the other concept first",
            )


def default_folder(identifier: str, category: str) -> Path:
    """Return the default folder for a concept. Never a hidden one, which no listing would show.

    A long name is truncated.

    >>> [default_folder(word, "old mug").name for word in ("sks", ".NET", "S*", "...a")]
    ['sks-old-mug', 'NET-old-mug', 'S_-old-mug', 'a-old-mug']
    """
    named = UNPORTABLE.sub("_", f"{identifier}-{category}".replace(" ", "-").lstrip("."))
    short = named.encode()[: MAX_NAME_BYTES - 2 * TEMPORARY_NAME_BYTES].decode(errors="ignore")
    return DEFAULT / short.rstrip(". ")


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
    check_free(collection, concept.identifier, concept.spoken)
    target = collection / absolute(folder).name.lstrip(".")
    if recover(absolute(target)):
        raise ConceptExistsError(
            f"{target} already exists.",
            got="a folder of that name",
            expected="a folder name that is not in use",
            fix="rename the folder that you want to add, then add it",
        )
    _copy(folder, target)
    return Entry(target, read_record(target))


def rename(collection: Path, old: str, new: str) -> Entry:
    """Change a concept's identifier in `concept.json` and on its card; learned tensors do not change.

    Raises:
        UnknownConceptError, InputError, ConceptExistsError: see `ConceptLibrary.rename`.
        NotWritableError: the folder cannot be written; it is unchanged.
    """
    entry = find(collection, old)
    new = check_identifier(new)
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
        by_name = {one.name: one for one in _read(collection)[1]}
        if identifier not in by_name:
            raise
        folder = by_name[identifier]
    target = _unused_path_in_removed(folder)
    try:
        target.parent.mkdir(exist_ok=True)
        with folder_lock(absolute(folder).parent):  # else a writer of that folder would find it gone
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


def entries_removed(collection: Path) -> list[Entry]:
    """Return the readable concepts in `.removed`."""
    return _read(collection / REMOVED)[0]


def _read(collection: Path) -> tuple[list[Entry], dict[Path, str]]:
    found, wrong = [], {}
    for folder in concept_folders(collection):
        try:
            found.append(Entry(folder, read_record(folder)))
        except (ConceptFileError, OSError) as error:
            wrong[folder] = str(error).splitlines()[0]
    return found, wrong


def _record_and_tensors(folder: Path) -> tuple[ConceptRecord, dict[str, bytes]]:
    """Read `concept.json`, and all files whose digests it lists."""
    record = read_record(folder)
    return record, {name: read_file(folder, name, digest) for name, digest in tensor_files(record).items()}


def _unused_path_in_removed(folder: Path) -> Path:
    """Return an unused path in the `.removed` folder next to `folder`."""
    names = (folder.name if n == 1 else f"{folder.name}-{n}" for n in count(1))
    return next(one for one in (folder.parent / REMOVED / name for name in names) if not one.exists())


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
