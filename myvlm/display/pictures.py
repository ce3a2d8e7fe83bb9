"""Pictures for display: drawing named boxes, scaling, and encoding as `data:` URLs for HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from myvlm.boxes import Box

COLOURS = ((214, 40, 90), (22, 120, 190), (225, 128, 0), (20, 140, 90), (130, 70, 190), (110, 90, 60))
"""Colours of boxes, in order; most people with colour blindness can tell neighbouring ones apart."""
MARK = COLOURS[0]
SHOWN = 640
"""Maximum length of a picture's longer side in a notebook, in pixels; it is displayed at half that size."""
SMALL = 288
"""Minimum length of a picture's shorter side in a notebook, in pixels."""
PHOTO = 500 * 400
"""Number of pixels from which a picture is encoded as JPEG; as PNG a photo takes ten times as much."""


class Mark(NamedTuple):
    """A box to draw.

    Attributes:
        box: in pixels of the picture.
        name: the name of its content, written at the box if there are several boxes.
        colour: the number of its colour; a concept has the same number in every picture.
    """

    box: Box
    name: str = ""
    colour: int = 0


def colour(number: int) -> tuple[int, int, int]:
    """The colour with that number; numbers wrap around."""
    return COLOURS[number % len(COLOURS)]


def marked(
    image: Image.Image, marks: Sequence[Mark], *, at_least: int = 0, at_most: int | None = None
) -> Image.Image:
    """A copy of the picture, scaled as in `resized`, with the boxes drawn in their colours.

    >>> marked(Image.new("RGB", (10, 10)), [Mark((2, 2, 8, 8))], at_least=20).getpixel((4, 10))
    (214, 40, 90)
    """
    scaled = resized(image, at_least=at_least, at_most=at_most)
    picture = scaled.copy() if scaled is image else scaled
    draw = ImageDraw.Draw(picture)
    across, down = picture.width / image.width, picture.height / image.height
    for one in marks:
        left, top, right, bottom = one.box
        box = (left * across, top * down, right * across, bottom * down)
        outline(draw, box, picture.size, ink=colour(one.colour), name=one.name if marks[1:] else "")
    return picture


def outline(
    draw: ImageDraw.ImageDraw,
    box: Box,
    size: tuple[int, int],
    *,
    ink: tuple[int, int, int] = MARK,
    name: str = "",
) -> None:
    """Draw a box into a picture of that size; edges in the wrong order are swapped."""
    left, top, right, bottom = box
    edges = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    draw.rectangle(edges, outline=ink, width=max(1, min(size) // 100))
    if name and _writable(name):
        font = ImageFont.load_default(max(11, min(size) // 20))
        corner = (max(0, edges[0]), max(0, edges[1]))
        draw.rectangle(draw.textbbox(corner, f" {name} ", font=font), fill=ink)
        draw.text(corner, f" {name} ", fill="white", font=font)


def _writable(name: str) -> bool:
    """Whether Pillow's default font has the letters of the name."""
    return all(ord(letter) < 0x180 for letter in name)


def resized(image: Image.Image, *, at_least: int = 0, at_most: int | None = None) -> Image.Image:
    """The picture, enlarged without blur to sides of at least `at_least`, then shrunk to at most `at_most`.

    >>> resized(Image.new("RGB", (96, 96)), at_least=200).size
    (288, 288)
    >>> resized(Image.new("RGB", (96, 4)), at_most=8).size
    (8, 1)
    """
    factor = -(-at_least // min(image.size)) if at_least else 1
    if factor > 1:
        if at_most:  # otherwise a strip of one row would become a picture too large for memory
            factor = max(1, min(factor, at_most // max(image.size)))
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if at_most and max(image.size) > at_most:
        factor_down = at_most / max(image.size)  # ImageOps.contain would give a narrow strip a side of 0
        width, height = (max(1, round(side * factor_down)) for side in image.size)
        image = image.resize((width, height))
    return image


def data_url(image: Image.Image, *, at_least: int = 0, at_most: int | None = None) -> str:
    """The picture, scaled as in `resized`, as a `data:` URL: JPEG if it is large, else PNG."""
    image = resized(image, at_least=at_least, at_most=at_most)
    form, options = (
        ("jpeg", {"quality": 88}) if image.width * image.height >= PHOTO else ("png", {"optimize": True})
    )
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form};base64," + base64.b64encode(buffer.getvalue()).decode()
