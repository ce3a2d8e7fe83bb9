"""Journals: files of JSON lines, on the disk as soon as they are added, so that killed work goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from myvlm.files.claims import sync
from myvlm.files.reading import read_text
from myvlm.files.writing import whole_file


def whole_lines(file: Path) -> list[str]:
    """The lines that were written to their ends; none where there is no file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> add_lines(file, [{"photo": 1}, {"photo": 2}])
    >>> _ = file.write_text(file.read_text() + '{"pho')
    >>> whole_lines(file)
    ['{"photo": 1}', '{"photo": 2}']
    """
    return read_text(file).split("\n")[:-1] if file.exists() else []


def drop_cut_line(file: Path) -> None:
    """Take off a last line without an end: it was being written as its writer was killed."""
    with file.open("rb+") as lines:
        kept = lines.read().rfind(b"\n") + 1
        if lines.tell() > kept:
            lines.truncate(kept)
    sync(file)


def add_lines(file: Path, entries: Iterable[Any]) -> None:
    """Add entries, a line each, and wait until they are on the disk."""
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)
    sync(file)


def write_lines(file: Path, entries: Iterable[Any]) -> None:
    """Put these entries, and no others, in the file: whole or not at all."""
    with whole_file(file) as fresh, fresh.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)
