"""InternVL (the `-hf` checkpoints): tiles of the picture followed by an overview, and a Qwen or Llama."""

from __future__ import annotations

import math

from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.registry import register_backbone


@register_backbone
class InternVLBackbone(CausalBackbone):
    """`InternVLForConditionalGeneration`. Attention maps show the overview."""

    family = "internvl"
    model_types = ("internvl",)
    template = "<|im_start|>user\n{image}\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    images_at_once = 2  # up to thirteen tiles each

    def grid(self, features: Features) -> tuple[int, int, int]:
        side = math.isqrt(self.model.config.image_seq_length)
        return len(features) - side * side, side, side
