"""Boxes in pictures and their overlap."""

from __future__ import annotations

from math import isfinite
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from myvlm.errors import InputError

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels of the picture."""

Point: TypeAlias = tuple[float, float]
"""x from the left and y from the top, in pixels of the picture."""


def area(box: Box) -> float:
    """The area of a box in square pixels; 0 if its edges are in the wrong order."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def overlap(first: Box, second: Box) -> float:
    """The intersection of two boxes relative to the area of the smaller one: 1 if it lies inside the other.

    >>> overlap((0, 0, 10, 10), (5, 0, 9, 10)), overlap((0, 0, 10, 10), (10, 0, 20, 10))
    (1.0, 0.0)
    """
    return _shared(first, second) / max(min(area(first), area(second)), 1e-9)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if both are empty.

    >>> iou((0, 0, 10, 10), (5, 0, 15, 10)), iou((0, 0, 0, 0), (0, 0, 0, 0))
    (0.3333333333333333, 0.0)
    """
    shared = _shared(first, second)
    return shared / max(area(first) + area(second) - shared, 1e-9)


def cells_inside(box: Box, field: Box, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Mask `h × w` of the cells whose center lies inside the box, for a map that covers the box `field`.

    >>> cells_inside((0, 0, 10, 10), (0, 0, 20, 20), (2, 2)).tolist()
    [[True, False], [False, False]]
    """
    left, top, right, bottom = box
    rows = field[1] + (np.arange(shape[0]) + 0.5) * (field[3] - field[1]) / shape[0]
    columns = field[0] + (np.arange(shape[1]) + 0.5) * (field[2] - field[0]) / shape[1]
    return np.outer((rows > top) & (rows < bottom), (columns > left) & (columns < right))


def _shared(first: Box, second: Box) -> float:
    """The area of the intersection, in square pixels."""
    return area(
        (
            max(first[0], second[0]),
            max(first[1], second[1]),
            min(first[2], second[2]),
            min(first[3], second[3]),
        )
    )


def check_box(box: Any) -> Box:
    """The box as a tuple of floats. Raises InputError unless it consists of four finite numbers.

    >>> check_box([0, 0, 20, 10])
    (0.0, 0.0, 20.0, 10.0)
    """
    try:
        left, top, right, bottom = (float(edge) for edge in box)
        if all(map(isfinite, (left, top, right, bottom))):
            return left, top, right, bottom
    except (TypeError, ValueError):
        pass
    raise InputError(
        "Invalid box.",
        got=repr(box)[:80],
        expected="four numbers: left, top, right and bottom in pixels",
        fix="leave it out for the whole picture",
    )
