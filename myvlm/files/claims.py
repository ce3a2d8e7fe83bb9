"""Locks on partially written files and folders, and syncing to disk.

A writer locks the partial file or folder that it writes. The lock ends with its process, so the next writer
recognizes what a killed one left behind, by the missing lock, and deletes it.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

_held = threading.local()
"""In `folders`: device and inode of the folders that this thread has locked."""

STALE = 3600
"""Age in seconds after which a partial file counts as abandoned, on file systems without locks."""


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk and would survive a power failure."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows cannot open folders
    with suppress(PermissionError):  # the user may have added a file that is not readable
        opened = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError:
            if not folder:  # some file systems do not support fsync of folders
                raise
        finally:
            os.close(opened)


def sync_tree(folder: Path) -> None:
    """`sync` a folder and everything in it; symbolic links are not followed."""
    for place, _, names in os.walk(folder, topdown=False):
        for one in (Path(place, name) for name in names):
            if one.is_file() and not one.is_symlink():
                sync(one)
        sync(Path(place))


@contextmanager
def locked_part(path: Path, *, folder: bool) -> Iterator[bool]:
    """Create an empty file or folder, locked against `delete_if_abandoned` until the block or process ends.

    Yields: whether it exists; False if another writer deleted it before it was locked.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir() if folder else path.touch(exist_ok=False)
    opened = _open_for_locking(path)
    try:
        if opened is not None and fcntl:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield os.path.exists(path)
    finally:
        _unlock(opened)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Context manager: no other writer of this library works in the folder, if the file system has locks.

    Other processes and other threads wait. The thread that holds the lock may enter again.

    >>> with folder_lock(Path(".")), folder_lock(Path.cwd()):
    ...     print("entered twice")
    entered twice
    """
    opened = _open_for_locking(folder)
    found = None if opened is None else os.fstat(opened)
    key = None if found is None else (found.st_dev, found.st_ino)
    held: set[tuple[int, int] | None] = vars(_held).setdefault("folders", {None})
    outermost = key not in held
    try:
        if outermost and opened is not None and fcntl:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(opened, fcntl.LOCK_EX)
        held.add(key)
        yield
    finally:
        if outermost:
            held.discard(key)
        _unlock(opened)


def delete_if_abandoned(path: Path) -> None:
    """Delete a partial file or folder if its writer is dead, that is, if nobody holds a lock on it.

    On file systems without locks, it is deleted if it has not been changed for an hour.
    """
    with try_lock(path, otherwise=_is_stale(path)) as dead:
        if dead:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def try_lock(path: Path, *, otherwise: bool = True) -> Iterator[bool]:
    """Yield whether nobody holds a lock on the path; if so, nobody gets one inside the block either.

    Args:
        otherwise: the result if the file system has no locks.
    """
    opened = _open_for_locking(path)
    try:
        free = otherwise
        if opened is not None and fcntl:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            except OSError:  # some file systems have no locks
                pass
        yield free
    finally:
        _unlock(opened)


def _open_for_locking(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # it was deleted, or is a folder on Windows
        return None


def _unlock(opened: int | None) -> None:
    if opened is None:
        return
    if fcntl:
        with suppress(OSError):  # closing is not enough: a process forked meanwhile has it open too
            fcntl.flock(opened, fcntl.LOCK_UN)
    os.close(opened)


def _is_stale(path: Path) -> bool:
    """Whether it was last written or renamed long ago; False if it was deleted."""
    try:
        return time.time() - path.stat().st_ctime > STALE
    except OSError:
        return False
