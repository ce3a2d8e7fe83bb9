"""Journals: files of JSON lines that are synced after every addition, so that interrupted work can resume."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from myvlm.files.claims import sync
from myvlm.files.reading import read_text
from myvlm.files.writing import atomic_file


def complete_lines(file: Path) -> list[str]:
    """The complete lines of a file, that is, those that end in a newline; none if it does not exist.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> add_lines(file, [{"photo": 1}, {"photo": 2}])
    >>> _ = file.write_text(file.read_text() + '{"pho')
    >>> complete_lines(file)
    ['{"photo": 1}', '{"photo": 2}']
    """
    return read_text(file).split("\n")[:-1] if file.exists() else []


def drop_partial_line(file: Path) -> None:
    """Remove a last line without a newline, which is left if the writer was killed while writing it."""
    with file.open("rb+") as lines:
        kept = lines.read().rfind(b"\n") + 1
        if lines.tell() > kept:
            lines.truncate(kept)
    sync(file)


def add_lines(file: Path, entries: Iterable[Any]) -> None:
    """Append entries, one per line, and wait until they are on the disk."""
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)
    sync(file)


def write_lines(file: Path, entries: Iterable[Any]) -> None:
    """Replace the file's content by these entries, atomically."""
    with atomic_file(file) as fresh, fresh.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)
