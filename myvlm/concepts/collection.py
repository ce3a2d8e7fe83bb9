"""A collection: a folder of concept folders, on disk. No model and no encoder is loaded here.

It is what a `ConceptLibrary` is in memory; `folders` makes the one of the other.

What is removed goes to the hidden folder `.removed` in it, unless it is to be erased.
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

from myvlm.concepts.disk.atomic import copy_steadily, read_steadily, recover, replacing
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
from myvlm.files.claims import writing_in
from myvlm.files.reading import absolute
from myvlm.text import check_identifier, composed, folded

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept

DEFAULT = Path("concepts")
REMOVED = ".removed"
UNPORTABLE = re.compile(r'[<>:"|?*]')
"""What some systems forbid in the name of a folder."""
LONGEST_NAME, BESIDE = 255, 24
"""Bytes of a name that systems take, and those more that a folder has which is written beside its place."""


@dataclass(frozen=True)
class Entry:
    """One concept folder and what its `concept.json` says."""

    folder: Path
    record: ConceptRecord

    @property
    def identifier(self) -> str:
        return self.record.identifier

    @property
    def words(self) -> set[str]:
        """What it is called and what it was learned with, folded; no other concept may have one of them."""
        return folded(self.record.identifier, self.record.spoken)


def chosen(collection: Path | None) -> Path:
    """The collection that a user means: the one named, which must be there, or `concepts`.

    Raises:
        MissingFileError: there is no such folder.
    """
    if collection is not None and not collection.is_dir():
        raise MissingFileError(
            f"There is no folder {collection}.",
            got="a file" if collection.exists() else f"nothing at that path, from {Path.cwd()}",
            expected="a folder of concept folders",
            fix="check the path, or learn a concept into it first",
        )
    return collection or DEFAULT


def only_one(given: Sequence[Path] | None) -> Path:
    """The collection that concepts are put into: the one named, or `concepts`; it need not be there yet.

    Raises:
        InputError: several are named, or what is named is a concept.
    """
    if given and (len(given) > 1 or (given[0] / RECORD).exists()):
        raise InputError(
            "Concepts go into one collection.",
            got=", ".join(map(str, given)),
            expected="one folder of concept folders",
            fix="name one with --concepts",
        )
    return given[0] if given else DEFAULT


def entries(collection: Path) -> list[Entry]:
    """Those concepts of a collection that can be read, by folder name. Raises as `read`."""
    return read(collection)[0]


def read(collection: Path) -> tuple[list[Entry], dict[Path, str]]:
    """The concepts of a collection, and the folders that cannot be read with what is wrong with each.

    Raises:
        ConceptExistsError: two of them have one word, which they are called or were learned with.
    """
    found, wrong = _read(collection)
    taken: dict[str, Entry] = {}
    for entry in found:
        for word in entry.words:
            twin = taken.setdefault(word, entry)
            if twin is not entry:
                raise ConceptExistsError(
                    f"Two concepts in {collection} have the word {word!r}.",
                    got=f"{twin.folder.name} and {entry.folder.name}",
                    expected="words of its own for each: what it is called, and what it was learned with",
                    fix="move one of the two folders elsewhere",
                )
    return found, wrong


def mention_damaged(
    collection: Path, notify: Callable[[str], None], damaged: Mapping[Path, str] | None = None
) -> None:
    """Say of each concept that cannot be read that it is passed over, and how it is put aside.

    Args:
        damaged: those folders, where they are known.
    """
    known = _read(collection)[1] if damaged is None else damaged
    for folder, wrong in known.items():
        aside = command("remove", folder.name, collection)
        notify(f"passing over {folder}, which is damaged: {wrong} Move it elsewhere, or: {aside}")


def command(verb: str, word: str, collection: Path) -> str:
    """A `myvlm concepts` command as it is typed.

    >>> command("add", "my mug", Path("kitchen")), command("remove", "sks", DEFAULT)
    ("myvlm concepts add 'my mug' -c kitchen", 'myvlm concepts remove sks')
    """
    place = [] if collection == DEFAULT else ["-c", str(collection)]
    return shlex.join(["myvlm", "concepts", verb, word, *place])


def find(collection: Path, identifier: str) -> Entry:
    """The concept of that identifier. Raises UnknownConceptError."""
    known = entries(collection)
    for entry in known:
        if entry.identifier == composed(identifier):
            return entry
    raise UnknownConceptError(
        f"No concept {identifier!r} is in {collection}.",
        got=identifier,
        expected="one of " + ", ".join(entry.identifier for entry in known) if known else "it is empty",
        fix="see `myvlm concepts list`, or name another folder with --concepts",
    )


def check_free(collection: Path, *words: str, but: Path | None = None) -> None:
    """Raise ConceptExistsError if another folder than `but` holds a concept that has one of the words."""
    for entry in entries(collection):
        same_place = but is not None and absolute(entry.folder) == absolute(but)
        shared = folded(*words) & entry.words
        if shared and not same_place:
            raise ConceptExistsError(
                f"The word {min(shared)!r} is taken.",
                got=f"{entry.identifier!r} in {entry.folder}, learned as {entry.record.spoken!r}",
                expected="a word that differs from those of the others in more than upper and lower case",
                fix="take another word, or remove the other concept first",
            )


def place_for(identifier: str, category: str) -> Path:
    """Where a concept goes that is given no folder: never a hidden one, which no list would show.

    A long name is cut.

    >>> [place_for(word, "old mug").name for word in ("sks", ".NET", "S*", "...a")]
    ['sks-old-mug', 'NET-old-mug', 'S_-old-mug', 'a-old-mug']
    """
    named = UNPORTABLE.sub("_", f"{identifier}-{category}".replace(" ", "-").lstrip("."))
    short = named.encode()[: LONGEST_NAME - 2 * BESIDE].decode(errors="ignore")
    return DEFAULT / short.rstrip(". ")


def check_place(folder: Path, identifier: str) -> None:
    """Raise, before any work is done, unless a concept of that identifier may be written there.

    Raises:
        NotWritableError: it is something else than a concept folder, and not empty; or not a folder at all;
            or lies where nothing may be written.
        ConceptFileError: it holds a concept that cannot be read.
        ConceptExistsError: it holds another concept, or the identifier is taken beside it.
    """
    names = [*folder.parent.parts, folder.name + BESIDE * "_"]
    if (longest := max(len(os.fsencode(name)) for name in names)) > LONGEST_NAME:
        raise NotWritableError(
            "No concept can be written to a folder of so long a name.",
            got=f"{longest - BESIDE} bytes: {folder}",
            expected=f"{LONGEST_NAME - BESIDE} bytes at the most",
            fix="name another folder with --out",
        )
    blocked = next((one for one in [folder, *folder.parents] if one.exists() and not one.is_dir()), None)
    inside = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    if blocked or (inside and RECORD not in inside):
        raise NotWritableError(
            f"No concept can be written to {folder}.",
            got=f"{blocked} is a file" if blocked else "a folder with other things in it",
            expected="a new folder, an empty one, or a concept folder",
            fix="name another folder with --out",
        )
    check_writable(folder)
    if inside and (there := _identifier_there(folder)) != identifier:
        raise ConceptExistsError(
            f"{folder} holds another concept.",
            got=repr(there),
            expected=repr(identifier),
            fix="name another folder with --out",
        )
    check_free(folder.parent, identifier, but=folder)


def check_writable(place: Path) -> None:
    """Raise NotWritableError, before any work is done, unless a file or folder may be put in that place."""
    above = next(one for one in absolute(place).parents if one.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise NotWritableError(
            f"{place} cannot be written.",
            got=f"{above}, where you may not write",
            expected="a place you may write to",
            fix="check who owns that folder, or name another place",
        )


def check_whole(folder: Path) -> Concept:
    """The concept, every file of it read and checked. Raises as `Concept.load` does."""
    from myvlm.concepts.concept import Concept

    return Concept.load(folder)


def add(collection: Path, folder: Path) -> Entry:
    """Copy a concept folder into the collection, photos and notes in it included.

    Raises:
        MissingFileError, ConceptFileError: it is no whole concept folder.
        ConceptExistsError: a word of it or its folder name is taken.
        NotWritableError: the collection cannot be written.
    """
    concept = check_whole(folder)
    check_free(collection, concept.identifier, concept.spoken)
    target = collection / absolute(folder).name.lstrip(".")
    if recover(absolute(target)):
        raise ConceptExistsError(
            f"There is a {target} already.",
            got="a folder of that name",
            expected="a name that is not taken",
            fix="rename the folder that you want to add, then add it",
        )
    _copy(folder, target)
    return Entry(target, read_record(target))


def rename(collection: Path, old: str, new: str) -> Entry:
    """Call a concept by another word: `concept.json` and its card change, learned numbers do not.

    Raises:
        UnknownConceptError, InputError, ConceptExistsError: see `ConceptLibrary.rename`.
        NotWritableError: the folder cannot be written; it is as it was.
    """
    entry = find(collection, old)
    new = check_identifier(new)
    check_free(collection, new, but=entry.folder)
    whole = check_whole(entry.folder)  # a folder that was cut or altered is not written again
    found, files = read_steadily(entry.folder, lambda: _record_and_tensors(entry.folder))
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
    """Move a concept out of the way, into `.removed`; the new place. A damaged one goes by its folder's name.

    Raises:
        UnknownConceptError: there is none.
        NotWritableError: it cannot be moved.
    """
    try:
        folder = find(collection, identifier).folder
    except UnknownConceptError:
        by_name = {one.name: one for one in _read(collection)[1]}
        if identifier not in by_name:
            raise
        folder = by_name[identifier]
    target = _room_among_removed(folder)
    try:
        target.parent.mkdir(exist_ok=True)
        with writing_in(absolute(folder).parent):  # or who writes it finds it gone
            folder.rename(target)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return target


def copy_aside(folder: Path) -> Path:
    """Copy a concept folder that is about to be replaced into `.removed`; the new place.

    Raises:
        NotWritableError: it cannot be copied.
    """
    target = _room_among_removed(folder)
    _copy(folder, target)
    return target


def erase(collection: Path, identifier: str) -> list[Path]:
    """Delete a concept with all that is in its folder, here and among what was removed before.

    Raises:
        UnknownConceptError: it is in neither.
        NotWritableError: something of it remains.
    """
    identifier = composed(identifier)
    doomed = [one for one in entries_removed(collection) if one.identifier == identifier]
    if not doomed or any(one.identifier == identifier for one in entries(collection)):
        doomed.insert(0, find(collection, identifier))
    for entry in doomed:
        erase_folder(entry.folder, entry.record.spoken)
    return [entry.folder for entry in doomed]


def entries_removed(collection: Path) -> list[Entry]:
    """What `remove` has put aside; what cannot be read is passed over."""
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
    """What `concept.json` says, and the files whose digests it says."""
    record = read_record(folder)
    return record, {name: read_file(folder, name, digest) for name, digest in tensor_files(record).items()}


def _room_among_removed(folder: Path) -> Path:
    """A place in the `.removed` beside a folder that nothing has yet."""
    names = (folder.name if n == 1 else f"{folder.name}-{n}" for n in count(1))
    return next(one for one in (folder.parent / REMOVED / name for name in names) if not one.exists())


def _identifier_there(folder: Path) -> str:
    try:
        return read_record(folder).identifier
    except ConceptFileError as error:
        fix = f"move {folder} elsewhere, or name another folder with --out"
        raise ConceptFileError(error.what, got=error.got, expected=error.expected, fix=fix) from error


def _copy(folder: Path, target: Path) -> None:
    try:
        with replacing(absolute(target)) as fresh:
            copy_steadily(folder, fresh)
    except OSError as error:
        raise _not_writable(target, error) from error


def _not_writable(place: Path, error: OSError) -> NotWritableError:
    return NotWritableError(
        f"{place} cannot be written.",
        got=f"{type(error).__name__}: {error.strerror or error}",
        expected="a place you may write to",
        fix="check who owns the folder, and whether the disk is full",
    )
