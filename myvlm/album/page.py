"""Write an album as one HTML page, with styles, script and data inline and thumbnails in a folder beside it.

The page loads nothing else, and only the thumbnails on the screen. The data is JSON with every `<` escaped.
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
from myvlm.files.photos import NO_ALBUM_FILE
from myvlm.files.writing import write_atomically, writing

THUMB_SIDE = 400
"""Pixels of a thumbnail's longer side: about twice the width of a card, for screens of double density."""


@dataclass(frozen=True)
class ShownConcept:
    """The data of a concept that the page shows."""

    name: str
    category: str
    kind: str


class AlbumFiles:
    """The files of an album: the page, and a folder beside it with thumbnails, journal and photo features.

    Args:
        page: the HTML file.

    >>> AlbumFiles(Path("holiday.html")).folder.name
    'holiday_files'
    """

    def __init__(self, page: Path) -> None:
        self.page = page
        self.folder = page.with_name(f"{page.stem}_files")
        self.journal = self.folder / "journal.jsonl"
        self.thumbs = self.folder / "thumbs"
        self.features = self.folder / "features"

    def thumb(self, file: Path) -> Path:
        """Return the path of a photo's thumbnail."""
        return self.thumbs / f"{hashlib.blake2b(os.fsencode(file), digest_size=8).hexdigest()}.jpg"

    def save_thumbnail(self, file: Path, picture: Image.Image) -> None:
        """Save a photo's thumbnail. Raises as `write`."""
        factor = min(1.0, THUMB_SIDE / max(picture.size))
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        small = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        with writing(self.folder, what="album", option="--report"):
            self.thumbs.mkdir(parents=True, exist_ok=True)
            (self.folder / NO_ALBUM_FILE).touch()  # the folder may lie inside the album
            small.save(self.thumb(file), quality=80)

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
        write_atomically(self.page, text, what="page", option="--report")

    def _photo(self, row: Row, top: Path, numbers: dict[str, int]) -> list[Any]:
        size = row.stored.displayed_size
        seen = [_detection_values(one, numbers[one.name], size) for one in row.seen if one.name in numbers]
        label = str(row.file.relative_to(top))
        href = _link(row.file, self.page.resolve().parent)
        return [self.thumb(row.file).name, href, label, row.text, seen, row.taken, *size, row.error]


def _detection_values(one: Seen, number: int, size: tuple[int, int]) -> list[Any]:
    """Return a detection as the page reads it: concept number, probability, box, and 1 if unsure.

    The box is left, top, width and height as fractions of the picture.
    """
    values: list[Any] = [number, round(one.probability, 3), None]
    if one.box:
        left, top, right, bottom = one.box
        parts = left / size[0], top / size[1], (right - left) / size[0], (bottom - top) / size[1]
        values[2] = [round(part, 4) for part in parts]
    return [*values, 1] if one.unsure else values


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files])) if files else Path()


def _link(file: Path, page_folder: Path) -> str:
    """Return the URL by which the page links to a photo."""
    try:
        return quote(Path(os.path.relpath(file, page_folder)).as_posix())
    except ValueError:  # on Windows, on another drive
        return file.as_uri()
