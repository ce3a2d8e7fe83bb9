"""Files that users hand in and commands leave: read with clear errors, written whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from myvlm.errors import InputError, MissingFileError, NotWritableError


def read_json(file: Path, *, expected: str) -> Any:
    """What a JSON file in UTF-8 says; a byte-order mark, as some editors write it, is passed over.

    Args:
        file: to read.
        expected: what it should hold, for the error.

    Raises:
        MissingFileError: there is no such file.
        InputError: it cannot be read, or is no JSON.
    """
    if not file.is_file():
        raise MissingFileError(
            f"There is no file {file}.",
            got="a folder" if file.exists() else f"nothing at that path, from {Path.cwd()}",
            expected="a JSON file",
            fix="check the path",
        )
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} is not JSON.",
            got=str(error),
            expected=f"{expected}, in UTF-8",
            fix="mend it at the place that is named",
        ) from error


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
