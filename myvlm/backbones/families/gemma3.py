"""Gemma 3 with images (4B and larger), where an image's tokens attend to each other in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features, Layout
from myvlm.backbones.registry import register_backbone


@register_backbone
class Gemma3Backbone(CausalBackbone):
    """`Gemma3ForConditionalGeneration`.

    Concept rows get token type 0, so the image's tokens do not attend to them and the prefix before the rows
    does not depend on them. With pan and scan, attention maps show the whole picture, not the crops.
    """

    family = "gemma3"
    model_types = ("gemma3",)
    template = "<start_of_turn>user\n{image}{prompt}<end_of_turn>\n<start_of_turn>model\n"

    def arguments(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        return {"token_type_ids": (ids == self.image_id).long()}

    def grid(self, features: Features) -> tuple[int, int, int]:
        side = math.isqrt(self.model.config.mm_tokens_per_image)
        return 0, side, side
