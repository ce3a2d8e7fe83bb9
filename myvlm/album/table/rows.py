"""The table of an album on disk: several parts while it is read, one Parquet file once it is complete."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Self
from uuid import uuid4

from myvlm.album.journal import reader_digest
from myvlm.api import MyVLM
from myvlm.boxes import Box
from myvlm.errors import NotWritableError, import_extra
from myvlm.files.photos import NO_ALBUM_FILE
from myvlm.files.writing import atomic_file

PART_ROWS, PART_SECONDS = 64, 5.0
"""A part is written after so many rows or seconds: what a killed run has to read again at most."""


@dataclass(frozen=True)
class ReadBy:
    """What a row depends on besides its photo.

    Attributes:
        model, model_fingerprint: name of the model, and fingerprint of its weights.
        concepts_fingerprint: digest of the concepts, the model and the prompt.
    """

    model: str
    model_fingerprint: str
    concepts_fingerprint: str

    @classmethod
    def of(cls, vlm: MyVLM, prompt: str | None) -> Self:
        return cls(vlm.backbone.name, vlm.backbone.fingerprint(), reader_digest(vlm, prompt))


@dataclass(frozen=True)
class PhotoRow:
    """The table's row of one photo.

    Attributes:
        path: path of the file.
        hash: BLAKE2b of the file's content in hexadecimal; empty if the file cannot be read at all.
        seen, probabilities, boxes: the detected concepts, their probabilities, and their boxes in pixels of
            the displayed photo; a box is None if the head gives none.
        caption: the model's caption.
        error: why the photo could not be used; the other fields but `path` and `hash` are then empty.
    """

    path: str
    hash: str = ""
    seen: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    caption: str = ""
    error: str = ""


class AlbumTable:
    """The rows of an album: `album.parquet`, and beside it a folder `parts` until the table is complete.

    Args:
        folder: folder of the table, created with the first part.
        by: the model and concepts in use; rows read by others are ignored.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, by: ReadBy) -> None:
        self._arrow = import_extra("pyarrow", what="The table of an album", install="myvlm[ray]")
        self._parquet = import_extra("pyarrow.parquet", what="The table of an album", install="myvlm[ray]")
        self.file, self.by = folder / "album.parquet", by
        self._parts = folder / "parts"
        self._by_hash: dict[str, PhotoRow] = {}
        self._done: dict[str, PhotoRow] = {}
        self._waiting: list[PhotoRow] = []
        self._written = monotonic()
        for file in [*sorted(self._parts.glob("*.parquet")), *([self.file] if self.file.exists() else [])]:
            self._by_hash |= {row.hash: row for row in self._read(file) if row.hash and not row.error}

    @property
    def known(self) -> frozenset[str]:
        """Hashes of the files whose rows are known from an earlier run."""
        return frozenset(self._by_hash)

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Return the paths that this run has no row for yet."""
        return [path for path in paths if path not in self._done]

    def same_as(self, path: str, digest: str) -> PhotoRow:
        """Return the row of a photo whose content is known, with this path."""
        return dataclasses.replace(self._by_hash[digest], path=path)

    def add(self, row: PhotoRow) -> bool:
        """Add a row, and write a part when it is due; return False if the photo has a row already."""
        if row.path in self._done:
            return False
        self._done[row.path] = row
        self._waiting.append(row)
        if len(self._waiting) >= PART_ROWS or monotonic() - self._written >= PART_SECONDS:
            self.write_part()
        return True

    def write_part(self) -> None:
        """Write the rows that are not on disk yet into a new part."""
        if self._waiting:
            self._write(self._parts / f"{uuid4().hex}.parquet", self._waiting)
            self._waiting = []
        self._written = monotonic()

    def finish(self, paths: Sequence[str]) -> list[PhotoRow]:
        """Write the table of these photos, in their order; it replaces the earlier table and all parts."""
        rows = [self._done[path] for path in paths]
        self._write(self.file, rows)
        shutil.rmtree(self._parts, ignore_errors=True)
        self._waiting = []
        return rows

    def _read(self, file: Path) -> list[PhotoRow]:
        names = [field.name for field in dataclasses.fields(PhotoRow)]
        try:
            rows = self._parquet.read_table(file).to_pylist()
            return [
                PhotoRow(**{name: _frozen(row[name]) for name in names})
                for row in rows
                if all(row[name] == value for name, value in dataclasses.asdict(self.by).items())
            ]
        except (OSError, ValueError, KeyError, self._arrow.ArrowException):
            return []  # not a table of ours: its photos are read again

    def _write(self, target: Path, rows: Sequence[PhotoRow]) -> None:
        by = dataclasses.asdict(self.by)
        table = self._arrow.Table.from_pylist(
            [{**dataclasses.asdict(row), **by} for row in rows], schema=self._schema()
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.file.parent / NO_ALBUM_FILE).touch()
            with atomic_file(target) as fresh:
                self._parquet.write_table(table, fresh, compression="zstd")
        except OSError as error:
            raise NotWritableError(
                f"The table cannot be written to {target}.",
                got=f"{type(error).__name__}: {error.strerror or error}",
                expected="a writable folder",
                fix="choose another folder with --out",
            ) from error

    def _schema(self) -> Any:
        arrow = self._arrow
        text, words = arrow.string(), arrow.list_(arrow.string())
        numbers, boxes = arrow.list_(arrow.float64()), arrow.list_(arrow.list_(arrow.float64()))
        kinds = {"seen": words, "probabilities": numbers, "boxes": boxes}
        fields = [*dataclasses.fields(PhotoRow), *dataclasses.fields(ReadBy)]
        return arrow.schema([(field.name, kinds.get(field.name, text)) for field in fields])


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
