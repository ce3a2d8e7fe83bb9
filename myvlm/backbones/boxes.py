"""Boxes that a model says in words, as pixels of the picture as given."""

from __future__ import annotations

import re
from collections.abc import Sequence

from myvlm.boxes import Box

NUMBER = r"(-?\d+(?:\.\d+)?)"
BETWEEN = r"[\s,()\[\]<>]+"
FOUR = re.compile(rf"[<(\[]\s*{NUMBER}{BETWEEN}{NUMBER}{BETWEEN}{NUMBER}{BETWEEN}{NUMBER}\s*[>)\]]")


def middle_square(size: tuple[int, int]) -> Box:
    """What is left of a picture whose shorter side is resized to a square that is cut out of the middle.

    >>> middle_square((200, 100))
    (50.0, 0.0, 150.0, 100.0)
    """
    side = float(min(size))
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    return left, top, left + side, top + side


def four_numbers(said: str) -> tuple[float, float, float, float] | None:
    """The first four numbers in brackets of a text: `{<25><30><75><80>}`, `(1,2),(3,4)`, `[1, 2, 3, 4]`.

    >>> four_numbers("ulmo { <0> <26> <50> <100> }")
    (0.0, 26.0, 50.0, 100.0)
    >>> four_numbers("cup(27,81),(455,902)")
    (27.0, 81.0, 455.0, 902.0)
    >>> four_numbers('[{"bbox_2d": [10, 20, 30, 40], "label": "sks"}]')
    (10.0, 20.0, 30.0, 40.0)
    >>> four_numbers("two mugs (1) and 3 dogs")
    """
    found = FOUR.search(said)
    if not found:
        return None
    left, top, right, bottom = (float(number) for number in found.groups())
    return left, top, right, bottom


def on_grid(
    numbers: Sequence[float] | None, grid: float | tuple[float, float], region: Sequence[float]
) -> Box | None:
    """A box on a grid that is laid over a region of the picture, in pixels; None for no box or an empty one.

    Args:
        numbers: left, top, right, bottom on the grid.
        grid: how many steps the region is wide and high, or the two of them.
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
