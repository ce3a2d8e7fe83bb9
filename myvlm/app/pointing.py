"""A box in a picture, given by clicks on two opposite corners."""

from __future__ import annotations

from typing import TypeAlias

from PIL import Image

from myvlm.boxes import Box
from myvlm.display.pictures import SHOWN, SMALL, Mark, marked
from myvlm.errors import MyVLMError
from myvlm.images import load_images

Corners: TypeAlias = "tuple[tuple[float, float], ...]"
"""Zero, one or two points (x, y), as fractions of the picture's width and height."""


def picture_with_corners(
    file: str | None, known: Corners = (), click: tuple[int, int] | None = None
) -> tuple[Image.Image | None, Corners]:
    """Return the picture with the clicked corners drawn on it, and the corners including the new click.

    Args:
        file: path of the picture; nothing is shown if it is None or cannot be read.
        known: the corners before the click; if there are two, the click starts a new box.
        click: position of the click, in pixels of the displayed picture.
    """
    try:
        [photo] = load_images(file) if file else [None]
    except MyVLMError:  # the "Look" button reports it
        photo = None
    if photo is None:
        return None, ()
    width, height = photo.image.size
    shown = marked(photo.image, [], at_least=SMALL, at_most=SHOWN)
    if click is not None:
        known = (*(known if len(known) == 1 else ()), (click[0] / shown.width, click[1] / shown.height))
    if not known:
        return shown, known
    dot = 0.01 * max(width, height) if len(known) == 1 else 0.0
    (left, top), (right, bottom) = (known[0], known[-1])
    box = (left * width - dot, top * height - dot, right * width + dot, bottom * height + dot)
    return marked(photo.image, [Mark(box)], at_least=SMALL, at_most=SHOWN), known


def box_between(file: str, corners: Corners) -> Box | None:
    """Return the box between two corners, in pixels of the picture; None if there are fewer than two.

    Raises:
        ImageError: the picture cannot be read.
    """
    if len(corners) < 2:
        return None
    [photo] = load_images(file)
    width, height = photo.image.size
    (left, right), (top, bottom) = (sorted(one) for one in zip(*corners, strict=True))
    return left * width, top * height, right * width, bottom * height
