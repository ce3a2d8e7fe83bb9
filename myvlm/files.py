"""Files that users hand in and commands leave: read with clear errors, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from myvlm.errors import InputError, MissingFileError, NotWritableError
from myvlm.text import composed


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
