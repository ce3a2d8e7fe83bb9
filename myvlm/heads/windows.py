"""Where to look in a picture: a small pyramid of square windows. Pure geometry.

A small object is a few pixels of the whole picture to an image encoder, and most of one window. So a head
scores windows as well, and the window that scores best is the box.
"""

from __future__ import annotations

from math import ceil
from typing import Literal, TypeAlias

from myvlm.boxes import Box
from myvlm.errors import InputError

Crops: TypeAlias = Literal["auto", "none"] | int

SCALES = (1.0, 1 / 2, 1 / 3)
"""Sides of the windows, relative to the shorter side of the picture."""

STRIDES = (1 / 2, 2 / 3, 3 / 4, 1.0)
"""Steps from window to window, relative to the window's side; the first that finds room for all is taken."""

AUTO_LIMIT = 48
SMALLEST_SIDE = 16


def windows(width: int, height: int, crops: Crops = "auto") -> list[Box]:
    """The windows of a picture, the whole picture first, then larger before smaller, row by row.

    Args:
        width, height: of the picture, in pixels.
        crops: "none" for the whole picture only; a number for at most so many windows, the whole picture
            included; "auto" for at most 48, which is 35 for a square picture and 46 for a 3:2 photo.

    Raises:
        InputError: `crops` is none of these.

    >>> windows(60, 60, "none")
    [(0.0, 0.0, 60.0, 60.0)]
    >>> windows(60, 40, 4)
    [(0.0, 0.0, 60.0, 40.0), (0.0, 0.0, 40.0, 40.0), (20.0, 0.0, 60.0, 40.0)]
    >>> len(windows(300, 300)), len(windows(300, 200))
    (35, 46)
    """
    limit = _limit(crops)
    boxes: list[Box] = [(0.0, 0.0, float(width), float(height))]
    for scale in SCALES:
        side = int(min(width, height) * scale)
        if side == max(width, height):
            continue  # a square picture is its own largest window
        if side < SMALLEST_SIDE:
            break
        grid = _densest_grid(width, height, side, limit - len(boxes))
        if not grid:
            break
        boxes += grid
    return boxes


def _limit(crops: Crops) -> int:
    if crops == "none":
        return 1
    if crops == "auto":
        return AUTO_LIMIT
    if isinstance(crops, bool) or not isinstance(crops, int) or crops < 1:
        raise InputError(
            "`crops` says how many windows of a picture are looked at.",
            got=repr(crops),
            expected='"auto", "none" or a number from 1 up',
            fix='leave it at "auto"',
        )
    return crops


def _densest_grid(width: int, height: int, side: int, room: int) -> list[Box]:
    """Evenly spaced squares that cover the picture, with the most overlap for which there is room."""
    for stride in STRIDES:
        lefts = _positions(width - side, side * stride)
        tops = _positions(height - side, side * stride)
        if len(lefts) * len(tops) <= room:
            return [_square(left, top, side) for top in tops for left in lefts]
    return []


def _positions(slack: int, step: float) -> list[int]:
    """Evenly spaced starts from 0 to `slack`, about `step` apart."""
    steps = ceil(slack / step - 0.1)  # a side cut to whole pixels must not cost one more row of windows
    return [round(slack * index / steps) for index in range(steps + 1)] if steps > 0 else [0]


def _square(left: int, top: int, side: int) -> Box:
    return (float(left), float(top), float(left + side), float(top + side))
