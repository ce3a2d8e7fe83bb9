"""Locate a concept in a picture: by the box that the model generates if it can ground, else by the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from myvlm.backbones import Backbone
from myvlm.boxes import Box
from myvlm.display.page import figure, picture
from myvlm.display.pictures import Mark
from myvlm.heads import Detection

GROUNDING_OPTIONS: dict[str, float] = {"max_new_tokens": 128, "repetition_penalty": 1.0}
"""Generation options for a reply with a box. Some checkpoints (Qwen2-VL, 2.5) penalize repetition by default,
and with it a name that is in the question, and a digit that is twice in a box."""


@dataclass(frozen=True, eq=False, repr=False)
class Location:
    """Where one concept is in a picture, from `MyVLM.locate`.

    Attributes:
        box: left, top, right, bottom in pixels of the picture, turned as its EXIF tag says; None if the
            concept was not detected, or neither model nor head gives a box.
        by: where the box is from: the `"model"`'s reply, or the `"head"`, because the model cannot ground or
            its reply has no box; None if the concept was not detected or there is no box.
        said: the model's reply; empty if it was not asked.
        image: the picture, RGB.
        point: where the model points, for families that generate points and no boxes (Molmo); else None.
    """

    box: Box | None
    by: Literal["model", "head"] | None
    said: str
    image: Image.Image
    point: tuple[float, float] | None = None

    def __repr__(self) -> str:
        if self.box is None:
            found = "not found"
            if self.point is not None:
                found = f"at ({self.point[0]:.0f}, {self.point[1]:.0f}), by the model"
            return f"Location({found})"
        return f"Location({', '.join(f'{edge:.0f}' for edge in self.box)}, by the {self.by})"

    def _repr_html_(self) -> str:
        words = [f"“{self.said}”"] if self.said and self.by == "model" else []
        where = f"by the {self.by}" if self.box else "not found"
        shown = picture(self.image, [Mark(self.box)] if self.box else (), alt=where)
        return figure(shown, [where, *words])


def resolve_location(
    backbone: Backbone, detection: Detection | None, reply: str, image: Image.Image
) -> Location:
    """Combine the head's detection of a concept and the model's reply into a location.

    Args:
        backbone: the model, which parses its reply.
        detection: the head's; None if the library has no detection of the concept.
        reply: the model's answer to `backbone.refer`; empty if it was not asked.
        image: the picture.
    """
    if detection is None or not detection.present:
        return Location(None, None, reply, image)
    if reply and (box := backbone.read_box(reply, image.size)):
        return Location(box, "model", reply, image)
    point = backbone.read_point(reply, image.size) if reply else None
    return Location(detection.box, "head" if detection.box else None, reply, image, point)
