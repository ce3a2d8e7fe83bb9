"""Collections: folders of concept folders on disk, and finding and checking the concepts in them.

A collection is the counterpart on disk of a `ConceptLibrary`; `folders` converts between the two, `editing`
changes it. Nothing here loads a model or an encoder. Removed concepts go to its hidden folder `.removed`,
unless erased.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from myvlm.concepts.disk.record import ConceptRecord
from myvlm.concepts.disk.storage import RECORD, concept_folders, read_record
from myvlm.concepts.refusals import unknown_identifier
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    InputError,
    MissingFileError,
    first_line,
)
from myvlm.files.reading import absolute
from myvlm.text import composed, folded

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
    known = unreadable(collection) if damaged is None else damaged
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
    raise unknown_identifier(
        identifier,
        [entry.identifier for entry in known],
        place=str(collection),
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


def entries_removed(collection: Path) -> list[Entry]:
    """Return the readable concepts in `.removed`."""
    return _read(collection / REMOVED)[0]


def unreadable(collection: Path) -> dict[Path, str]:
    """Return the unreadable concept folders of a collection, with the reason for each."""
    return _read(collection)[1]


def _read(collection: Path) -> tuple[list[Entry], dict[Path, str]]:
    found, wrong = [], {}
    for folder in concept_folders(collection):
        try:
            found.append(Entry(folder, read_record(folder)))
        except (ConceptFileError, OSError) as error:
            wrong[folder] = first_line(error)
    return found, wrong
