"""Which of several phrases of a reply means a concept: the one said with an eye on where its head sees it.

Two men are in a picture, "a man next to another man.", and one of them has a name. Words do not tell which;
the attention with which the frozen model says each does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL import Image

from myvlm.backbones import Backbone
from myvlm.backbones.base import ConceptRows
from myvlm.boxes import Box, cells_inside

Where: TypeAlias = Callable[[str], Box | None]
"""Where in a picture, in its pixels, a head sees the concept of an identifier; None where it does not say."""


def nowhere(identifier: str) -> None:
    """Of no concept it is known where it is."""


def looked_at(
    backbone: Backbone,
    image: Image.Image,
    prompt: str,
    rows: Sequence[ConceptRows],
    box: Box,
    text: str,
    starts: Sequence[int],
) -> int:
    """The number of the phrase of which most of the attention lies in a box: a pass of the model for each.

    Args:
        prompt, rows: those that `text` is the reply to.
        box: in pixels of the image.
        starts: where in the text each phrase begins.
    """
    field = backbone.field_of_view(image.size)

    def inside(start: int) -> float:
        rest = text[start:].rstrip(" .!?,;:\"'")  # no earlier phrase goes on as this one does
        looks = backbone.attention_map(image, prompt, text, rest, rows)
        return float(looks[cells_inside(box, field, (looks.shape[0], looks.shape[1]))].sum())

    shares = [inside(start) for start in starts]
    return shares.index(max(shares))
