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
from myvlm.concepts.disk.record import ConceptRecord, to_json
from myvlm.concepts.disk.storage import (
    CARD,
    RECORD,
    check_same_concept,
    read_record,
    tensor_files,
)
from myvlm.concepts.remote import hub
from myvlm.concepts.remote.store import Store
from myvlm.errors import ConceptFileError, InputError, MissingFileError, MyVLMError, NotWritableError

_log = logging.getLogger(__name__)

TRIES = 3
"""The most attempts to read a concept that keeps being replaced during the read."""

_CONCEPT_FILE = re.compile(
    r"(?:head|examples|embeddings/[^/]+?)(?:\.[0-9a-f]{16})?\.safetensors|concept\.json|README\.md"
)
_HUB_FILES = frozenset({".gitattributes"})
"""Files that the hub adds to each new repository."""


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a temporary local folder with a copy of the concept at an address; errors name the address.

    Raises:
        MissingFileError, ConceptFileError, RemoteError: see `translated_errors`.
    """
    with _temporary_folder(url) as folder:
        store = Store(url)
        _fetch_with_retries(store, {"": folder})
        if not (folder / RECORD).exists():
            raise MissingFileError(
                f"There is no concept at {url}.",
                got=f"no {RECORD}",
                expected="a concept that you may access",
                fix="check the spelling; if it is private, log in first",
            )
        yield folder


@contextmanager
def fetched_all(url: str) -> Iterator[list[tuple[Path, str]]]:
    """Yield temporary local copies of all concepts under an address, each with its own address.

    Raises:
        InputError: the address is that of a concept itself.
        MissingFileError, ConceptFileError, RemoteError: see `translated_errors`.
    """
    with _temporary_folder(url) as folder:
        store = Store(url)
        if store.read([RECORD], skip_denied=True):
            raise InputError(
                f"{url} is a single concept.",
                got=f"a {RECORD}",
                expected="an address of concept folders",
                fix=f"load its parent address, or add it: concepts.add({url!r})",
            )
        _fetch_with_retries(store, {name: folder / name for name in store.folders()})
        found = sorted(one.parent.name for one in folder.glob(f"*/{RECORD}"))
        yield [(folder / name, f"{url}/{name}") for name in found]


def is_concept(url: str) -> bool:
    """Whether the address itself (not a folder under it) holds a concept."""
    return RECORD in Store(url).read([RECORD], skip_denied=True)


def records_at(url: str) -> dict[str, ConceptRecord]:
    """Return the records of all concepts under an address, by folder name."""
    store = Store(url)
    with suppress(MissingFileError):
        names = store.folders()
        found = store.read([f"{name}/{RECORD}" for name in names], skip_denied=True)
        with TemporaryDirectory() as place:
            return {
                name.split("/")[0]: _record(data, Path(place) / name.split("/")[0])
                for name, data in found.items()
            }
    return {}


def check_can_publish(url: str, identifier: str) -> None:
    """Raise NotWritableError unless the address is empty, or holds an earlier copy of that concept."""
    _check_can_publish(Store(url), {"": (identifier, identifier)})


def publish(url: str, packed: Mapping[str, Packed], *, private: bool = True) -> None:
    """Upload concepts to an address.

    Args:
        url: the address.
        packed: folder name under the address → concept; the name "" is the address itself.
        private: on the hub, create a private repository, and refuse an existing public one.

    Raises:
        NotWritableError: no permission to write, or something else is there, which is unchanged.
        InputError, MissingPackageError, RemoteError: see `translated_errors`.
    """
    store, place = Store(url), hub.parse_address(url)
    before = _check_can_publish(
        store, {name: (one.record.identifier, one.record.spoken) for name, one in packed.items()}
    )
    if place is None:
        _put(store, packed, before)
        return
    hub.ensure_repository(place, url, private=private)
    put: dict[str, bytes] = {}
    for name, one in packed.items():
        put |= {_join(name, file): data for file, data in one.files.items()}
        put[_join(name, RECORD)] = to_json(one.record)
    there = store.names()
    gone = {one for name in packed for one in there if _is_concept_file(name, one)} - set(put)
    words = ", ".join(one.record.identifier for one in packed.values())
    hub.commit(place, url, put, sorted(gone), message=f"Save {words} with myvlm")


def _put(store: Store, packed: Mapping[str, Packed], before: Mapping[str, bytes]) -> None:
    fresh = {name: _files_by_remote_name(one) for name, one in packed.items()}
    waiting = dict(fresh)
    try:
        store.write(
            {_join(name, file): data for name, files in fresh.items() for file, data in files.items()}
        )
        for name, one in packed.items():
            store.write({_join(name, CARD): one.files[CARD]})
            store.write({_join(name, RECORD): to_json(one.record)})
            del waiting[name]
    except BaseException:
        for name, files in waiting.items():
            kept = _listed_names(before.get(name))
            with suppress(MyVLMError):
                store.delete(_join(name, file) for file in files if file not in kept)
        raise
    try:
        _delete_unlisted_files(store, fresh)
    except MyVLMError as error:
        _log.warning("The replaced files at %s could not be deleted: %s", store.url, error.what)


def _delete_unlisted_files(store: Store, fresh: Mapping[str, Mapping[str, bytes]]) -> None:
    """Delete files that `concept.json` no longer lists; restore listed ones that another writer deleted."""
    there = store.names()
    now = store.read([_join(name, RECORD) for name in fresh])
    for name, files in fresh.items():
        if _listed_names(now.get(_join(name, RECORD))) != set(files):
            continue  # another writer has replaced this concept meanwhile, and deletes its files
        store.write({_join(name, one): data for one, data in files.items() if _join(name, one) not in there})
        kept = {_join(name, one) for one in (*files, RECORD, CARD)}
        _delete_unless_listed(
            store, name, [one for one in there if _is_concept_file(name, one) and one not in kept]
        )


def _delete_unless_listed(store: Store, name: str, doomed: Sequence[str]) -> None:
    """Delete files of a concept, and restore those that another writer's `concept.json` lists by then.

    If that writer checks its files after the deletion, it restores them itself; if before, this call does.
    """
    held = store.read(doomed)
    if not held:
        return
    store.delete(held)
    now = _listed_names(store.read([_join(name, RECORD)]).get(_join(name, RECORD)))
    store.write({one: data for one, data in held.items() if one in {_join(name, own) for own in now}})


def _fetch_with_retries(store: Store, wanted: Mapping[str, Path]) -> None:
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
    records = store.read([_join(name, RECORD) for name in wanted])
    files: dict[str, tuple[str, str, str]] = {}  # remote name, with digest → (concept, local name, digest)
    for name, folder in wanted.items():
        data = records.get(_join(name, RECORD))
        with suppress(ConceptFileError):  # raised again when the folder is loaded
            for file, digest in (tensor_files(_record(data, folder)) if data is not None else {}).items():
                files[_join(name, _remote_name(file, digest))] = name, file, digest
    found = store.read(files, skip_denied=True)
    plain = {_join(files[one][0], files[one][1]): one for one in files if one not in found}
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
def _temporary_folder(url: str) -> Iterator[Path]:
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


def _check_can_publish(store: Store, words: Mapping[str, tuple[str, str]]) -> dict[str, bytes]:
    """Check that concepts may be written. Raises NotWritableError; see `check_can_publish`.

    Args:
        store: the address.
        words: folder name under the address → (identifier, spoken word) of the concept to be written.

    Returns:
        The `concept.json` that each of these folders has already, if any.
    """
    found = store.read([_join(name, RECORD) for name in words], skip_denied=True)
    before = {name: found[_join(name, RECORD)] for name in words if _join(name, RECORD) in found}
    for name, data in before.items():
        check_same_concept(data, _join(store.url, name, RECORD), *words[name])
    there = store.names() if len(before) < len(words) else []
    for name in words.keys() - before.keys():
        inside = f"{name}/" if name else ""
        others = [one for one in there if one.startswith(inside) and not _is_concept_file(name, one)]
        if others := [one for one in others if one not in _HUB_FILES]:
            raise NotWritableError(
                f"{_join(store.url, name)} is not a concept and was not overwritten.",
                got=", ".join(others[:5]),
                expected="an empty address, or an earlier copy of the concept",
                fix=f"save to an address below it, such as {_join(store.url, name, words[name][0])}",
            )
    return before


def _files_by_remote_name(packed: Packed) -> dict[str, bytes]:
    digests = tensor_files(packed.record)
    return {_remote_name(file, digest): packed.files[file] for file, digest in digests.items()}


def _remote_name(file: str, digest: str) -> str:
    return f"{file.removesuffix('.safetensors')}.{digest[:16]}.safetensors"


def _listed_names(data: bytes | None) -> set[str]:
    """Return the remote names, which contain digests, of the tensor files that a `concept.json` lists."""
    if data is None:
        return set()
    with TemporaryDirectory() as place, suppress(MyVLMError):
        digests = tensor_files(_record(data, Path(place)))
        return {_remote_name(file, digest) for file, digest in digests.items()}
    return set()


def _is_concept_file(name: str, path: str) -> bool:
    """Whether a remote path is a file of the concept in the folder `name`, by its form.

    >>> _is_concept_file("sks-mug", "sks-mug/embeddings/llava.safetensors")
    True
    >>> _is_concept_file("", "sks-mug/concept.json")
    False
    """
    inside = f"{name}/" if name else ""
    return path.startswith(inside) and _CONCEPT_FILE.fullmatch(path.removeprefix(inside)) is not None


def _join(*names: str) -> str:
    return "/".join(name for name in names if name)
