"""Choose the phrase of a reply that means a concept: the one whose attention lies most in the detected box.

In "a man next to another man." the words do not tell which man is the concept; the frozen model's attention
over the picture as it generates each phrase does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL import Image

from myvlm.backbones import Backbone
from myvlm.backbones.base import ConceptRows
from myvlm.boxes import Box, cells_inside

BoxLookup: TypeAlias = Callable[[str], Box | None]
"""Identifier → the box in which its head detects the concept, in pixels of the picture; None if unknown."""


def no_boxes(identifier: str) -> None:
    """A `BoxLookup` that knows no boxes."""


def most_attended_phrase(
    backbone: Backbone,
    image: Image.Image,
    prompt: str,
    rows: Sequence[ConceptRows],
    box: Box,
    text: str,
    starts: Sequence[int],
) -> int:
    """The index of the phrase whose attention map has the largest sum inside a box.

    Takes one pass of the model for each phrase.

    Args:
        prompt, rows: what `text` is the reply to.
        box: in pixels of the image.
        starts: where each phrase begins in the text, in characters.
    """
    field = backbone.field_of_view(image.size)

    def attention_in_box(start: int) -> float:
        rest = text[start:].rstrip(" .!?,;:\"'")  # to the end of the text, so that it matches only here
        attention = backbone.attention_map(image, prompt, text, rest, rows)
        return float(attention[cells_inside(box, field, (attention.shape[0], attention.shape[1]))].sum())

    shares = [attention_in_box(start) for start in starts]
    return shares.index(max(shares))
