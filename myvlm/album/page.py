"""An album as one page: styles, program and all that is known inline, small pictures in a folder beside it.

Nothing else is fetched, and of these pictures only those on the screen. What enters is JSON without a tag.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image

from myvlm.album.journal import Row, Seen
from myvlm.files.photos import PASSED_OVER
from myvlm.files.writing import write_whole

THUMB_SIDE = 400
"""Pixels of a small picture's longer side; a card is about half as many wide, for screens of two a point."""


@dataclass(frozen=True)
class ShownConcept:
    """A concept as the page tells of it."""

    name: str
    category: str
    kind: str


class Place:
    """Where an album lies: the page, and beside it a folder: small pictures, the journal, features of photos.

    Args:
        page: the HTML file.

    >>> Place(Path("holiday.html")).folder.name
    'holiday_files'
    """

    def __init__(self, page: Path) -> None:
        self.page = page
        self.folder = page.with_name(f"{page.stem}_files")
        self.journal = self.folder / "journal.jsonl"
        self.thumbs = self.folder / "thumbs"
        self.features = self.folder / "features"

    def thumb(self, file: Path) -> Path:
        """The small picture of a photo."""
        return self.thumbs / f"{hashlib.blake2b(os.fsencode(file), digest_size=8).hexdigest()}.jpg"

    def keep(self, file: Path, picture: Image.Image) -> None:
        """Keep a photo small."""
        self.thumbs.mkdir(parents=True, exist_ok=True)
        (self.folder / PASSED_OVER).touch()  # it may lie among the photos, and is none of them
        factor = min(1.0, THUMB_SIDE / max(picture.size))
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0).save(self.thumb(file), quality=80)

    def write(self, rows: Sequence[Row], concepts: Sequence[ShownConcept], *, title: str) -> None:
        """Write the page.

        Raises:
            NotWritableError: it cannot be written.
        """
        numbers = {concept.name: number for number, concept in enumerate(concepts)}
        top = _common_folder([row.file for row in rows])
        album = {
            "thumbs": quote(f"{self.folder.name}/thumbs/"),
            "names": [(concept.name, concept.category, concept.kind) for concept in concepts],
            "photos": [self._photo(row, top, numbers) for row in rows],
        }
        template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
        inline = json.dumps(album, separators=(",", ":")).replace("<", "\\u003c")
        text = template.substitute(title=html.escape(title), album=inline)
        write_whole(self.page, text, what="page", option="--report")

    def _photo(self, row: Row, top: Path, numbers: dict[str, int]) -> list[Any]:
        size = row.stored.seen_size
        seen = [_seen(one, numbers[one.name], size) for one in row.seen if one.name in numbers]
        label = str(row.file.relative_to(top))
        href = _address(row.file, self.page.resolve().parent)
        return [self.thumb(row.file).name, href, label, row.text, seen, row.taken, *size, row.error]


def _seen(one: Seen, number: int, size: tuple[int, int]) -> list[Any]:
    """Its number, how sure, and its box as left, top, width and height in parts of the picture."""
    told: list[Any] = [number, round(one.probability, 3), None]
    if one.box:
        left, top, right, bottom = one.box
        parts = left / size[0], top / size[1], (right - left) / size[0], (bottom - top) / size[1]
        told[2] = [round(part, 4) for part in parts]
    return [*told, 1] if one.unsure else told


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files])) if files else Path()


def _address(file: Path, page_folder: Path) -> str:
    """The photo as the page links to it."""
    try:
        return quote(Path(os.path.relpath(file, page_folder)).as_posix())
    except ValueError:  # on Windows, on another drive
        return file.as_uri()
