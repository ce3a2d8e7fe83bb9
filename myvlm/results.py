"""What a call gives back: text that knows who was seen, and attention that can draw itself."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from myvlm.boxes import Box
from myvlm.heads import Detection
from myvlm.images import load_images
from myvlm.text import find_words

MARK = (214, 40, 90)
SHOWN = 640
"""Pixels that a notebook gets of a picture's longer side, at the most; it shows half as many."""


@dataclass(frozen=True, eq=False)
class Reply:
    """One reply: `str(reply)` is its text; in a notebook it shows the picture, boxes and text.

    Attributes:
        text: the caption or answer, naming concepts by their identifiers.
        detections: one for each concept of the library, present or not.
        picture: what it is about: the picture, or, of a long list, its file.
        token_ids: the new token ids as the model chose them.
    """

    text: str
    detections: Sequence[Detection]
    picture: Image.Image | Path
    token_ids: tuple[int, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture it is about, RGB; read from its file where only that is kept."""
        return self.picture if isinstance(self.picture, Image.Image) else load_images(self.picture)[0].image

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Reply({self.text!r}, seen={list(self.seen)})"

    @property
    def seen(self) -> tuple[str, ...]:
        """Identifiers of the concepts that were recognised."""
        return tuple(d.identifier for d in self.detections if d.present)

    def _repr_html_(self) -> str:
        present = [d for d in self.detections if d.present]
        seen = ", ".join(f"{html.escape(d.identifier)} {d.probability:.0%}" for d in present)
        picture = data_url(mark(self.image, self.detections), at_most=SHOWN)
        return (
            f'<figure><img src="{picture}" style="max-width:320px"><figcaption>{html.escape(self.text)}<br>'
            f"<small>{'seen: ' + seen if seen else 'no concept seen'}</small></figcaption></figure>"
        )


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Where a concept looks: `values`, h × w float32 over the tokens of the picture's part in `box`, sum 1.

    `np.asarray(map)` is `values`; `overlay()` is the picture with the map on it; a notebook shows that.
    """

    values: npt.NDArray[np.float32]
    image: Image.Image
    identifier: str
    box: Box

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def overlay(self, strength: float = 0.65) -> Image.Image:
        """The picture, dark where nothing is looked at and tinted where much is."""
        level = self.values / max(float(self.values.max()), 1e-12)
        left, top, right, bottom = (round(edge) for edge in self.box)
        seen = Image.fromarray((255 * level).astype(np.uint8))
        mask = Image.new("L", self.image.size, 0)
        covered = max(1, right - left), max(1, bottom - top)  # of a strip a side may round to nothing
        mask.paste(seen.resize(covered, Image.Resampling.BICUBIC), (left, top))
        dim = Image.blend(self.image, Image.new("RGB", self.image.size, (10, 10, 30)), strength)
        warm = Image.blend(self.image, Image.new("RGB", self.image.size, (255, 120, 30)), 0.25)
        return Image.composite(warm, dim, mask)

    def _repr_html_(self) -> str:
        picture, name = data_url(self.overlay(), at_most=SHOWN), html.escape(self.identifier)
        return f'<img src="{picture}" style="max-width:320px" alt="where {name} looks">'


def mark(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """A copy of the picture with a box around every present concept that has one."""
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    for detection in detections:
        if detection.present and detection.box:
            outline(draw, detection.box, image.size)
    return marked


def outline(draw: ImageDraw.ImageDraw, box: Box, size: tuple[int, int]) -> None:
    """A box around something in a picture of that size; edges in the wrong order are put right."""
    left, top, right, bottom = box
    edges = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    draw.rectangle(edges, outline=MARK, width=max(1, min(size) // 100))


def data_url(image: Image.Image, *, at_least: int = 0, at_most: int | None = None) -> str:
    """The picture as a `data:` address, enlarged without blur to `at_least` pixels a side or shrunk."""
    factor = -(-at_least // min(image.size)) if at_least else 1
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if at_most and max(image.size) > at_most:
        factor_down = at_most / max(image.size)  # ImageOps.contain makes a side of nothing of a strip
        width, height = (max(1, round(side * factor_down)) for side in image.size)
        image = image.resize((width, height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def highlighted(text: str, word: str) -> str:
    """The text as HTML, with the word marked wherever it stands as a word.

    >>> highlighted("sks & asks", "sks")
    '<mark>sks</mark> &amp; asks'
    """
    marked, end = "", 0
    for start, end_of_word, _ in find_words(text, word):
        marked += f"{html.escape(text[end:start])}<mark>{html.escape(text[start:end_of_word])}</mark>"
        end = end_of_word
    return marked + html.escape(text[end:])
