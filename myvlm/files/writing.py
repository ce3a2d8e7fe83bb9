"""Files that commands leave, written whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from myvlm.errors import NotWritableError
from myvlm.files.claims import claimed, sync, take_away
from myvlm.files.reading import absolute


def check_place(target: Path, *, what: str, option: str) -> None:
    """Say before the first hour, not after the last, that a page cannot be written.

    Args:
        target: the file that will be written.
        what: what it is called, such as `page`.
        option: with which the user names another place, such as `--out`.

    Raises:
        NotWritableError: `target` is a folder, or lies in none that may be written to.
    """
    folder = absolute(target).parent
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
    fresh = _beside(target)
    try:
        for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
            take_away(left)
        with ExitStack() as claims:
            while not claims.enter_context(claimed(fresh, folder=False)):
                fresh = _beside(target)  # another writer was quicker, and saw it without its lock
            yield fresh
            sync(fresh)
            os.replace(fresh, target)
            sync(target.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
