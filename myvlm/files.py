"""A file that a command leaves: its place is checked before long work; it is written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from myvlm.errors import NotWritableError


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
    fresh = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, target)
    except OSError as error:
        raise NotWritableError(
            f"The {what} cannot be written to {target}.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a place you may write to",
            fix=f"name another place with {option}",
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
