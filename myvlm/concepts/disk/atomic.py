"""A folder written whole or not at all: beside its place first, then renamed into it.

Beside a folder NAME, `.NAME.….part` is being written or deleted, and `.NAME.….old` is what NAME held, whole,
while another takes its place. A writer holds a lock on its part, which ends with its process: what a writer
that was killed left is made good by whoever comes next. All is on the disk before what it replaces goes.
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

from myvlm.files.claims import claimed, sync, sync_tree, take_away, unclaimed, writing_in

_log = logging.getLogger(__name__)

Made = TypeVar("Made")

PART, OLD = ".part", ".old"
TRIES, PAUSE = 50, 0.002  # seconds between two tries
TAKEN = (ENOTEMPTY, EEXIST, EACCES)  # what systems say where a folder is to be renamed to one that is there

_BESIDE = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(?:part|old)")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Hand out a fresh, empty folder that takes the place of `target` when the block ends well.

    If the block or the renaming fails, `target` is as it was and nothing new is left, not even parents. Of
    several writers at once each has its turn, and the last one's folder stays.

    Raises:
        OSError: the place cannot be written.
    """
    # One at a time: what is the user's in the folder is copied from the one that stands there at the end.
    with _made(target.parent), writing_in(target.parent):
        fresh = _beside(target, PART)
        try:
            with contextlib.ExitStack() as claims:
                while not claims.enter_context(claimed(fresh, folder=True)):
                    fresh = _beside(target, PART)  # another writer was quicker, and saw it without its lock
                yield fresh
                sync_tree(fresh)
                _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            recover(target)


def recover(target: Path) -> bool:
    """Whether a folder is there, once what writers have left beside it is made good.

    What was moved aside is put back where nothing has taken its place, and deleted where something has.
    """
    for _ in range(TRIES):
        if _recovered(target):
            return True
        if not any(one.suffix == OLD for one in leftovers(target)):
            return target.exists()  # a writer may have ended its swap meanwhile
        time.sleep(PAUSE)  # a writer is in the midst of one
    return False


def _recovered(target: Path) -> bool:
    beside = leftovers(target)  # before looking: what is moved aside later is another writer's
    aside = [one for one in beside if one.suffix == OLD]
    for one in aside:
        if target.exists():
            break
        with contextlib.suppress(OSError):
            os.replace(one, target)
    there = target.exists()
    for one in beside:
        if one.suffix == PART:
            take_away(one)
    for one in aside if there else ():
        _discard(one)
    return there


def read_steadily(folder: Path, read: Callable[[], Made]) -> Made:
    """What `read` gives; again where it fails while another folder comes into the place."""
    for left in reversed(range(TRIES)):
        before = _which(folder)
        try:
            return read()
        except (ValueError, OSError):
            if not left or _stands(folder, before):
                raise
            time.sleep(PAUSE)
    raise AssertionError("the last try has ended in one of the two ways")


def copy_steadily(folder: Path, fresh: Path) -> None:
    """Copy what is in a folder into an empty one; again where another folder came into its place meanwhile.

    Raises:
        OSError: it cannot be copied, or is replaced again and again.
    """

    def copy() -> None:
        for one in fresh.iterdir():  # of the try before; itself stays: its writer has a lock on it
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
        before = _which(folder)
        shutil.copytree(folder, fresh, symlinks=True, dirs_exist_ok=True)
        if not _stands(folder, before):
            raise OSError(EBUSY, "replaced again and again while it was copied", str(folder))

    read_steadily(folder, copy)


def move_out(target: Path) -> None:
    """Have a folder that is to be deleted stand beside its place, as a part that nobody writes.

    So it is whole or gone: what a deletion that was killed leaves is no folder that nothing knows any more.
    """
    with contextlib.suppress(OSError):  # where it cannot be moved it is deleted in its place
        os.replace(target, _beside(target, PART))


def leftovers(target: Path) -> list[Path]:
    """The parts and the olds that stand beside a folder, the newest first."""
    with contextlib.suppress(OSError):
        beside = [_BESIDE.fullmatch(name) for name in os.listdir(target.parent)]
        found = [target.parent / one[0] for one in beside if one and one[1] == target.name]
        return sorted(found, key=_changed, reverse=True)
    return []


def folders_in(parent: Path) -> list[str]:
    """The names of the folders in a folder, each recovered first; hidden ones are passed over."""
    with os.scandir(parent) as entries:
        names = {one.name for one in entries if _is_folder(one)}
    beside = {one[1] for one in map(_BESIDE.fullmatch, names) if one}
    names |= {name for name in beside if recover(parent / name)}
    return [name for name in names if not name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """As the folder's own list has it: by its path one is not there while another takes its place."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
        return False


@contextlib.contextmanager
def _made(parent: Path) -> Iterator[None]:
    """Make the folders above, and on failure unmake those that were made."""
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


def _beside(target: Path, ending: str) -> Path:
    return target.parent / f".{target.name}.{uuid4().hex[:12]}{ending}"  # a rename stays on one disk


def _swap(fresh: Path, target: Path) -> None:
    for left in reversed(range(TRIES)):
        try:
            with contextlib.suppress(FileNotFoundError):
                os.replace(target, _beside(target, OLD))
            os.replace(fresh, target)
            sync(target.parent)  # before the old one goes
            return
        except OSError as error:
            if not left or error.errno not in TAKEN:
                raise
            time.sleep(PAUSE)  # another writer was quicker: its folder makes room in turn


def _which(folder: Path) -> tuple[int, int] | None:
    """Tells the folder in a place from another that takes it; None while there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _stands(folder: Path, before: tuple[int, int] | None) -> bool:
    """Whether the place holds what it held before, or nothing that a writer is about to replace."""
    if before is None:  # twice none may be two moments in the midst of two swaps
        return _which(folder) is None and not leftovers(folder)
    return _which(folder) == before


def _changed(folder: Path) -> float:
    """When it was written or renamed, in seconds; what is gone is as good as new."""
    try:
        return folder.stat().st_ctime
    except OSError:
        return time.time()


def _discard(folder: Path) -> None:
    doomed = folder.with_suffix(PART)
    with unclaimed(folder) as mine:
        if not mine:
            return  # another process is at it
        try:
            os.replace(folder, doomed)  # what is called old is whole, also while it is deleted
        except FileNotFoundError:
            return  # another process was quicker
        except OSError:
            doomed = folder
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            _log.warning("what was replaced could not be deleted, please delete %s", doomed)
