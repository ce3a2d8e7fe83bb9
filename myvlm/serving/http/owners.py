"""Access tokens, the library of each owner, and the cache of libraries in memory."""

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

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.concepts.gates import FALSE_NAMES_PER_1000
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError, MyVLMError
from myvlm.files.claims import folder_lock
from myvlm.files.reading import read_json
from myvlm.files.writing import write_atomically
from myvlm.runtime.process import ForkSafeLock
from myvlm.serving.http.libraries import OwnedLibrary, library_at
from myvlm.speaking.addressing import Names

_log = logging.getLogger(__name__)

OWNER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Valid owner names; each is a folder name too."""
LOCAL_OWNER = "local"
"""The owner's name if there is only one."""
CONCEPT_OVERHEAD_BYTES = 24 * 1024
"""Approximate size in memory of a concept without its arrays, in bytes."""


@dataclass(frozen=True)
class Access:
    """What a token permits: use of one owner's library, and with `may_change` any change to its concepts."""

    owner: str
    may_change: bool = False


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str = Field(pattern=rf"^{OWNER_NAME.pattern}$")
    may_change: bool = False


class _File(RootModel[dict[str, _Entry]]):
    """The file of owners: digest of a token → what it permits."""


class Tokens:
    """The access tokens of a server, of which only digests are kept.

    Args:
        by_digest: SHA-256 of a token, in hexadecimal → what it permits.
        anonymous: what every request may do, without a token; for servers that only this computer can reach.

    >>> tokens = Tokens({digest("secret"): Access("anna")})
    >>> tokens.access("Bearer secret"), tokens.access("Bearer other"), tokens.access(None)
    (Access(owner='anna', may_change=False), None, None)
    """

    def __init__(self, by_digest: Mapping[str, Access], *, anonymous: Access | None = None) -> None:
        self.by_digest = dict(by_digest)
        self.anonymous = anonymous

    @property
    def owners(self) -> set[str]:
        """All owners with access."""
        known = {access.owner for access in self.by_digest.values()}
        return known | ({self.anonymous.owner} if self.anonymous else set())

    def access(self, authorization: str | None) -> Access | None:
        """What a request's `Authorization` header permits; None if it has no token of this server."""
        if self.anonymous:
            return self.anonymous
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.by_digest.get(digest(token.strip()))


def digest(token: str) -> str:
    """The SHA-256 of a token, in hexadecimal: all that is kept of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_tokens(file: Path) -> Tokens:
    """Read the tokens from a file that `new_token` wrote.

    Raises:
        InputError, MissingFileError: the file cannot be read, or is not such a file.
    """
    try:
        known = _File.model_validate(read_json(file, expected="owners by the digests of tokens")).root
    except ValidationError as error:
        raise InputError(
            f"{file} is not a valid owners file.",
            got=f"{error.error_count()} errors, the first: {error.errors()[0]['msg']}",
            expected='{"<SHA-256 of a token>": {"owner": "anna", "may_change": true}, …}',
            fix="create it with `myvlm token`",
        ) from None
    return Tokens({key: Access(one.owner, one.may_change) for key, one in known.items()})


def new_token(file: Path, owner: str, *, may_change: bool) -> str:
    """Create a token for an owner and add its digest to a file, which is created if it does not exist.

    Raises:
        InputError: the owner's name is not valid.
    """
    if not OWNER_NAME.fullmatch(owner):
        raise InputError(
            "The owner's name is invalid.",
            got=repr(owner),
            expected="1 to 64 lowercase letters, digits, - and _, with a letter or digit first",
            fix="choose another name; it is also the name of a folder",
        )
    token = secrets.token_urlsafe(32)
    with folder_lock(file.parent):  # else one of two that are created at once would be lost
        known = read_tokens(file).by_digest if file.exists() else {}
        known[digest(token)] = Access(owner, may_change)
        entries = {key: {"owner": one.owner, "may_change": one.may_change} for key, one in known.items()}
        write_atomically(file, json.dumps(entries, indent=2) + "\n", what="file of owners", option="--owners")
    return token


class CachedLibrary:
    """A library in memory, with its `Names`.

    Args:
        library: one owner's.
        state: `OwnedLibrary.state` when it was read.
        nbytes: its approximate size.
    """

    def __init__(self, library: ConceptLibrary, state: object, nbytes: int) -> None:
        self.library, self.state, self.nbytes = library, state, nbytes
        self._names: tuple[object, Names] | None = None

    def names(self, backbone: Backbone) -> Names:
        """The library's names, cached until it changes: ten thousand concepts take a second."""
        known, state = self._names, self.library.state
        if known is None or known[0] is not state:
            self._names = known = state, Names(backbone, self.library.values())
        return known[1]


class Owners:
    """The libraries of all owners, each read from storage when it is needed, and cached.

    The storage is authoritative: a library is read again after anyone has added, replaced or removed a
    concept there. Damaged concepts are skipped with a warning, and so are those that were learned only for
    another model and have no description.

    Args:
        folders: owner → folder of concept folders, or an address; if it does not exist, the library is empty.
        fingerprint: the model's.
        device: where encoders run.
        at_most: size of all libraries in memory, approximately, in bytes.
        false_names_per_1000: the limit for each library; see `ConceptLibrary`.

    Raises:
        InputError: a server cannot keep a library at an address.
    """

    def __init__(
        self,
        folders: Mapping[str, Path | str],
        *,
        fingerprint: str,
        device: str,
        at_most: int,
        false_names_per_1000: float | None = FALSE_NAMES_PER_1000,
    ) -> None:
        self._storages = {owner: library_at(folder) for owner, folder in folders.items()}
        self.at_most = at_most
        self.false_names_per_1000 = false_names_per_1000
        self._fingerprint, self._device = fingerprint, device
        self._loaded: OrderedDict[str, CachedLibrary] = OrderedDict()
        self._lock = ForkSafeLock()
        self._locks = {owner: ForkSafeLock() for owner in folders}

    @property
    def nbytes(self) -> int:
        """The approximate size of the libraries in memory."""
        with self._lock:
            return sum(one.nbytes for one in self._loaded.values())

    def storage(self, owner: str) -> OwnedLibrary:
        """The storage of the owner's concepts."""
        return self._storages[owner]

    def lock(self, owner: str) -> ForkSafeLock:
        """The lock to hold while changing the owner's stored concepts."""
        return self._locks[owner]

    def library(self, owner: str) -> ConceptLibrary:
        """The library of this owner alone, as it is stored now. Raises RemoteError."""
        return self.loaded(owner).library

    def loaded(self, owner: str) -> CachedLibrary:
        """The same with its names."""
        storage = self._storages[owner]
        state = storage.state()
        with self._lock:
            known = self._loaded.get(owner)
            if known is not None and known.state == state:
                self._loaded.move_to_end(owner)
                return known
        library, nbytes = self._read(storage)
        loaded = CachedLibrary(library, state, nbytes)
        with self._lock:
            self._loaded[owner] = loaded
            self._loaded.move_to_end(owner)
            while len(self._loaded) > 1 and sum(one.nbytes for one in self._loaded.values()) > self.at_most:
                self._loaded.popitem(last=False)
        return loaded

    def drop_from_cache(self, owner: str) -> None:
        """Drop a library from the cache, so that the next use reads it again."""
        with self._lock:
            self._loaded.pop(owner, None)

    def _read(self, storage: OwnedLibrary) -> tuple[ConceptLibrary, int]:
        library = ConceptLibrary(device=self._device, false_names_per_1000=self.false_names_per_1000)
        nbytes = 0
        with storage.local_folders() as folders:
            for path, url in folders:
                try:
                    if url is None:
                        concept = Concept.load(path, device=self._device, lazy=True)
                    else:
                        concept = Concept.from_copy(path, url, device=self._device)
                    if concept.learned_elsewhere(self._fingerprint):
                        if concept.description is None:
                            _log.warning("skipping %s: it was learned for another model", url or path)
                            continue
                        _log.warning(
                            "%s was learned for another model; its description is used instead", url or path
                        )
                    library.add(concept)
                    nbytes += CONCEPT_OVERHEAD_BYTES + 2 * _array_bytes(path)
                except MyVLMError as error:
                    _log.warning("skipping %s: %s", url or path, error.what)
        return library, nbytes


def _array_bytes(folder: Path) -> int:
    """The size of a concept's array files."""
    arrays = 0
    for place in (folder, folder / "embeddings"):
        if place.is_dir():
            with os.scandir(place) as inside:
                arrays += sum(one.stat().st_size for one in inside if one.name.endswith(".safetensors"))
    return arrays
