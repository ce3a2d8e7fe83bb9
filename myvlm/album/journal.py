"""The journal of an album: each photo's detections and caption. A second run reads only new photos."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from myvlm.album.regions import Size, Stored
from myvlm.api import MyVLM
from myvlm.boxes import Box
from myvlm.concepts.concept import Concept
from myvlm.files.claims import folder_lock
from myvlm.files.lines import add_lines, complete_lines, drop_partial_line, write_lines
from myvlm.files.writing import writing
from myvlm.text import contains_word, fold


class Seen(BaseModel):
    """A concept detected in a photo; `box` in pixels of the displayed photo, its EXIF orientation applied."""

    model_config = ConfigDict(frozen=True)

    name: str
    probability: float
    unsure: bool = False
    box: Box | None = None


class Row(BaseModel):
    """The journal entry of one photo.

    Attributes:
        file: absolute path.
        stamp: size in bytes and modification time in ns when the photo was read.
        by: digest of the model and concepts that read it; see `reader_digest`.
        size, turn, taken: see `Stored`.
        text: the caption.
        said_by: digest of what the caption depends on besides the photo; see `CaptionDependencies`. Empty in
            older rows.
        seen: the detected concepts.
        error: why the photo could not be used; the fields above from `size` on are then empty.
    """

    model_config = ConfigDict(frozen=True)

    file: Path
    stamp: tuple[int, int]
    by: str
    size: Size = (0, 0)
    turn: int = 1
    taken: str = ""
    text: str = ""
    said_by: str = ""
    seen: tuple[Seen, ...] = ()
    error: str = ""

    @property
    def stored(self) -> Stored:
        return Stored(self.size, self.turn, self.taken)


class Journal:
    """The rows of an album, each written to disk as soon as its photo is read.

    Args:
        file: JSON lines file, created with the first row. Invalid lines are skipped: their photos are read
            again.
        by: see `reader_digest`; rows with another value are out of date.
    """

    def __init__(self, file: Path, by: str) -> None:
        self.file = file
        self.by = by
        self._rows: dict[Path, Row] = {}
        self._lines = 0
        if file.exists():
            with folder_lock(file.parent):  # a line that another process is writing must not be cut
                self._read()
                drop_partial_line(file)

    def _read(self) -> None:
        lines = complete_lines(self.file)
        self._lines = len(lines)
        for line in lines:
            with suppress(ValueError):  # pydantic's ValidationError is a ValueError
                row = Row.model_validate(json.loads(line))
                self._rows[row.file] = row

    def row(self, file: Path) -> Row | None:
        """Return a photo's row; None if the photo is new or has changed, or the row is out of date."""
        row = self.row_of_any_reader(file)
        return row if row and row.by == self.by else None

    def row_of_any_reader(self, file: Path) -> Row | None:
        """Return a photo's row, even if it is out of date; None if the photo is new or has changed."""
        row = self._rows.get(file)
        return row if row and row.stamp == stamp(file) else None

    @property
    def files(self) -> list[Path]:
        """All photos that have a row, even one that is out of date."""
        return list(self._rows)

    def rows(self, files: Iterable[Path]) -> Iterator[Row]:
        """Return the up-to-date rows of these photos, in their order."""
        known = (self.row(file) for file in files)
        return (row for row in known if row)

    def add(self, row: Row) -> None:
        """Add a row. Raises NotWritableError if it cannot be written."""
        with writing(self.file, what="album", option="--report"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.file.parent):
                add_lines(self.file, [row.model_dump(mode="json")])
        self._rows[row.file] = row
        self._lines += 1

    def update_stamp(self, file: Path) -> None:
        """Update the stamp of a photo after a change of its metadata, which leaves its pixels the same."""
        if row := self._rows.get(file):
            self.add(row.model_copy(update={"stamp": stamp(file)}))

    def tidy(self) -> None:
        """Rewrite the file without rows that newer ones replaced and rows of deleted photos."""
        if not self.file.exists():
            return
        with folder_lock(self.file.parent):
            self._read()  # keep rows that another process has added
            kept = [row for row in self._rows.values() if row.file.exists()]
            if len(kept) < self._lines:
                write_lines(self.file, (row.model_dump(mode="json") for row in kept))
                self._rows, self._lines = {row.file: row for row in kept}, len(kept)


def stamp(file: Path) -> tuple[int, int]:
    """Return a file's size and modification time in ns, to see whether it changed; zeros if it is gone."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def reader_digest(vlm: MyVLM, prompt: str | None) -> str:
    """Return a digest of what a row depends on besides its photo: the model, the prompt and the concepts."""
    weights = vlm.backbone.fingerprint()
    parts: list[object] = [vlm.backbone.name, weights, prompt]
    for concept in vlm.concepts.values():
        head, tensors = concept.head.state()
        numbers = [tensors[name].tobytes() for name in sorted(tensors)]
        digest = hashlib.sha256(b"".join([*numbers, *_rows_of(concept, weights)]))
        parts += [concept.identifier, concept.spoken, concept.description, head.model_dump_json()]
        parts.append(digest.hexdigest())
    if (held := vlm.concepts.false_names_per_1000) is not None:
        parts.append(held)
    return _digest(parts)


def _rows_of(concept: Concept, weights: str) -> Iterator[bytes]:
    """Yield a concept's embedding rows for the model with these weights, under whatever backbone name."""
    return (own.directions.tobytes() for own in concept.embeddings.values() if own.fingerprint == weights)


class CaptionDependencies:
    """Tells whether an earlier caption of a photo still holds, given the concepts detected in the photo.

    Besides its photo, a caption depends on the model, the prompt and the detected concepts' embeddings.

    Args:
        vlm: the model, with its concepts.
        prompt: the instruction for all photos; None for the model's own.
    """

    def __init__(self, vlm: MyVLM, prompt: str | None) -> None:
        weights = vlm.backbone.fingerprint()
        self._said: dict[str, list[str | None]] = {}
        self._words: dict[str, set[str]] = {}
        for name, concept in vlm.concepts.items():
            learned = (hashlib.sha256(rows).hexdigest() for rows in _rows_of(concept, weights))
            self._said[name] = [name, concept.spoken, concept.category, concept.description, *learned]
            self._words[name] = {name, concept.spoken}
        asked = [name for name in self._words if prompt and contains_word(prompt, name)]
        self._call = [vlm.backbone.name, weights, prompt, asked]

    def digest(self, seen: Iterable[str]) -> str:
        """Return a digest of what a caption depends on if these concepts are detected.

        Other concepts and all heads are left out of it.
        """
        return _digest([self._call, *(self._said.get(name, [name]) for name in seen)])

    def names_only(self, text: str, seen: Iterable[str]) -> bool:
        """Return whether a caption contains no name of a concept other than the detected ones."""
        shown, there = fold(text), set(seen)
        words = (word for name, own in self._words.items() if name not in there for word in own)
        return not any(fold(word) in shown and contains_word(text, word) for word in words)


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
