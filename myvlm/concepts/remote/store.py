"""`Store`: list, read, write and delete files at a remote address through fsspec, many in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from myvlm.concepts.remote.faults import translated_errors
from myvlm.errors import import_extra

PARALLEL_TRANSFERS = 16
"""The number of parallel transfers: a library of hundreds is many small files, each with its latency."""

WITH_FOLDERS = frozenset("sftp ssh ftp smb hdfs webhdfs webdav".split())
"""Schemes of stores in which a folder must be created before a file is written into it."""

_VERSION = (
    "ETag", "etag", "md5Hash", "content_md5", "checksum", "LastModified", "last_modified", "mtime",
    "modified", "created", "size",
)  # fmt: skip
"""The keys under which stores report a file's version: digest, modification time or size."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class Store:
    """The files under one address, by names relative to it.

    Args:
        url: the address.

    Raises:
        InputError, MissingPackageError: no installed package supports the address.

    >>> store = Store("memory://example/notes")
    >>> store.write({"a/b.txt": b"one"})
    >>> store.names(), store.read(["a/b.txt", "c.txt"])
    (['a/b.txt'], {'a/b.txt': b'one'})
    >>> store.delete(["a/b.txt"])
    """

    def __init__(self, url: str) -> None:
        self.url = url
        core = import_extra("fsspec.core", what=url, install="myvlm[share]")
        with translated_errors(url):
            self._files, root = core.url_to_fs(url)
            self._files.invalidate_cache()
        self._root = str(root).rstrip("/")

    def names(self) -> list[str]:
        """Return the names of all files under the address; an empty list if there are none."""
        with translated_errors(self.url):
            try:
                self._files.invalidate_cache()
                found = self._files.find(self._root)
            except FileNotFoundError:
                return []
        # Some file systems return paths with a different leading slash than the one passed.
        inside = f"{self._root.strip('/')}/"
        return sorted(one.strip("/")[len(inside) :] for one in found if one.strip("/").startswith(inside))

    def versions(self, name: str) -> dict[str, str]:
        """Return path → version for each file with that base name under the address.

        A version is text made of what the store reports: digests, modification times, sizes.
        """
        with translated_errors(self.url):
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
        """Return the names of the folders directly under the address; hidden ones are skipped."""
        with translated_errors(self.url):
            self._files.invalidate_cache()
            found = self._files.ls(self._root, detail=True)
        names = (one["name"].rstrip("/").split("/")[-1] for one in found if one["type"] == "directory")
        return sorted(name for name in names if not name.startswith("."))

    def read(self, names: Iterable[str], *, skip_denied: bool = False) -> dict[str, bytes]:
        """Read files; those that do not exist are skipped.

        Args:
            names: of the files.
            skip_denied: also skip files for which access is denied: S3 answers so for a missing file if the
                user may not list the bucket.

        Returns:
            Name → bytes.
        """
        absent = (FileNotFoundError, PermissionError) if skip_denied else (FileNotFoundError,)

        def one(name: str) -> tuple[str, bytes | None]:
            try:
                data: bytes = self._files.cat_file(self._path(name))
            except absent:
                return name, None
            return name, data

        with translated_errors(self.url):
            found = _in_parallel(one, names)
        return {name: data for name, data in found if data is not None}

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files. Each is written atomically only if the store does so, as object stores do."""

        def one(item: tuple[str, bytes]) -> None:
            path = self._path(item[0])
            if not WITH_FOLDERS.isdisjoint(_schemes(self._files)):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, item[1])

        with translated_errors(self.url, writing=True):
            _in_parallel(one, files.items())

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that do not exist are skipped."""

        def one(name: str) -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        with translated_errors(self.url, writing=True):
            _in_parallel(one, names)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _schemes(files: Any) -> set[str]:
    known = files.protocol
    return {known} if isinstance(known, str) else set(known)


def _in_parallel(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as threads:
        return list(threads.map(work, items))
