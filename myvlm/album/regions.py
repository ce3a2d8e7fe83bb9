"""Regions as the Metadata Working Group has them, and boxes.

A region is in parts of the stored picture, not turned by its EXIF tag, by centre and size; a box in pixels of
the picture as it is seen, by its edges. After its "Guidelines for handling image metadata" 2.0 (2010).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import ExifTags, Image

from myvlm.boxes import Box, Point

Size: TypeAlias = tuple[int, int]
"""width, height in pixels."""

_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""For each value of EXIF's Orientation how the stored picture becomes what is seen: whether its axes change
places, and then whether it is mirrored from left to right, and from top to bottom."""


@dataclass(frozen=True)
class Region:
    """A named part of a stored picture.

    Attributes:
        name: what it shows; empty where nobody has said so yet.
        x, y: its centre, in parts of the stored picture's width and height.
        width, height: likewise.
        kind: `Face`, `Pet`, another word of the program that wrote it, or nothing.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    kind: str = ""

    @property
    def box(self) -> Box:
        """Its edges, in parts of the stored picture."""
        across, down = self.width / 2, self.height / 2
        return self.x - across, self.y - down, self.x + across, self.y + down


@dataclass(frozen=True)
class Stored:
    """How a picture is stored: its size, how it is turned, when it was taken.

    Attributes:
        size: of the pixels as they are stored.
        turn: EXIF's Orientation, 1 to 8.
        taken: when, as EXIF writes it, `2024:07:14 09:30:00`; empty where it does not say.
    """

    size: Size
    turn: int = 1
    taken: str = ""

    @property
    def seen_size(self) -> Size:
        """Of the picture as it is seen."""
        width, height = self.size
        return (height, width) if _TURNS[self.turn][0] else (width, height)

    def region(self, name: str, box: Box, kind: str = "") -> Region:
        """What lies within a box of the picture as it is seen, cut off at the picture's edges.

        >>> upright = Stored((400, 300), turn=6)  # 300 wide and 400 high once it is turned
        >>> upright.region("sks", (0, 0, 75, 40))
        Region(name='sks', x=0.05, y=0.875, width=0.1, height=0.25, kind='')
        """
        width, height = self.seen_size
        left, top = self._stored((_part(box[0], width), _part(box[1], height)))
        right, bottom = self._stored((_part(box[2], width), _part(box[3], height)))
        across, down = abs(right - left), abs(bottom - top)
        numbers = ((left + right) / 2, (top + bottom) / 2, across, down)
        x, y, w, h = (round(number, 6) for number in numbers)
        return Region(name, x, y, w, h, kind)

    def box(self, region: Region) -> Box:
        """The region's edges in pixels of the picture as it is seen.

        >>> upright = Stored((400, 300), turn=6)
        >>> upright.box(Region("sks", 0.05, 0.875, 0.1, 0.25))
        (0.0, 0.0, 75.0, 40.0)
        """
        width, height = self.seen_size
        corners = [self._seen(region.box[:2]), self._seen(region.box[2:])]
        across, down = sorted(x for x, _ in corners), sorted(y for _, y in corners)
        edges = across[0] * width, down[0] * height, across[1] * width, down[1] * height
        left, top, right, bottom = (round(edge, 3) for edge in edges)
        return left, top, right, bottom

    def _seen(self, point: Point) -> Point:
        """From parts of the stored picture to parts of what is seen."""
        swapped, mirrored, upside_down = _TURNS[self.turn]
        x, y = (point[1], point[0]) if swapped else point
        return (1 - x if mirrored else x), (1 - y if upside_down else y)

    def _stored(self, point: Point) -> Point:
        """From parts of what is seen to parts of the stored picture."""
        swapped, mirrored, upside_down = _TURNS[self.turn]
        x, y = (1 - point[0] if mirrored else point[0]), (1 - point[1] if upside_down else point[1])
        return (y, x) if swapped else (x, y)


def read_stored(file: Path) -> Stored:
    """What the head of a file says; its pixels are not read. A damaged EXIF block says nothing.

    Raises:
        OSError: it cannot be read as a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is damaged; the pixels are whole
        with Image.open(file) as opened:
            size = opened.size
            if opened.format == "TIFF":  # of these Pillow says what they are once they are turned
                size = _tiff_size(opened)
            try:
                exif = opened.getexif()
                turn = exif.get(ExifTags.Base.Orientation, 1)
                details = exif.get_ifd(ExifTags.IFD.Exif)
                taken = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime, "")
            except Exception:  # Pillow raises almost anything on a damaged block
                return Stored(size)
    return Stored(size, turn if isinstance(turn, int) and turn in _TURNS else 1, str(taken).strip("\0 "))


def _tiff_size(opened: Image.Image) -> Size:
    exif = opened.getexif()
    return exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength]


def same_shape(first: Size, second: Size) -> bool:
    """Whether two sizes differ by a factor and rounding alone, so that parts of one are parts of the other.

    >>> same_shape((4032, 3024), (1024, 768)), same_shape((4032, 3024), (3024, 4032))
    (True, False)
    """
    if 0 in (*first, *second):
        return False
    ratio = first[0] * second[1] / (first[1] * second[0])
    return abs(ratio - 1) < 0.02


def _part(pixels: float, of: int) -> float:
    return min(max(pixels / of, 0.0), 1.0)
