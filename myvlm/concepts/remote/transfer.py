"""Downloading concepts from a remote address into a temporary folder, and publishing concepts at one.

At an address `concept.json` is the same as on disk, and lists the digest of every tensor file. The name of a
tensor file contains the start of its digest, `head.0f3c….safetensors`, and `concept.json` is written last:
until then the previous concept stays readable, even if the upload fails. A folder that was copied there by
other means, with plain file names, is read as well. On the hub names are plain: an upload is one commit.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from myvlm.concepts.disk.contents import Packed
from myvlm.concepts.disk.record import ConceptRecord, text_of
from myvlm.concepts.disk.storage import (
    CARD,
    RECORD,
    check_same,
    read_record,
    tensor_files,
)
from myvlm.concepts.remote import hub
from myvlm.concepts.remote.store import Store
from myvlm.errors import ConceptFileError, InputError, MissingFileError, MyVLMError, NotWritableError

_log = logging.getLogger(__name__)

TRIES = 3
"""The most attempts to read a concept that keeps being replaced during the read."""

_OURS = re.compile(
    r"(?:head|examples|embeddings/[^/]+?)(?:\.[0-9a-f]{16})?\.safetensors|concept\.json|README\.md"
)
_BESIDE = frozenset({".gitattributes"})
"""Files that the hub adds to each new repository."""


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a temporary local folder with a copy of the concept at an address; errors name the address.

    Raises:
        MissingFileError, ConceptFileError, RemoteError: see `reaching`.
    """
    with _named_after(url) as folder:
        store = Store(url)
        _fetch_steadily(store, {"": folder})
        if not (folder / RECORD).exists():
            raise MissingFileError(
                f"There is no concept at {url}.",
                got=f"no {RECORD}",
                expected="a concept that you may see",
                fix="check the spelling; where it is private, log in first",
            )
        yield folder


@contextmanager
def fetched_all(url: str) -> Iterator[list[tuple[Path, str]]]:
    """Yield temporary local copies of all concepts under an address, each with its own address.

    Raises:
        InputError: the address is that of a concept itself.
        MissingFileError, ConceptFileError, RemoteError: see `reaching`.
    """
    with _named_after(url) as folder:
        store = Store(url)
        if store.read([RECORD], or_denied=True):
            raise InputError(
                f"{url} is a concept itself.",
                got=f"a {RECORD}",
                expected="concepts in folders at that address",
                fix=f"load the address that it lies under, or add it: concepts.add({url!r})",
            )
        _fetch_steadily(store, {name: folder / name for name in store.folders()})
        found = sorted(one.parent.name for one in folder.glob(f"*/{RECORD}"))
        yield [(folder / name, f"{url}/{name}") for name in found]


def is_concept(url: str) -> bool:
    """Whether the address itself (not a folder under it) holds a concept."""
    return RECORD in Store(url).read([RECORD], or_denied=True)


def records_at(url: str) -> dict[str, ConceptRecord]:
    """Return the records of all concepts under an address, by folder name."""
    store = Store(url)
    with suppress(MissingFileError):
        names = store.folders()
        found = store.read([f"{name}/{RECORD}" for name in names], or_denied=True)
        with TemporaryDirectory() as place:
            return {
                name.split("/")[0]: _record(data, Path(place) / name.split("/")[0])
                for name, data in found.items()
            }
    return {}


def check_room(url: str, identifier: str) -> None:
    """Raise NotWritableError unless the address is empty, or holds an earlier copy of that concept."""
    _check_room(Store(url), {"": (identifier, identifier)})


def publish(url: str, packed: Mapping[str, Packed], *, private: bool = True) -> None:
    """Upload concepts to an address.

    Args:
        url: the address.
        packed: folder name under the address → concept; the name "" is the address itself.
        private: on the hub, create a private repository, and refuse an existing public one.

    Raises:
        NotWritableError: no permission to write, or something else is there, which is unchanged.
        InputError, MissingPackageError, RemoteError: see `reaching`.
    """
    store, place = Store(url), hub.parsed(url)
    before = _check_room(
        store, {name: (one.record.identifier, one.record.spoken) for name, one in packed.items()}
    )
    if place is None:
        _put(store, packed, before)
        return
    hub.ready(place, url, private=private)
    put: dict[str, bytes] = {}
    for name, one in packed.items():
        put |= {_in(name, file): data for file, data in one.files.items()}
        put[_in(name, RECORD)] = text_of(one.record)
    there = store.names()
    gone = {one for name in packed for one in there if _is_ours(name, one)} - set(put)
    words = ", ".join(one.record.identifier for one in packed.values())
    hub.commit(place, url, put, sorted(gone), message=f"Save {words} with myvlm")


def _put(store: Store, packed: Mapping[str, Packed], before: Mapping[str, bytes]) -> None:
    fresh = {name: _fresh(one) for name, one in packed.items()}
    waiting = dict(fresh)
    try:
        store.write({_in(name, file): data for name, files in fresh.items() for file, data in files.items()})
        for name, one in packed.items():
            store.write({_in(name, CARD): one.files[CARD]})
            store.write({_in(name, RECORD): text_of(one.record)})
            del waiting[name]
    except BaseException:
        for name, files in waiting.items():
            kept = _named_in(before.get(name))
            with suppress(MyVLMError):
                store.delete(_in(name, file) for file in files if file not in kept)
        raise
    try:
        _tidy(store, fresh)
    except MyVLMError as error:
        _log.warning("What was replaced at %s is not taken away: %s", store.url, error.what)


def _tidy(store: Store, fresh: Mapping[str, Mapping[str, bytes]]) -> None:
    """Delete files that `concept.json` no longer lists; restore listed ones that another writer deleted."""
    there = store.names()
    now = store.read([_in(name, RECORD) for name in fresh])
    for name, files in fresh.items():
        if _named_in(now.get(_in(name, RECORD))) != set(files):
            continue  # another writer has replaced this concept meanwhile, and deletes its files
        store.write({_in(name, one): data for one, data in files.items() if _in(name, one) not in there})
        kept = {_in(name, one) for one in (*files, RECORD, CARD)}
        _take_away(store, name, [one for one in there if _is_ours(name, one) and one not in kept])


def _take_away(store: Store, name: str, doomed: Sequence[str]) -> None:
    """Delete files of a concept, and restore those that another writer's `concept.json` lists by then.

    If that writer checks its files after the deletion, it restores them itself; if before, this call does.
    """
    held = store.read(doomed)
    if not held:
        return
    store.delete(held)
    now = _named_in(store.read([_in(name, RECORD)]).get(_in(name, RECORD)))
    store.write({one: data for one, data in held.items() if one in {_in(name, own) for own in now}})


def _fetch_steadily(store: Store, wanted: Mapping[str, Path]) -> None:
    """Download concepts into folders, retrying those that were replaced meanwhile."""
    for _ in range(TRIES):
        wanted = _fetch(store, wanted)
        if not wanted:
            return


def _fetch(store: Store, wanted: Mapping[str, Path]) -> dict[str, Path]:
    """Download concepts into folders once.

    Args:
        store: the address.
        wanted: folder name under the address → local folder.

    Returns:
        The entries of `wanted` with a missing or wrong tensor file, as happens while a concept is replaced.
    """
    records = store.read([_in(name, RECORD) for name in wanted])
    files: dict[str, tuple[str, str, str]] = {}  # remote name, with digest → (concept, local name, digest)
    for name, folder in wanted.items():
        data = records.get(_in(name, RECORD))
        with suppress(ConceptFileError):  # raised again when the folder is loaded
            for file, digest in (tensor_files(_record(data, folder)) if data is not None else {}).items():
                files[_in(name, _fresh_name(file, digest))] = name, file, digest
    found = store.read(files, or_denied=True)
    plain = {_in(files[one][0], files[one][1]): one for one in files if one not in found}
    found |= {plain[one]: data for one, data in store.read(plain).items()}
    incomplete = {}
    for one, (name, file, digest) in files.items():
        data = found.get(one)
        if data is not None:
            (wanted[name] / file).parent.mkdir(parents=True, exist_ok=True)
            (wanted[name] / file).write_bytes(data)
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            incomplete[name] = wanted[name]
    return incomplete


def _record(data: bytes, folder: Path) -> ConceptRecord:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_bytes(data)
    return read_record(folder)


@contextmanager
def _named_after(url: str) -> Iterator[Path]:
    """Yield a temporary folder; in errors raised within the block, its path is replaced by the address."""
    with TemporaryDirectory(prefix="myvlm-") as place:
        folder = Path(place) / (
            re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2]).lstrip(".") or "concept"
        )
        folder.mkdir()
        try:
            yield folder
        except MyVLMError as error:
            texts = (error.what, str(error.got), str(error.expected), str(error.fix))
            if not any(str(folder) in one for one in texts):
                raise
            what, got, expected, fix = (one.replace(str(folder), url) for one in texts)
            raise type(error)(what, got=got, expected=expected, fix=fix) from error


def _check_room(store: Store, words: Mapping[str, tuple[str, str]]) -> dict[str, bytes]:
    """Check that concepts may be written. Raises NotWritableError; see `check_room`.

    Args:
        store: the address.
        words: folder name under the address → (identifier, spoken word) of the concept to be written.

    Returns:
        The `concept.json` that each of these folders has already, if any.
    """
    found = store.read([_in(name, RECORD) for name in words], or_denied=True)
    before = {name: found[_in(name, RECORD)] for name in words if _in(name, RECORD) in found}
    for name, data in before.items():
        check_same(data, _in(store.url, name, RECORD), *words[name])
    there = store.names() if len(before) < len(words) else []
    for name in words.keys() - before.keys():
        inside = f"{name}/" if name else ""
        others = [one for one in there if one.startswith(inside) and not _is_ours(name, one)]
        if others := [one for one in others if one not in _BESIDE]:
            raise NotWritableError(
                f"{_in(store.url, name)} is not overwritten: it is no concept.",
                got=", ".join(others[:5]),
                expected="an address under which nothing is, or an earlier copy of the concept",
                fix=f"save to one under it, such as {_in(store.url, name, words[name][0])}",
            )
    return before


def _fresh(packed: Packed) -> dict[str, bytes]:
    digests = tensor_files(packed.record)
    return {_fresh_name(file, digest): packed.files[file] for file, digest in digests.items()}


def _fresh_name(file: str, digest: str) -> str:
    return f"{file.removesuffix('.safetensors')}.{digest[:16]}.safetensors"


def _named_in(data: bytes | None) -> set[str]:
    """Return the remote names, which contain digests, of the tensor files that a `concept.json` lists."""
    if data is None:
        return set()
    with TemporaryDirectory() as place, suppress(MyVLMError):
        digests = tensor_files(_record(data, Path(place)))
        return {_fresh_name(file, digest) for file, digest in digests.items()}
    return set()


def _is_ours(name: str, path: str) -> bool:
    """Whether a remote path is a file of the concept in the folder `name`, by its form.

    >>> _is_ours("sks-mug", "sks-mug/embeddings/llava.safetensors"), _is_ours("", "sks-mug/concept.json")
    (True, False)
    """
    inside = f"{name}/" if name else ""
    return path.startswith(inside) and _OURS.fullmatch(path.removeprefix(inside)) is not None


def _in(*names: str) -> str:
    return "/".join(name for name in names if name)
