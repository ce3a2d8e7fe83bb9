"""What the user names on the command line, as files: pictures, captions and questions, all checked early."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from myvlm.errors import InputError
from myvlm.files import photos as photo_files
from myvlm.files.reading import read_json


def picture_files(sources: Sequence[str]) -> list[Path]:
    """The files that paths, folders and patterns stand for; nothing is opened.

    Raises:
        MissingFileError: one of them stands for no picture.
    """
    return [file for source in sources for file in photo_files.picture_files(source)]


def album_files(sources: Sequence[str]) -> list[Path]:
    """The same by their absolute paths and once each, the pictures in folders of folders too."""
    found = [file for source in sources for file in photo_files.album_files(source)]
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in found))


def captions_for(photos: Sequence[Path], given: Sequence[str] | None) -> list[list[str]] | None:
    """The captions of each photo, from a JSON file or from texts in the order of the photos.

    The JSON is `{"photo.jpg": ["...", ...]}`, by name or path, or a list with an entry for each photo; an
    entry is a text or a list of texts.

    Raises:
        MissingFileError, InputError: the file is not there, is no such JSON, or does not fit the photos.
    """
    if not given:
        return None
    if len(given) == 1 and given[0].lower().endswith(".json"):
        file = Path(given[0])
        return [_texts(entry, file) for entry in _entries(file, photos, "captions")]
    return [[text] for text in given]


def questions_for(photos: Sequence[Path], file: Path | None) -> list[Any] | None:
    """Question/answer pairs from a JSON file: `{"photo.jpg": [["…?", "…"]]}`, or a list of pairs for all.

    Raises:
        MissingFileError, InputError: the file is not there, is no JSON, or does not fit the photos.
    """
    return None if file is None else _entries(file, photos, "questions")


def _entries(file: Path, photos: Sequence[Path], what: str) -> list[Any]:
    """A JSON list as it is, or the entries of an object in the order of the photos."""
    parsed = read_json(file, expected='{"photo.jpg": ["a text", …], …}')
    if isinstance(parsed, dict):
        from myvlm.learning.dataset import file_names, in_order

        return in_order(parsed, [file_names(photo) for photo in photos], f"{what} in {file}")
    if not isinstance(parsed, list):
        raise InputError(
            f"{file} holds something else than it should.",
            got=type(parsed).__name__,
            expected="an object with an entry for each photo, or a list in the order of the photos",
            fix="see myvlm learn --help",
        )
    return parsed


def _texts(entry: Any, file: Path) -> list[str]:
    texts = [entry] if isinstance(entry, str) else entry
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{file} holds a caption that is no text.",
            got=json.dumps(entry)[:80],
            expected="a text, or a list of texts, for each photo",
            fix="put each caption in quotes",
        )
    return texts
