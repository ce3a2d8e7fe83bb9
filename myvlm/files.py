"""Files that users hand in and commands leave: read with clear errors, written whole or not at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from myvlm.errors import InputError, MissingFileError, NotWritableError
from myvlm.text import composed

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

STALE = 3600
"""Seconds after which nobody is still at work on a part, where the disk knows no locks."""


def as_on_disk(path: Path) -> Path:
    """The path as the disk spells it: a name that was written on a Mac has its accents apart (NFD).

    Where nothing of that name is there, in either spelling, it is as it was given.
    """
    if path.exists() or str(path).isascii() or path.parent == path:
        return path
    folder = as_on_disk(path.parent)
    with suppress(OSError):
        same = (name for name in os.listdir(folder) if composed(name) == composed(path.name))
        return folder / next(same, path.name)
    return path


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, with or without the byte-order mark that Windows puts first.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is in another encoding.
    """
    return as_on_disk(file).read_text(encoding="utf-8-sig")


def read_json(file: Path, *, expected: str) -> Any:
    """What a JSON file in UTF-8 says; a byte-order mark, as some editors write it, is passed over.

    Args:
        file: to read.
        expected: what it should hold, for the error.

    Raises:
        MissingFileError: there is no such file.
        InputError: it cannot be read, or is no JSON; or an object has two entries of one name, however their
            accents are written, of which JSON alone would keep the last.

    >>> _once([("1.jpg", "a"), ("1.jpg", "b")])
    Traceback (most recent call last):
    ValueError: two entries are called '1.jpg'
    """
    if not as_on_disk(file).is_file():
        raise MissingFileError(
            f"There is no file {file}.",
            got="a folder" if file.exists() else f"nothing at that path, from {Path.cwd()}",
            expected="a JSON file",
            fix="check the path",
        )
    try:
        return json.loads(read_text(file), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is not JSON.",
            got=str(error),
            expected=f"{expected}, in UTF-8",
            fix="mend it at the place that is named",
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [composed(name) for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"two entries are called {Counter(names).most_common(1)[0][0]!r}")
    return dict(pairs)


def check_place(target: Path, *, what: str, option: str) -> None:
    """Say before the first hour, not after the last, that a page cannot be written.

    Args:
        target: the file that will be written.
        what: what it is called, such as `page`.
        option: with which the user names another place, such as `--out`.

    Raises:
        NotWritableError: `target` is a folder, or lies in none that may be written to.
    """
    folder = target.resolve().parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise NotWritableError(
            f"The {what} cannot be written to {target}.",
            got="a folder" if target.is_dir() else f"{folder} is no folder that you may write to",
            expected="the name of a file in a folder that is there",
            fix=f"name another place with {option}",
        )


def write_whole(target: Path, text: str, *, what: str, option: str) -> None:
    """All of the text or nothing; arguments and errors as `check_place`."""
    try:
        with whole_file(target) as fresh:
            fresh.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotWritableError(
            f"The {what} cannot be written to {target}.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a place you may write to",
            fix=f"name another place with {option}",
        ) from error


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Hand out an empty file that takes the place of `target` when the block ends well, and else is gone.

    Raises:
        OSError: the place cannot be written.
    """
    fresh = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
            take_away(left)
        with claimed(fresh, folder=False):
            yield fresh
            sync(fresh)
            os.replace(fresh, target)
            sync(target.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


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
        if opened is not None:
            os.close(opened)


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
        if opened is not None:
            os.close(opened)


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
        if opened is not None:
            os.close(opened)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # it is gone, or a folder on Windows
        return None


def _old(path: Path) -> bool:
    """When it was written or renamed, is long ago; what is gone is as good as new."""
    try:
        return time.time() - path.stat().st_ctime > STALE
    except OSError:
        return False
