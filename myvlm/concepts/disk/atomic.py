"""Atomic replacement of a folder: the new one is written beside it, then renamed into its place.

Beside a folder NAME, `.NAME.….part` is one being written or deleted, and `.NAME.….old` is the previous
folder, complete, during the swap. A writer holds a lock on its part, which is released when its process
ends: the next reader or writer repairs what a killed one left. The new folder is synced to disk before the
previous one is deleted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from errno import EACCES, EBUSY, EEXIST, ENOTEMPTY
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from myvlm.files.claims import delete_if_abandoned, folder_lock, locked_part, sync, sync_tree, try_lock

_log = logging.getLogger(__name__)

Made = TypeVar("Made")

PART, OLD = ".part", ".old"
TRIES, PAUSE = 50, 0.002  # seconds between two tries
TAKEN = (ENOTEMPTY, EEXIST, EACCES)  # what systems report if a folder is renamed to an existing one

_TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(?:part|old)")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a new empty folder that replaces `target` when the block ends without an error.

    If the block or the rename fails, `target` is unchanged and nothing new remains, not even parent folders.
    Concurrent writers take turns, and the last one's folder remains.

    Raises:
        OSError: the place cannot be written.
    """
    # One writer at a time: each copies the user's own files from the folder that the writer before it left.
    with changing(target.parent):
        fresh = _temporary_path(target, PART)
        try:
            with contextlib.ExitStack() as claims:
                while not claims.enter_context(locked_part(fresh, folder=True)):
                    fresh = _temporary_path(target, PART)  # another writer deleted it before it was locked
                yield fresh
                sync_tree(fresh)
                _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            recover(target)


@contextlib.contextmanager
def changing(parent: Path) -> Iterator[None]:
    """Create a folder if it is missing, and keep other writers out of it until the block ends.

    What a block checks in the folder thus stays true while it writes there. If it fails, a folder that was
    created is removed. Blocks of one thread may be nested.

    Raises:
        OSError: the folder cannot be created.
    """
    with _made(parent), folder_lock(parent):
        yield


def recover(target: Path) -> bool:
    """Repair what interrupted writers left beside a folder; return whether the folder then exists.

    A previous folder that was moved aside is put back if nothing has replaced it, and deleted otherwise.
    """
    for _ in range(TRIES):
        if _try_to_recover(target):
            return True
        if not any(one.suffix == OLD for one in leftovers(target)):
            return target.exists()  # a writer may have finished its swap meanwhile
        time.sleep(PAUSE)  # a writer is in the middle of a swap
    return False


def _try_to_recover(target: Path) -> bool:
    beside = leftovers(target)  # list first: a folder moved aside later belongs to another writer
    aside = [one for one in beside if one.suffix == OLD]
    for one in aside:
        if target.exists():
            break
        with contextlib.suppress(OSError):
            os.replace(one, target)
    there = target.exists()
    for one in beside:
        if one.suffix == PART:
            delete_if_abandoned(one)
    for one in aside if there else ():
        _delete_replaced(one)
    return there


def read_with_retries(folder: Path, read: Callable[[], Made]) -> Made:
    """Return `read()`, retrying if it fails while the folder is being replaced by another."""
    for left in reversed(range(TRIES)):
        before = _folder_identity(folder)
        try:
            return read()
        except (ValueError, OSError):
            if not left or _not_replaced(folder, before):
                raise
            time.sleep(PAUSE)
    raise AssertionError("the last try has ended in one of the two ways")


def copy_with_retries(folder: Path, fresh: Path) -> None:
    """Copy a folder's content into an empty folder, retrying if the source is replaced meanwhile.

    Raises:
        OSError: it cannot be copied, or was replaced during each try.
    """

    def copy() -> None:
        for one in fresh.iterdir():  # left by the previous try; `fresh` itself stays, since it is locked
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
        before = _folder_identity(folder)
        shutil.copytree(folder, fresh, symlinks=True, dirs_exist_ok=True)
        if not _not_replaced(folder, before):
            raise OSError(EBUSY, "it was replaced during every attempt to copy it", str(folder))

    read_with_retries(folder, copy)


def move_aside(target: Path) -> None:
    """Rename a folder that is about to be deleted to a `.part` beside it, which nobody writes.

    The folder is thus complete or gone, and later calls clean up after a deletion that was killed.
    """
    with contextlib.suppress(OSError):  # if it cannot be moved, it is deleted in place
        os.replace(target, _temporary_path(target, PART))


def leftovers(target: Path) -> list[Path]:
    """Return the `.part` and `.old` folders beside a folder, newest first."""
    with contextlib.suppress(OSError):
        beside = [_TEMPORARY_NAME.fullmatch(name) for name in os.listdir(target.parent)]
        found = [target.parent / one[0] for one in beside if one and one[1] == target.name]
        return sorted(found, key=_changed, reverse=True)
    return []


def folders_in(parent: Path) -> list[str]:
    """Return the names of the folders in a folder after recovering each; hidden ones are skipped."""
    with os.scandir(parent) as entries:
        names = {one.name for one in entries if _is_folder(one)}
    beside = {one[1] for one in map(_TEMPORARY_NAME.fullmatch, names) if one}
    names |= {name for name in beside if recover(parent / name)}
    return [name for name in names if not name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Use the type in the directory listing: the path itself is missing for a moment during a swap."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
        return False


@contextlib.contextmanager
def _made(parent: Path) -> Iterator[None]:
    """Create the folder and its parents, and remove those created if the block fails."""
    missing = [one for one in [parent, *parent.parents] if not one.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
        for one in missing:
            sync(one.parent)
    except BaseException:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def _temporary_path(target: Path, ending: str) -> Path:
    return target.parent / f".{target.name}.{uuid4().hex[:12]}{ending}"  # same disk, so that a rename works


def _swap(fresh: Path, target: Path) -> None:
    for left in reversed(range(TRIES)):
        try:
            with contextlib.suppress(FileNotFoundError):
                os.replace(target, _temporary_path(target, OLD))
            os.replace(fresh, target)
            sync(target.parent)  # before the previous folder is deleted
            return
        except OSError as error:
            if not left or error.errno not in TAKEN:
                raise
            time.sleep(PAUSE)  # another writer was faster: move its folder aside in the next try


def _folder_identity(folder: Path) -> tuple[int, int] | None:
    """Return what distinguishes a folder from one that replaces it; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _not_replaced(folder: Path, before: tuple[int, int] | None) -> bool:
    """Whether the folder was not replaced since `before`; False if it is missing during a swap."""
    if before is None:  # missing both times may mean that two swaps were in progress
        return _folder_identity(folder) is None and not leftovers(folder)
    return _folder_identity(folder) == before


def _changed(folder: Path) -> float:
    """Return when a folder was written or renamed, in seconds; the current time if it is gone."""
    try:
        return folder.stat().st_ctime
    except OSError:
        return time.time()


def _delete_replaced(folder: Path) -> None:
    doomed = folder.with_suffix(PART)
    with try_lock(folder) as mine:
        if not mine:
            return  # another process is working on it
        try:
            os.replace(folder, doomed)  # an `.old` folder is always complete, so rename before deleting
        except FileNotFoundError:
            return  # another process was faster
        except OSError:
            doomed = folder
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            _log.warning("the replaced folder could not be deleted; please delete %s", doomed)
