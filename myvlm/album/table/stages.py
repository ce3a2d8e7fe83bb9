"""The three stages of an album: a file is read, concepts are looked for in it, and it is spoken of.

Each takes and gives columns, so that they run one behind the other in one process or each in others.
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

EMPTY = {"hash": "", "pixels": None, "width": 0, "height": 0, "seen": "[]", "caption": "", "error": ""}
"""What a photo is in the columns before anything is known of it but its `path`.

`pixels` are RGB bytes, and None where there is nothing more to do: `seen` is JSON.
"""


@dataclass(frozen=True)
class Work:
    """What a process needs to look at photos and to speak of them.

    Attributes:
        backbone, device, dtype: see `MyVLM.from_pretrained`.
        concepts: the library; it is sent there.
        prompt: an instruction instead of the model's own.
        batch: pictures that are looked at, and spoken of, together.
    """

    backbone: str
    device: str | None
    dtype: str | None
    concepts: ConceptLibrary
    prompt: str | None
    batch: int

    def library(self) -> ConceptLibrary:
        """The concepts, their encoders on the device of this process."""
        import torch

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        here = [
            dataclasses.replace(one, head=type(one.head).from_state(*one.head.state(), device=device))
            for one in self.concepts.values()
        ]
        known = self.concepts.false_names_per_1000
        return ConceptLibrary(here, device=device, false_names_per_1000=known)

    def model(self) -> MyVLM:
        """The model with the concepts."""
        vlm = MyVLM.from_pretrained(self.backbone, device=self.device, dtype=self.dtype)
        return vlm.with_concepts(self.library())


class Read:
    """Read files: their content's hash, and the pictures of those that are not known by it.

    Args:
        known: hashes.
    """

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known

    def __call__(self, columns: Columns) -> Columns:
        return _columns([self._read(Path(path)) for path in columns["path"]])

    def _read(self, file: Path) -> dict[str, Any]:
        row: dict[str, Any] = {"path": str(file), **EMPTY}
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
    """Say who is in each picture, how sure, and where.

    Args:
        library: of the concepts.
    """

    def __init__(self, library: ConceptLibrary) -> None:
        self.library = library

    def __call__(self, columns: Columns) -> Columns:
        return _worked_on(columns, "seen", self._look)

    def _look(self, rows: list[dict[str, Any]], photos: list[LoadedImage]) -> list[str]:
        found = self.library.recognise(photos)
        return [json.dumps([_document(one) for one in own.present]) for own in found]


class Speak:
    """Have the model describe each picture, with those who were seen in it.

    Args:
        vlm: with the library that was looked for.
        prompt: see `Work`.
    """

    def __init__(self, vlm: MyVLM, prompt: str | None) -> None:
        self.vlm = vlm
        self.names = Names(vlm.backbone, vlm.concepts.values())
        self.prompt = prompt or vlm.backbone.caption_prompt

    def __call__(self, columns: Columns) -> Columns:
        said = _worked_on(columns, "caption", self._speak)
        return {**said, "pixels": [None] * len(said["path"])}

    def _speak(self, rows: list[dict[str, Any]], photos: list[LoadedImage]) -> list[str]:
        library, count = self.vlm.concepts, len(rows)
        found = [{one["name"]: one["box"] for one in json.loads(row["seen"])} for row in rows]
        seen = [[library[name] for name in boxes] for boxes in found]
        prompts, names, where = [self.prompt] * count, [self.names] * count, [boxes.get for boxes in found]
        spoken = generate_replies(self.vlm.backbone, photos, seen, prompts, {}, names, where)
        return [one.text for one in spoken]


def finished(columns: Columns) -> list[PhotoRow]:
    """The rows of what has passed all stages; one whose content was known has nothing but its hash."""
    rows = []
    for row in _rows(columns):
        seen = json.loads(row["seen"])
        boxes = tuple(tuple(one["box"]) if one["box"] else None for one in seen)
        names, sure = tuple(one["name"] for one in seen), tuple(one["probability"] for one in seen)
        rows.append(PhotoRow(row["path"], row["hash"], names, sure, boxes, row["caption"], row["error"]))
    return rows


def _worked_on(
    columns: Columns, name: str, work: Callable[[list[dict[str, Any]], list[LoadedImage]], Sequence[Any]]
) -> Columns:
    """The columns with one more filled, where there is a picture; or the reason why that could not be."""
    rows = _rows(columns)
    todo = {row["path"]: row for row in rows if row["pixels"] is not None}
    photos = [_photo(row) for row in todo.values()]

    def make(some: list[LoadedImage]) -> list[dict[str, Any]]:
        own = [todo[photo.name] for photo in some]
        return [{name: value} for value in work(own, some)]

    def instead(error: MyVLMError, source: Any) -> dict[str, Any]:
        return {"error": _reason(error, Path(source.name)), "pixels": None, "seen": "[]"}

    for photo, made in zip(photos, map_in_batches(photos, make, instead), strict=True):
        todo[photo.name].update(made)
    return _columns(rows)


def _photo(row: dict[str, Any]) -> LoadedImage:
    picture = Image.frombytes("RGB", (row["width"], row["height"]), row["pixels"])
    return LoadedImage(picture, row["path"], Path(row["path"]))


def _document(one: Detection) -> dict[str, Any]:
    box = None if one.box is None else [round(edge, 1) for edge in one.box]
    return {"name": one.identifier, "probability": round(one.probability, 4), "box": box}


def _reason(error: MyVLMError, file: Path) -> str:
    return f"{error.what} {error.got or ''}".strip().replace(str(file), file.name)


def _rows(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _columns(rows: Sequence[dict[str, Any]]) -> Columns:
    return {name: [row[name] for row in rows] for name in ("path", *EMPTY)}
