"""Whose a half-written file or folder is, and whether it is on the disk yet.

A writer holds a lock on its part, which ends with its process: what a writer that was killed left behind is
known by that, and taken away by the next.
"""

from __future__ import annotations

import os
import shutil
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

STALE = 3600
"""Seconds after which nobody is still at work on a part, where the disk knows no locks."""


def sync(path: Path) -> None:
    """Wait until a file, or the names that a folder holds, are on the disk, so that power may fail."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # where a folder cannot be opened
    with suppress(PermissionError):  # a note of the user's that they may not read themselves
        opened = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError:
            if not folder:  # some disks have no more to say of a folder
                raise
        finally:
            os.close(opened)


def sync_tree(folder: Path) -> None:
    """`sync` of all that is in a folder, and of itself; what links lead to is left alone."""
    for place, _, names in os.walk(folder, topdown=False):
        for one in (Path(place, name) for name in names):
            if one.is_file() and not one.is_symlink():
                sync(one)
        sync(Path(place))


@contextmanager
def claimed(path: Path, *, folder: bool) -> Iterator[bool]:
    """Make an empty file or folder that `take_away` leaves alone until the block, or the process, has ended.

    Yields: whether it is there; not, where another writer took it away before the claim was laid.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir() if folder else path.touch(exist_ok=False)
    opened = _opened(path)
    try:
        if opened is not None and fcntl:
            with suppress(OSError):  # some disks know no locks
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield os.path.exists(path)
    finally:
        _let_go(opened)


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Within it no other writer of ours is at work in the folder, where the disk knows locks."""
    opened = _opened(folder)
    try:
        if opened is not None and fcntl:
            with suppress(OSError):  # some disks know no locks
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        _let_go(opened)


def take_away(path: Path) -> None:
    """Delete a part, file or folder, whose writer is known to be dead: nobody has a claim on it.

    Where the disk knows no locks, when nobody has touched it for an hour.
    """
    with unclaimed(path, otherwise=_old(path)) as dead:
        if dead:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def unclaimed(path: Path, *, otherwise: bool = True) -> Iterator[bool]:
    """Whether nobody has a claim on it, nor gets one within the block; so much where no lock can say."""
    opened = _opened(path)
    try:
        free = otherwise
        if opened is not None and fcntl:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            except OSError:  # some disks know no locks
                pass
        yield free
    finally:
        _let_go(opened)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # it is gone, or a folder on Windows
        return None


def _let_go(opened: int | None) -> None:
    if opened is None:
        return
    if fcntl:
        with suppress(OSError):  # closing is not enough: what was forked meanwhile has it open too
            fcntl.flock(opened, fcntl.LOCK_UN)
    os.close(opened)


def _old(path: Path) -> bool:
    """When it was written or renamed, is long ago; what is gone is as good as new."""
    try:
        return time.time() - path.stat().st_ctime > STALE
    except OSError:
        return False
