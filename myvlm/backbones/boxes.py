"""Boxes in pixels of the original picture: the part that a model sees, and boxes parsed from its replies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from myvlm.boxes import Box

NUMBER = r"(-?\d+(?:\.\d+)?)"
BETWEEN = r"[\s,()\[\]<>]+"
FOUR = re.compile(rf"[<(\[]\s*{NUMBER}{BETWEEN}{NUMBER}{BETWEEN}{NUMBER}{BETWEEN}{NUMBER}\s*[>)\]]")


def kept_part(image_processor: Any, size: tuple[int, int]) -> Box:
    """The part of a picture that an image processor passes to the model, in the picture's pixels.

    This is all of it, or the center crop of the resized picture, whose sizes and offsets are whole pixels,
    rounded down.

    >>> from transformers import CLIPImageProcessor
    >>> sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    >>> kept_part(CLIPImageProcessor(**sizes), (200, 100))
    (50.0, 0.0, 150.0, 100.0)
    >>> [round(side, 1) for side in kept_part(CLIPImageProcessor(**sizes), (70, 30))]  # 18 to 46 of 65
    [19.4, 0.0, 49.5, 30.0]
    """
    if not getattr(image_processor, "do_center_crop", False):
        return 0.0, 0.0, float(size[0]), float(size[1])
    wanted, cut = image_processor.size, image_processor.crop_size
    shortest = getattr(wanted, "shortest_edge", None)
    resized = (wanted.width, wanted.height)
    if shortest:
        resized = (int(shortest * size[0] / min(size)), int(shortest * size[1] / min(size)))
    (left, right), (top, bottom) = (
        _middle(*sides) for sides in zip(size, resized, (cut.width, cut.height), strict=True)
    )
    return left, top, right, bottom


def _middle(side: int, resized: int, cut: int) -> tuple[float, float]:
    """Start and end of the center crop along one side, in pixels before resizing."""
    first = int((resized - cut) / 2)
    return first * side / resized, (first + cut) * side / resized


def four_numbers(reply: str) -> tuple[float, float, float, float] | None:
    """The first four bracketed numbers in a text: `{<25><30><75><80>}`, `(1,2),(3,4)`, `[1, 2, 3, 4]`.

    >>> four_numbers("ulmo { <0> <26> <50> <100> }")
    (0.0, 26.0, 50.0, 100.0)
    >>> four_numbers("cup(27,81),(455,902)")
    (27.0, 81.0, 455.0, 902.0)
    >>> four_numbers('[{"bbox_2d": [10, 20, 30, 40], "label": "sks"}]')
    (10.0, 20.0, 30.0, 40.0)
    >>> four_numbers("two mugs (1) and 3 dogs")
    """
    found = FOUR.search(reply)
    if not found:
        return None
    left, top, right, bottom = (float(number) for number in found.groups())
    return left, top, right, bottom


def on_grid(
    numbers: Sequence[float] | None, grid: float | tuple[float, float], region: Sequence[float]
) -> Box | None:
    """Convert a box from grid coordinates of a region to pixels; None if there is no box or it is empty.

    Args:
        numbers: left, top, right, bottom in grid coordinates, or None.
        grid: number of grid steps across the region: one for both directions, or horizontal and vertical.
        region: left, top, right, bottom in pixels: the part of the picture that the model sees.

    >>> on_grid((25, 30, 75, 80), 100, (40, 0, 240, 200))
    (90.0, 60.0, 190.0, 160.0)
    >>> on_grid((25, 30, 25, 80), 100, (40, 0, 240, 200))
    """
    if numbers is None:
        return None
    wide, high = grid if isinstance(grid, tuple) else (grid, grid)
    left, top, right, bottom = region

    def across(number: float) -> float:
        return left + min(max(number / wide, 0.0), 1.0) * (right - left)

    def down(number: float) -> float:
        return top + min(max(number / high, 0.0), 1.0) * (bottom - top)

    box = across(numbers[0]), down(numbers[1]), across(numbers[2]), down(numbers[3])
    return box if box[0] < box[2] and box[1] < box[3] else None
