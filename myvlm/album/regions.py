"""Convert between boxes and the regions of the Metadata Working Group (MWG).

A region has centre and size, as fractions of the stored picture, before its EXIF orientation is applied. A
box has edges in pixels of the displayed picture, after the orientation is applied. See the MWG's "Guidelines
for handling image metadata" 2.0 (2010).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import ExifTags, Image

from myvlm.boxes import Box, Point

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""How each value of EXIF's Orientation turns the stored picture into the displayed one: whether the axes are
swapped, and then whether it is mirrored from left to right and from top to bottom."""


@dataclass(frozen=True)
class Region:
    """A named part of a stored picture.

    Attributes:
        name: who or what the region shows; empty for an unnamed region.
        x, y: centre, as fractions of the stored picture's width and height.
        width, height: size, as fractions of the stored picture's width and height.
        kind: the MWG's region type: `Face`, `Pet`, another word of the program that wrote it, or empty.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    kind: str = ""

    @property
    def box(self) -> Box:
        """Left, top, right and bottom edge, as fractions of the stored picture."""
        across, down = self.width / 2, self.height / 2
        return self.x - across, self.y - down, self.x + across, self.y + down


@dataclass(frozen=True)
class Stored:
    """A picture's stored size, EXIF orientation and date.

    Attributes:
        size: size of the stored picture, before its orientation is applied.
        turn: EXIF's Orientation, 1 to 8.
        taken: when the photo was taken, in EXIF's format, `2024:07:14 09:30:00`; empty if unknown.
    """

    size: Size
    turn: int = 1
    taken: str = ""

    @property
    def displayed_size(self) -> Size:
        """Size of the displayed picture, after its orientation is applied."""
        width, height = self.size
        return (height, width) if _ORIENTATIONS[self.turn][0] else (width, height)

    def region(self, name: str, box: Box, kind: str = "") -> Region:
        """Convert a box, in pixels of the displayed picture, to a region; clipped to the picture.

        >>> upright = Stored((400, 300), turn=6)  # 300 wide and 400 high once it is turned
        >>> upright.region("sks", (0, 0, 75, 40))
        Region(name='sks', x=0.05, y=0.875, width=0.1, height=0.25, kind='')
        """
        width, height = self.displayed_size
        left, top = self._to_stored((_fraction(box[0], width), _fraction(box[1], height)))
        right, bottom = self._to_stored((_fraction(box[2], width), _fraction(box[3], height)))
        across, down = abs(right - left), abs(bottom - top)
        numbers = ((left + right) / 2, (top + bottom) / 2, across, down)
        x, y, w, h = (round(number, 6) for number in numbers)
        return Region(name, x, y, w, h, kind)

    def box(self, region: Region) -> Box:
        """Convert a region to a box, in pixels of the displayed picture.

        >>> upright = Stored((400, 300), turn=6)
        >>> upright.box(Region("sks", 0.05, 0.875, 0.1, 0.25))
        (0.0, 0.0, 75.0, 40.0)
        """
        width, height = self.displayed_size
        corners = [self._to_displayed(region.box[:2]), self._to_displayed(region.box[2:])]
        across, down = sorted(x for x, _ in corners), sorted(y for _, y in corners)
        edges = across[0] * width, down[0] * height, across[1] * width, down[1] * height
        left, top, right, bottom = (round(edge, 3) for edge in edges)
        return left, top, right, bottom

    def _to_displayed(self, point: Point) -> Point:
        """Map a point from fractions of the stored picture to fractions of the displayed one."""
        swapped, mirrored, upside_down = _ORIENTATIONS[self.turn]
        x, y = (point[1], point[0]) if swapped else point
        return (1 - x if mirrored else x), (1 - y if upside_down else y)

    def _to_stored(self, point: Point) -> Point:
        """Map a point from fractions of the displayed picture to fractions of the stored one."""
        swapped, mirrored, upside_down = _ORIENTATIONS[self.turn]
        x, y = (1 - point[0] if mirrored else point[0]), (1 - point[1] if upside_down else point[1])
        return (y, x) if swapped else (x, y)


def read_stored(file: Path) -> Stored:
    """Read a picture's size, orientation and date from its file's header, without decoding pixels.

    A damaged EXIF block counts as none.

    Raises:
        OSError: the file cannot be read as a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata; the pixels are intact
        with Image.open(file) as opened:
            size = opened.size
            if opened.format == "TIFF":  # Pillow gives a TIFF's size after its orientation is applied
                size = _tiff_size(opened)
            try:
                exif = opened.getexif()
                turn = exif.get(ExifTags.Base.Orientation, 1)
                details = exif.get_ifd(ExifTags.IFD.Exif)
                taken = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime, "")
            except Exception:  # Pillow raises almost anything on a damaged block
                return Stored(size)
    return Stored(
        size, turn if isinstance(turn, int) and turn in _ORIENTATIONS else 1, str(taken).strip("\0 ")
    )


def _tiff_size(opened: Image.Image) -> Size:
    exif = opened.getexif()
    return exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength]


def same_shape(first: Size, second: Size) -> bool:
    """Return whether two sizes have the same aspect ratio up to rounding, so that fractions carry over.

    >>> same_shape((4032, 3024), (1024, 768)), same_shape((4032, 3024), (3024, 4032))
    (True, False)
    """
    if 0 in (*first, *second):
        return False
    ratio = first[0] * second[1] / (first[1] * second[0])
    return abs(ratio - 1) < 0.02


def _fraction(pixels: float, of: int) -> float:
    return min(max(pixels / of, 0.0), 1.0)
