"""Files at an address, by fsspec: named, read, written and deleted, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from myvlm.concepts.remote.faults import reaching
from myvlm.errors import import_extra

AT_ONCE = 16
"""Files that are on their way together; a library of hundreds is small files, each with a wait."""

WITH_FOLDERS = frozenset("sftp ssh ftp smb hdfs webhdfs webdav".split())
"""Schemes under which a folder must be made before a file is put into it."""

_VERSION = (
    "ETag", "etag", "md5Hash", "content_md5", "checksum", "LastModified", "last_modified", "mtime",
    "modified", "created", "size",
)  # fmt: skip
"""What stores call what tells one content of a file from another."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class Store:
    """The files under one address, by their names relative to it.

    Args:
        url: the address.

    Raises:
        InputError, MissingPackageError: nothing that is installed knows it.

    >>> store = Store("memory://example/notes")
    >>> store.write({"a/b.txt": b"one"})
    >>> store.names(), store.read(["a/b.txt", "c.txt"])
    (['a/b.txt'], {'a/b.txt': b'one'})
    >>> store.delete(["a/b.txt"])
    """

    def __init__(self, url: str) -> None:
        self.url = url
        core = import_extra("fsspec.core", what=url, install="myvlm[share]")
        with reaching(url):
            self._files, root = core.url_to_fs(url)
            self._files.invalidate_cache()
        self._root = str(root).rstrip("/")

    def names(self) -> list[str]:
        """Of all files under the address; none where nothing is there."""
        with reaching(self.url):
            try:
                self._files.invalidate_cache()
                found = self._files.find(self._root)
            except FileNotFoundError:
                return []
        # Some file systems give back what they were asked for with another beginning.
        inside = f"{self._root.strip('/')}/"
        return sorted(one.strip("/")[len(inside) :] for one in found if one.strip("/").startswith(inside))

    def versions(self, name: str) -> dict[str, str]:
        """What the store says of each file of that name, somewhere under the address: what it holds, or when
        it was put there."""
        with reaching(self.url):
            try:
                self._files.invalidate_cache()
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        return {
            path: " ".join(str(about[one]) for one in _VERSION if one in about)
            for path, about in found.items()
            if path.rpartition("/")[2] == name
        }

    def folders(self) -> list[str]:
        """The names of what looks like a folder right under the address; hidden ones are passed over."""
        with reaching(self.url):
            self._files.invalidate_cache()
            found = self._files.ls(self._root, detail=True)
        names = (one["name"].rstrip("/").split("/")[-1] for one in found if one["type"] == "directory")
        return sorted(name for name in names if not name.startswith("."))

    def read(self, names: Iterable[str], *, or_denied: bool = False) -> dict[str, bytes]:
        """What those of the files hold that are there.

        Args:
            names: of the files.
            or_denied: pass over also those that may not be read: S3 says so of what is not there, to those
                who may not list.
        """
        absent = (FileNotFoundError, PermissionError) if or_denied else (FileNotFoundError,)

        def one(name: str) -> tuple[str, bytes | None]:
            try:
                data: bytes = self._files.cat_file(self._path(name))
            except absent:
                return name, None
            return name, data

        with reaching(self.url):
            found = _side_by_side(one, names)
        return {name: data for name, data in found if data is not None}

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put these files there; each whole, where the store puts one at once, as object stores do."""

        def one(item: tuple[str, bytes]) -> None:
            path = self._path(item[0])
            if not WITH_FOLDERS.isdisjoint(_schemes(self._files)):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, item[1])

        with reaching(self.url, writing=True):
            _side_by_side(one, files.items())

    def delete(self, names: Iterable[str]) -> None:
        """Take these files away, those of them that are there."""

        def one(name: str) -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        with reaching(self.url, writing=True):
            _side_by_side(one, names)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _schemes(files: Any) -> set[str]:
    known = files.protocol
    return {known} if isinstance(known, str) else set(known)


def _side_by_side(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, items))
