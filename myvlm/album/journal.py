"""The journal of an album: what was seen in each photo, so that a second run reads only what is new."""

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
from myvlm.files.claims import writing_in
from myvlm.files.lines import add_lines, drop_cut_line, whole_lines, write_lines
from myvlm.text import contains_word, fold


class Seen(BaseModel):
    """One concept that was seen in a photo; `box` in pixels of the photo, turned as its EXIF tag says."""

    model_config = ConfigDict(frozen=True)

    name: str
    probability: float
    unsure: bool = False
    box: Box | None = None


class Row(BaseModel):
    """One photo of an album.

    Attributes:
        file: its absolute path.
        stamp: bytes and time of the last change, in ns, as it was read.
        by: what it was read by; see `reader`.
        size, turn, taken: see `Stored`.
        text: the caption.
        said_by: what the caption depends on beside the photo; see `Captions`. Empty in older rows.
        seen: the concepts that are in it.
        error: why it could not be used; then nothing else is known of it.
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
    """The rows of an album, each on the disk the moment its photo is read.

    Args:
        file: of JSON lines; made when the first row comes. Lines that are no rows are passed over: a photo
            is read once more, and nothing is lost.
        by: see `reader`; rows that something else read do not count.
    """

    def __init__(self, file: Path, by: str) -> None:
        self.file = file
        self.by = by
        self._rows: dict[Path, Row] = {}
        self._lines = 0
        if file.exists():
            with writing_in(file.parent):  # or a line that another process is writing would be cut
                self._read()
                drop_cut_line(file)

    def _read(self) -> None:
        lines = whole_lines(self.file)
        self._lines = len(lines)
        for line in lines:
            with suppress(ValueError):  # of which pydantic's is one
                row = Row.model_validate(json.loads(line))
                self._rows[row.file] = row

    def row(self, file: Path) -> Row | None:
        """What is known of a photo; None where it is new, has changed, or was read by something else."""
        row = self.earlier(file)
        return row if row and row.by == self.by else None

    def earlier(self, file: Path) -> Row | None:
        """What is known of a photo, whatever read it; None where it is new or has changed."""
        row = self._rows.get(file)
        return row if row and row.stamp == stamp(file) else None

    @property
    def files(self) -> list[Path]:
        """All photos of which something is known, whatever read them."""
        return list(self._rows)

    def rows(self, files: Iterable[Path]) -> Iterator[Row]:
        """What is known of these photos, in their order."""
        known = (self.row(file) for file in files)
        return (row for row in known if row)

    def add(self, row: Row) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with writing_in(self.file.parent):
            add_lines(self.file, [row.model_dump(mode="json")])
        self._rows[row.file] = row
        self._lines += 1

    def changed(self, file: Path) -> None:
        """Know a photo again whose metadata was written to just now: its pixels are the same."""
        if row := self._rows.get(file):
            self.add(row.model_copy(update={"stamp": stamp(file)}))

    def tidy(self) -> None:
        """Leave out rows that newer ones replaced, and those of photos that are gone."""
        if not self.file.exists():
            return
        with writing_in(self.file.parent):
            self._read()  # what another process has added stays
            kept = [row for row in self._rows.values() if row.file.exists()]
            if len(kept) < self._lines:
                write_lines(self.file, (row.model_dump(mode="json") for row in kept))
                self._rows, self._lines = {row.file: row for row in kept}, len(kept)


def stamp(file: Path) -> tuple[int, int]:
    """By which it is known that a file is as it was; zeros for one that is gone."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def reader(vlm: MyVLM, prompt: str | None) -> str:
    """A digest of what a row depends on beside its photo: the model, the prompt, what concepts learned."""
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
    """What a concept learned for a model of these weights, under whatever name."""
    return (own.directions.tobytes() for own in concept.embeddings.values() if own.fingerprint == weights)


class Captions:
    """What captions depend on beside their photos, by who is seen: the model, the prompt, what these learned.

    Args:
        vlm: the model, with its concepts.
        prompt: that of all photos, or None.
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

    def by(self, seen: Iterable[str]) -> str:
        """A digest of it where these are seen; neither the other concepts nor any head is in it."""
        return _digest([self._call, *(self._said.get(name, [name]) for name in seen)])

    def holds(self, text: str, seen: Iterable[str]) -> bool:
        """Whether a caption names nobody but those who are seen."""
        shown, there = fold(text), set(seen)
        words = (word for name, own in self._words.items() if name not in there for word in own)
        return not any(fold(word) in shown and contains_word(text, word) for word in words)


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
