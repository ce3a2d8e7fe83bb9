"""Writing files atomically: a file gets its whole content, or is not changed at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from myvlm.errors import NotWritableError
from myvlm.files.claims import delete_if_abandoned, locked_part, sync
from myvlm.files.reading import absolute


def check_place(target: Path, *, what: str, option: str) -> None:
    """Check that a file can be written, before work that may take hours.

    Args:
        target: the file to be written.
        what: what the file is, such as `page`, for the message.
        option: the option with which users choose another place, such as `--out`, for the message.

    Raises:
        NotWritableError: `target` is a folder, or its folder does not exist or is not writable.
    """
    folder = absolute(target).parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        state = "is not a writable folder" if folder.exists() else "does not exist"
        raise NotWritableError(
            f"The {what} cannot be written to {target}.",
            got="a folder" if target.is_dir() else f"{folder} {state}",
            expected="a file in an existing folder",
            fix=f"choose another place with {option}",
        )


def write_atomically(target: Path, text: str, *, what: str, option: str) -> None:
    """Write a text file atomically; arguments and errors as in `check_place`."""
    with writing(target, what=what, option=option), atomic_file(target) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def writing(target: Path, *, what: str, option: str) -> Iterator[None]:
    """Context manager: an OSError in the block becomes the error of `write_atomically`."""
    try:
        yield
    except OSError as error:
        raise NotWritableError(
            f"The {what} cannot be written to {target}.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a writable place, and space on the disk",
            fix=f"choose another place with {option}",
        ) from error


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield an empty file that replaces `target` if the block succeeds, and is deleted otherwise.

    Raises:
        OSError: the file cannot be written.
    """
    fresh = _beside(target)
    try:
        for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
            delete_if_abandoned(left)
        with ExitStack() as claims:
            while not claims.enter_context(locked_part(fresh, folder=False)):
                fresh = _beside(target)  # another writer deleted the file before it was locked
            yield fresh
            sync(fresh)
            os.replace(fresh, target)
            sync(target.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
