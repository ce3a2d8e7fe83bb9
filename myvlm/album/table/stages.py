"""The three stages that make an album's table: read files, recognise concepts, caption the pictures.

Each stage maps columns to columns, so that the stages run in one process or each in processes of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from myvlm.album.table.rows import PhotoRow
from myvlm.api import MyVLM
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import MyVLMError
from myvlm.heads.detections import Detection
from myvlm.images import LoadedImage, loaded
from myvlm.runtime.cluster import Columns
from myvlm.speaking.addressing import Names, generate_replies
from myvlm.speaking.batches import map_in_batches

INITIAL_VALUES = {
    "hash": "",
    "pixels": None,
    "width": 0,
    "height": 0,
    "seen": "[]",
    "caption": "",
    "error": "",
}
"""Initial values of a photo's columns besides its `path`.

`pixels` are RGB bytes, or None if no stage has anything left to do; `seen` is JSON.
"""


@dataclass(frozen=True)
class Work:
    """What a worker process needs to recognise concepts in photos and to caption them.

    Attributes:
        backbone, device, dtype: see `MyVLM.from_pretrained`.
        concepts: the library; it is sent to the process.
        prompt: an instruction instead of the model's own.
        batch: number of pictures that a stage processes at a time.
    """

    backbone: str
    device: str | None
    dtype: str | None
    concepts: ConceptLibrary
    prompt: str | None
    batch: int

    def library(self) -> ConceptLibrary:
        """Return the concepts, with their encoders on this process's device."""
        import torch

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        here = [
            dataclasses.replace(one, head=type(one.head).from_state(*one.head.state(), device=device))
            for one in self.concepts.values()
        ]
        known = self.concepts.false_names_per_1000
        return ConceptLibrary(here, device=device, false_names_per_1000=known)

    def model(self) -> MyVLM:
        """Load the model, with the concepts."""
        vlm = MyVLM.from_pretrained(self.backbone, device=self.device, dtype=self.dtype)
        return vlm.with_concepts(self.library())


class Read:
    """First stage: hash each file, and decode the pictures whose hash is not known.

    Args:
        known: hashes of the files whose rows are known.
    """

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known

    def __call__(self, columns: Columns) -> Columns:
        return _columns([self._read(Path(path)) for path in columns["path"]])

    def _read(self, file: Path) -> dict[str, Any]:
        row: dict[str, Any] = {"path": str(file), **INITIAL_VALUES}
        try:
            with file.open("rb") as opened:
                row["hash"] = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            if row["hash"] in self.known:
                return row
            picture = loaded(file).image
        except MyVLMError as error:
            return {**row, "error": _reason(error, file)}
        except OSError as error:
            return {**row, "error": f"{file.name} cannot be read: {error.strerror or error}"}
        return {**row, "pixels": picture.tobytes(), "width": picture.width, "height": picture.height}


class Recognise:
    """Second stage: detect concepts in each picture, with probabilities and boxes.

    Args:
        library: the concepts.
    """

    def __init__(self, library: ConceptLibrary) -> None:
        self.library = library

    def __call__(self, columns: Columns) -> Columns:
        return _fill_column(columns, "seen", self._look)

    def _look(self, rows: list[dict[str, Any]], photos: list[LoadedImage]) -> list[str]:
        found = self.library.recognise(photos)
        return [json.dumps([_document(one) for one in own.present]) for own in found]


class Speak:
    """Third stage: caption each picture, with the concepts detected in it.

    Args:
        vlm: the model, with the library of the second stage.
        prompt: see `Work`.
    """

    def __init__(self, vlm: MyVLM, prompt: str | None) -> None:
        self.vlm = vlm
        self.names = Names(vlm.backbone, vlm.concepts.values())
        self.prompt = prompt or vlm.backbone.caption_prompt

    def __call__(self, columns: Columns) -> Columns:
        said = _fill_column(columns, "caption", self._speak)
        return {**said, "pixels": [None] * len(said["path"])}

    def _speak(self, rows: list[dict[str, Any]], photos: list[LoadedImage]) -> list[str]:
        library, count = self.vlm.concepts, len(rows)
        found = [{one["name"]: one["box"] for one in json.loads(row["seen"])} for row in rows]
        seen = [[library[name] for name in boxes] for boxes in found]
        prompts, names, where = [self.prompt] * count, [self.names] * count, [boxes.get for boxes in found]
        spoken = generate_replies(self.vlm.backbone, photos, seen, prompts, {}, names, where)
        return [one.text for one in spoken]


def photo_rows(columns: Columns) -> list[PhotoRow]:
    """Convert the columns of the last stage to rows; a photo with a known hash has nothing else filled in."""
    rows = []
    for row in _rows(columns):
        seen = json.loads(row["seen"])
        boxes = tuple(tuple(one["box"]) if one["box"] else None for one in seen)
        names, sure = tuple(one["name"] for one in seen), tuple(one["probability"] for one in seen)
        rows.append(PhotoRow(row["path"], row["hash"], names, sure, boxes, row["caption"], row["error"]))
    return rows


def _fill_column(
    columns: Columns, name: str, work: Callable[[list[dict[str, Any]], list[LoadedImage]], Sequence[Any]]
) -> Columns:
    """Fill one column, or `error`, of each row that has a picture.

    Args:
        columns: the stage's input.
        name: column to fill.
        work: called with some rows and their pictures; returns the column's value for each.
    """
    rows = _rows(columns)
    todo = {row["path"]: row for row in rows if row["pixels"] is not None}
    photos = [_photo(row) for row in todo.values()]

    def make(some: list[LoadedImage]) -> list[dict[str, Any]]:
        own = [todo[photo.name] for photo in some]
        return [{name: value} for value in work(own, some)]

    def on_error(error: MyVLMError, source: Any) -> dict[str, Any]:
        return {"error": _reason(error, Path(source.name)), "pixels": None, "seen": "[]"}

    for photo, made in zip(photos, map_in_batches(photos, make, on_error), strict=True):
        todo[photo.name].update(made)
    return _columns(rows)


def _photo(row: dict[str, Any]) -> LoadedImage:
    picture = Image.frombytes("RGB", (row["width"], row["height"]), row["pixels"])
    return LoadedImage(picture, row["path"], Path(row["path"]))


def _document(one: Detection) -> dict[str, Any]:
    box = None if one.box is None else [round(edge, 1) for edge in one.box]
    return {"name": one.identifier, "probability": round(one.probability, 4), "box": box}


def _reason(error: MyVLMError, file: Path) -> str:
    return error.short.replace(str(file), file.name)


def _rows(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _columns(rows: Sequence[dict[str, Any]]) -> Columns:
    return {name: [row[name] for row in rows] for name in ("path", *INITIAL_VALUES)}
