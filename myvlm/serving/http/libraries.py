"""Storage of an owner's concepts: a local folder, or an address that fsspec can open.

An address cannot be locked and does not notify of changes. So only one server should write to a library: two
that learn the same word at once leave two concepts, the second of which is ignored when the library is read.
Changes by others are noticed at the next listing, a few seconds later; each concept is written whole or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from hashlib import sha256
from os import stat
from pathlib import Path
from re import sub
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

from myvlm.concepts import collection, editing
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.atomic import changing
from myvlm.concepts.disk.storage import RECORD, concept_folders, read_record
from myvlm.concepts.remote.address import check_may_share_faces, is_biometric, path_or_url
from myvlm.concepts.remote.store import Store
from myvlm.concepts.remote.transfer import fetched_all
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    InputError,
    MissingFileError,
    NotWritableError,
    UnknownConceptError,
)
from myvlm.files.reading import absolute
from myvlm.heads import head_class
from myvlm.text import check_identifier, composed, folded

LISTING_INTERVAL = 5.0
"""Seconds between two listings of an address that look for changes."""


class OwnedLibrary(Protocol):
    """The stored concepts of one owner. If they cannot be written or reached, a `MyVLMError` is raised."""

    def state(self) -> object:
        """A value that changes whenever anyone adds, replaces or removes a concept."""
        ...

    @contextmanager
    def local_folders(self) -> Iterator[list[tuple[Path, str | None]]]:
        """A context with the concepts' local folders, each with its address if it is a copy, else None."""
        ...

    def check_may_hold(self, kind: str, *, face_consent: bool) -> None:
        """Raise InputError unless a concept with that kind of head may be stored there."""
        ...

    def add(self, concept: Concept, *, face_consent: bool = False) -> None:
        """Store a new concept. Raises ConceptExistsError if a word of it is taken."""
        ...

    def replace(self, concept: Concept) -> None:
        """Store a concept that was loaded from there again."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Change a concept's identifier. Raises UnknownConceptError, ConceptExistsError."""
        ...

    def remove(self, identifier: str) -> None:
        """Move a concept to the removed ones. Raises UnknownConceptError."""
        ...

    def erase(self, identifier: str) -> None:
        """Delete a concept and its removed copies, and check that they are gone. Raises as `remove`."""
        ...


def library_at(given: Path | str) -> OwnedLibrary:
    """The library in a folder or at an address, which need not exist yet.

    Raises:
        InputError: a server cannot keep a library at this address.

    >>> library_at("s3://people/anna"), library_at(Path("people/anna"))
    (RemoteLibrary(url='s3://people/anna'), FolderLibrary(folder=PosixPath('people/anna')))
    """
    place = path_or_url(given, "folder of concept folders")
    if isinstance(place, Path):
        return FolderLibrary(place)
    why = None
    if place.startswith("hf://"):
        why = "an address on the hub, whose history keeps erased files"
    elif "::" in place:
        why = "a chained address, which may leave copies"
    elif urlsplit(place).password:
        why = "an address with a password, which would appear in errors and logs"
    if why:
        raise InputError(
            "A server's libraries cannot be stored there.",
            got=why,
            expected="a folder, or an address such as s3://bucket/people",
            fix="choose another place; put a store's credentials into its own settings",
        )
    return RemoteLibrary(place)


@dataclass(frozen=True)
class FolderLibrary:
    """A library in a local folder."""

    folder: Path

    def state(self) -> object:
        try:
            found = stat(self.folder)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    @contextmanager
    def local_folders(self) -> Iterator[list[tuple[Path, str | None]]]:
        yield [(one, None) for one in concept_folders(self.folder.resolve())]

    def check_may_hold(self, kind: str, *, face_consent: bool) -> None:
        """Every kind may be stored on this machine."""

    def add(self, concept: Concept, *, face_consent: bool = False) -> None:
        place = self.folder / folder_name(concept.identifier)
        with changing(absolute(self.folder)):  # else another process might take the word after the check
            collection.check_free(self.folder, concept.identifier)
            if place.exists():
                raise _place_taken_error(concept.identifier)
            concept.save(place)

    def replace(self, concept: Concept) -> None:
        assert concept.folder is not None, "it was loaded from there"
        concept.save(concept.folder)

    def rename(self, old: str, new: str) -> None:
        editing.rename(self.folder, old, new)

    def remove(self, identifier: str) -> None:
        editing.remove(self.folder, identifier)

    def erase(self, identifier: str) -> None:
        editing.erase(self.folder, identifier)


@dataclass(eq=False)
class RemoteLibrary:
    """A library at an address, such as an object store's."""

    url: str
    _listed: tuple[float, object] | None = field(default=None, init=False, repr=False)
    _changes: int = field(default=0, init=False, repr=False)

    def state(self) -> object:
        listed, changes = self._listed, self._changes
        if listed is None or monotonic() - listed[0] > LISTING_INTERVAL:
            listed = monotonic(), Store(self.url).versions(RECORD)
            if changes == self._changes:  # else the listing may predate a change of our own
                self._listed = listed
        return listed[1]

    @contextmanager
    def local_folders(self) -> Iterator[list[tuple[Path, str | None]]]:
        with ExitStack() as stack:
            copies: list[tuple[Path, str]] = []
            with suppress(MissingFileError):
                copies = stack.enter_context(fetched_all(self.url))
            yield list(copies)

    def check_may_hold(self, kind: str, *, face_consent: bool) -> None:
        if is_biometric(head_class(kind)):
            check_may_share_faces(["that person"], self.url, face_consent=face_consent)

    def add(self, concept: Concept, *, face_consent: bool = False) -> None:
        self._check_free(concept.identifier)
        name = folder_name(concept.identifier)
        if f"{name}/{RECORD}" in Store(self.url).names():
            raise _place_taken_error(concept.identifier)
        self._save(concept, f"{self.url}/{name}", face_consent=face_consent)

    def replace(self, concept: Concept) -> None:
        assert concept.url is not None, "it was loaded from there"
        self._save(concept, concept.url, face_consent=True)  # given when it was first stored

    def rename(self, old: str, new: str) -> None:
        concept = self._loaded(old)
        new = check_identifier(new)
        self._check_free(new, but=concept.identifier)
        renamed = copy(concept)
        renamed.identifier = new
        self.replace(renamed)

    def remove(self, identifier: str) -> None:
        name, store = self._name(identifier), Store(self.url)
        there = store.names()
        aside = (
            f"{collection.REMOVED}/{name}{number}" for number in ["", *(f"-{n}" for n in range(2, 1000))]
        )
        target = next(one for one in aside if f"{one}/{RECORD}" not in there)
        files = store.read(one for one in there if one.startswith(f"{name}/"))
        record = {f"{name}/{RECORD}": files.pop(f"{name}/{RECORD}")}
        for some in (files, record):
            store.write({one.replace(name, target, 1): data for one, data in some.items()})
        self._delete(store, name)

    def erase(self, identifier: str) -> None:
        doomed, store = self._names_aside(identifier), Store(self.url)
        try:
            doomed.append(self._name(identifier))
        except UnknownConceptError:
            if not doomed:
                raise
        for name in [*doomed, folder_name(identifier)]:  # and what an interrupted upload may have left
            if name in doomed or f"{name}/{RECORD}" not in store.names():
                self._delete(store, name)

    def _delete(self, store: Store, name: str) -> None:
        """Delete all files under a name, the record first: without it they are no concept."""
        inside = [one for one in store.names() if one.startswith(f"{name}/")]
        with self._invalidating_listing():
            store.delete(one for one in inside if one == f"{name}/{RECORD}")
            store.delete(one for one in inside if one != f"{name}/{RECORD}")
        if left := [one for one in store.names() if one.startswith(f"{name}/")]:
            raise NotWritableError(
                f"{self.url} could not be erased completely.",
                got=", ".join(left[:5]),
                expected="no files under that name",
                fix="delete it yourself",
            )

    def _save(self, concept: Concept, url: str, *, face_consent: bool) -> None:
        with self._invalidating_listing():
            concept.save(url, face_consent=face_consent)

    @contextmanager
    def _invalidating_listing(self) -> Iterator[None]:
        """A context for changes; after it the next `state` lists anew, even if one listed meanwhile."""
        try:
            yield
        finally:
            self._changes += 1
            self._listed = None

    def _words_by_folder(self) -> dict[str, tuple[str, str]]:
        """Folder name → the concept's identifier and the word that it was learned with."""
        words = {}
        with self.local_folders() as folders:
            for path, _ in folders:
                with suppress(ConceptFileError):
                    record = read_record(path)
                    words[path.name] = record.identifier, record.spoken
        return words

    def _check_free(self, word: str, *, but: str | None = None) -> None:
        for identifier, spoken in self._words_by_folder().values():
            if identifier != but and folded(word) & folded(identifier, spoken):
                raise ConceptExistsError(
                    f"The word {word!r} is already in use.",
                    got=repr(identifier),
                    expected="a word that no other concept uses, in upper or lower case",
                    fix="choose another identifier",
                )

    def _name(self, identifier: str) -> str:
        for name, (known, _) in self._words_by_folder().items():
            if known == composed(identifier):
                return name
        raise UnknownConceptError(
            f"There is no concept {identifier!r} at {self.url}.",
            got=identifier,
            expected="the identifier of a concept there",
            fix="list the concepts",
        )

    def _names_aside(self, identifier: str) -> list[str]:
        aside = RemoteLibrary(f"{self.url}/{collection.REMOVED}")._words_by_folder()
        return [
            f"{collection.REMOVED}/{name}"
            for name, (known, _) in aside.items()
            if known == composed(identifier)
        ]

    def _loaded(self, identifier: str) -> Concept:
        return Concept.load(f"{self.url}/{self._name(identifier)}")


def folder_name(identifier: str) -> str:
    """The folder name for an identifier: valid on every file system, and never a path to elsewhere.

    >>> folder_name("sks"), folder_name("..")[:8]
    ('sks-6557b92f', 'concept-')
    """
    readable = sub(r"[^a-z0-9]+", "-", identifier.lower())[:40].strip("-") or "concept"
    return f"{readable}-{sha256(identifier.encode()).hexdigest()[:8]}"


def _place_taken_error(identifier: str) -> ConceptExistsError:
    return ConceptExistsError(
        "There is already a concept of that name.",
        got=identifier,
        expected="an identifier that is not in use",
        fix="choose another identifier, or remove that concept first",
    )
