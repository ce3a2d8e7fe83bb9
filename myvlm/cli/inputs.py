"""Resolve the pictures, captions and questions named on the command line, before a model is loaded."""

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
    """Return the picture files that paths, folders and patterns refer to; no file is opened.

    Raises:
        MissingFileError: a source refers to no picture.
    """
    return [file for source in sources for file in photo_files.picture_files(source)]


def album_files(sources: Sequence[str]) -> list[Path]:
    """Return the absolute paths of the pictures in an album, subfolders included, without duplicates.

    Raises:
        MissingFileError: a source refers to no picture.
    """
    found = [file for source in sources for file in photo_files.album_files(source)]
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in found))


def captions_for(photos: Sequence[Path], given: Sequence[str] | None) -> list[list[str]] | None:
    """Return the captions of each photo, from a JSON file or from texts in the order of the photos.

    The JSON is `{"photo.jpg": ["...", ...]}`, keyed by name or path, or a list with an entry for each photo;
    an entry is a text or a list of texts.

    Raises:
        MissingFileError, InputError: the file is missing, is no such JSON, or does not match the photos.
    """
    if not given:
        return None
    if len(given) == 1 and given[0].lower().endswith(".json"):
        file = Path(given[0])
        return [_texts(entry, file) for entry in _entries(file, photos, "captions")]
    return [[text] for text in given]


def questions_for(photos: Sequence[Path], file: Path | None) -> list[Any] | None:
    """Read question/answer pairs from JSON: `{"photo.jpg": [["…?", "…"]]}`, or one list for all photos.

    Raises:
        MissingFileError, InputError: the file is missing, is no JSON, or does not match the photos.
    """
    return None if file is None else _entries(file, photos, "questions")


def _entries(file: Path, photos: Sequence[Path], what: str) -> list[Any]:
    """Return a JSON list unchanged, or the values of a JSON object in the order of the photos."""
    parsed = read_json(file, expected='{"photo.jpg": ["a text", …], …}')
    if isinstance(parsed, dict):
        from myvlm.learning.dataset import file_names, in_order

        return in_order(parsed, [file_names(photo) for photo in photos], f"{what} in {file}")
    if not isinstance(parsed, list):
        raise InputError(
            f"{file} is neither a JSON object nor a JSON list.",
            got=type(parsed).__name__,
            expected="an object with an entry for each photo, or a list in the order of the photos",
            fix="see myvlm learn --help",
        )
    return parsed


def _texts(entry: Any, file: Path) -> list[str]:
    texts = [entry] if isinstance(entry, str) else entry
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{file} contains a caption that is not text.",
            got=json.dumps(entry)[:80],
            expected="a text, or a list of texts, for each photo",
            fix="put each caption in quotes",
        )
    return texts
