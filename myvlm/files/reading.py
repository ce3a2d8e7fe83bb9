"""Reading files that users pass, with clear errors."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from myvlm.errors import InputError, MissingFileError
from myvlm.text import composed


def as_on_disk(path: Path) -> Path:
    """The path in its spelling on the disk: file names written on a Mac have decomposed accents (NFD).

    If the path exists in neither spelling, it is returned unchanged.
    """
    if path.exists() or str(path).isascii() or path.parent == path:
        return path
    folder = as_on_disk(path.parent)
    with suppress(OSError):
        same = (name for name in os.listdir(folder) if composed(name) == composed(path.name))
        return folder / next(same, path.name)
    return path


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path with links resolved as far as possible; a link that is a loop stays as it is.

    Raises:
        MissingFileError: the working folder of the process was deleted.
    """
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"The path {os.fspath(path)} cannot be resolved.",
            got=working_folder(),
            expected="an existing working folder, or an absolute path",
            fix="change to an existing folder",
        ) from error


def working_folder() -> str:
    """The working folder, for messages."""
    try:
        return f"working folder {os.getcwd()}"
    except OSError:
        return "a working folder that was deleted"


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without the byte-order mark that Windows adds.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read, or has another encoding.
    """
    return as_on_disk(file).read_text(encoding="utf-8-sig")


def read_json(file: Path, *, expected: str) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte-order mark.

    Args:
        file: the file to read.
        expected: what it should contain, for the error.

    Raises:
        MissingFileError: the file does not exist.
        InputError: it is unreadable or not JSON; or an object contains a key twice, in either Unicode
            spelling of its accents. Python's parser would silently keep the last one.

    >>> _once([("1.jpg", "a"), ("1.jpg", "b")])
    Traceback (most recent call last):
    ValueError: two entries are named '1.jpg'
    """
    if not as_on_disk(file).is_file():
        raise MissingFileError(
            f"There is no file {file}.",
            got="a folder" if file.exists() else f"nothing at that path; {working_folder()}",
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
            fix="correct the file",
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [composed(name) for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"two entries are named {Counter(names).most_common(1)[0][0]!r}")
    return dict(pairs)
