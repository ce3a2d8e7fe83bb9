"""Who may come in, whose library is whose, and which libraries are in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.storage import concept_folders
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError, MyVLMError
from myvlm.files.reading import read_json
from myvlm.files.writing import write_whole
from myvlm.runtime.locks import OneAtATime

_log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""What owners may be called: each is a folder too."""
LOCAL = "local"
"""The owner where there is but one."""
OF_A_CONCEPT = 24 * 1024
"""Bytes that a concept takes in memory beside its arrays, about."""


@dataclass(frozen=True)
class Access:
    """What a token gives: whose library, and whether concepts of it may be learned, renamed and erased."""

    owner: str
    may_change: bool = False


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str = Field(pattern=rf"^{NAME.pattern}$")
    may_change: bool = False


class _File(RootModel[dict[str, _Entry]]):
    """Digest of a token → whose it is."""


class Tokens:
    """Who comes in with which token; of the tokens only digests are kept.

    Args:
        by_digest: SHA-256 of a token, in hexadecimal → what it gives.
        anonymous: what is given without a token, where nothing but this computer can connect.

    >>> tokens = Tokens({digest("secret"): Access("anna")})
    >>> tokens.access("Bearer secret"), tokens.access("Bearer other"), tokens.access(None)
    (Access(owner='anna', may_change=False), None, None)
    """

    def __init__(self, by_digest: Mapping[str, Access], *, anonymous: Access | None = None) -> None:
        self.by_digest = dict(by_digest)
        self.anonymous = anonymous

    @property
    def owners(self) -> set[str]:
        """All who can come in."""
        known = {access.owner for access in self.by_digest.values()}
        return known | ({self.anonymous.owner} if self.anonymous else set())

    def access(self, authorization: str | None) -> Access | None:
        """What the header of a request gives; None for no token of this server."""
        if self.anonymous:
            return self.anonymous
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.by_digest.get(digest(token.strip()))


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_tokens(file: Path) -> Tokens:
    """The tokens of a file that `new_token` wrote.

    Raises:
        InputError, MissingFileError: it cannot be read, or is something else.
    """
    try:
        known = _File.model_validate(read_json(file, expected="owners by the digests of tokens")).root
    except ValidationError as error:
        raise InputError(
            f"{file} is no file of owners.",
            got=f"{error.error_count()} faults, the first: {error.errors()[0]['msg']}",
            expected='{"<SHA-256 of a token>": {"owner": "anna", "may_change": true}, …}',
            fix="make it with `myvlm token`",
        ) from None
    return Tokens({key: Access(one.owner, one.may_change) for key, one in known.items()})


def new_token(file: Path, owner: str, *, may_change: bool) -> str:
    """Make a token for an owner and note its digest in a file, which is made if it is not there.

    Raises:
        InputError: nobody can be called that.
    """
    if not NAME.fullmatch(owner):
        raise InputError(
            "That cannot be an owner.",
            got=repr(owner),
            expected="1 to 64 small letters, digits, - and _, a letter or digit first",
            fix="choose another word: it is the name of a folder too",
        )
    known = read_tokens(file).by_digest if file.exists() else {}
    token = secrets.token_urlsafe(32)
    known[digest(token)] = Access(owner, may_change)
    entries = {key: {"owner": one.owner, "may_change": one.may_change} for key, one in known.items()}
    write_whole(file, json.dumps(entries, indent=2) + "\n", what="file of owners", option="--owners")
    return token


@dataclass(frozen=True, eq=False)
class _Loaded:
    library: ConceptLibrary
    state: object
    nbytes: int


class Owners:
    """The libraries of all owners, each read from its folder when it is asked for.

    The folder is what counts: a library is read again once something was added to it, replaced or taken out,
    by whomever. Concepts that are damaged or were learned for another model are passed over, with a note.

    Args:
        folders: of concept folders, by owner; one that is not there is an empty library.
        fingerprint: of the model.
        device: where encoders run.
        at_most: bytes of all libraries in memory, about.
    """

    def __init__(self, folders: Mapping[str, Path], *, fingerprint: str, device: str, at_most: int) -> None:
        self.folders = dict(folders)
        self.at_most = at_most
        self._fingerprint, self._device = fingerprint, device
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._lock = OneAtATime()
        self._locks = {owner: OneAtATime() for owner in folders}

    @property
    def nbytes(self) -> int:
        """Of the libraries in memory, about."""
        with self._lock:
            return sum(one.nbytes for one in self._loaded.values())

    @property
    def in_memory(self) -> list[str]:
        """Whose libraries these are, the one that was asked for last at the end."""
        with self._lock:
            return list(self._loaded)

    def lock(self, owner: str) -> OneAtATime:
        """Held by whoever changes the folder."""
        return self._locks[owner]

    def library(self, owner: str) -> ConceptLibrary:
        """The library of one owner and of no other, as its folder is now."""
        folder = self.folders[owner]
        state = _state_of(folder)
        with self._lock:
            known = self._loaded.get(owner)
            if known is not None and known.state == state:
                self._loaded.move_to_end(owner)
                return known.library
        library = self._read(folder)
        loaded = _Loaded(library, state, sum(map(_bytes_of, library.values())))
        with self._lock:
            self._loaded[owner] = loaded
            self._loaded.move_to_end(owner)
            while len(self._loaded) > 1 and sum(one.nbytes for one in self._loaded.values()) > self.at_most:
                self._loaded.popitem(last=False)
        return library

    def let_go(self, owner: str) -> None:
        """Have the library read anew when it is next asked for."""
        with self._lock:
            self._loaded.pop(owner, None)

    def _read(self, folder: Path) -> ConceptLibrary:
        library = ConceptLibrary(device=self._device)
        for one in concept_folders(folder.resolve()):
            try:
                concept = Concept.load(one, device=self._device, lazy=True)
                if concept.learned_elsewhere(self._fingerprint):
                    raise ConceptFileError("It was learned for another model.")
                library.add(concept)
            except MyVLMError as error:
                _log.warning("passing over %s: %s", one, error.what)
        return library


def _state_of(folder: Path) -> object:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _bytes_of(concept: Concept) -> int:
    folder = concept.folder
    arrays = 0
    if folder is not None:
        for place in (folder, folder / "embeddings"):
            with os.scandir(place) as inside:
                arrays += sum(one.stat().st_size for one in inside if one.name.endswith(".safetensors"))
    return OF_A_CONCEPT + 2 * arrays
