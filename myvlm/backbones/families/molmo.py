"""Molmo 2: an overview and crops of a picture; it locates objects by points instead of boxes."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from myvlm.backbones.causal.features import Features
from myvlm.backbones.causal.general import GeneralBackbone
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Point

POINTS = re.compile(r"""<points coords=["']\s*\d+ \d+ (\d+) (\d+)""")
"""Number of the picture, number of the point, and its coordinates from 0 to 1000."""


@register_backbone
class MolmoBackbone(GeneralBackbone):
    """`Molmo2ForConditionalGeneration`. It locates an object by a point; the box comes from the head."""

    family = "molmo"
    model_types = ("molmo2",)

    @torch.no_grad()
    def entering(self, features: Features) -> Tensor:
        # The model adds each visual token to the embedding of the placeholder.
        table = self.model.get_input_embeddings()
        placeholder: Tensor = table(torch.tensor(self.image_id, device=self.device))
        return features.tokens + placeholder.to(features.tokens)

    def refer(self, name: str) -> str:
        return f"Point to {name}."

    def read_point(self, reply: str, size: tuple[int, int]) -> Point | None:
        """The first point in a reply such as `<points coords="1 1 308 305 2 752 377">curb ramp</points>`."""
        found = POINTS.search(reply)
        if not found:
            return None
        across, down = (min(int(number), 1000) / 1000 for number in found.groups())
        return across * size[0], down * size[1]
