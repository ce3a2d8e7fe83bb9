"""Idefics3, SmolVLM and SmolVLM2: numbered tiles followed by an overview, a pixel shuffle and a Llama."""

from __future__ import annotations

import math

from torch import nn

from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.registry import register_backbone


@register_backbone
class Idefics3Backbone(CausalBackbone):
    """`Idefics3…` and `SmolVLMForConditionalGeneration`. Attention maps show the overview."""

    family = "idefics3"
    model_types = ("idefics3", "smolvlm")
    template = "<|begin_of_text|>User:{image}{prompt}<end_of_utterance>\nAssistant:"
    smolvlm_template = "<|im_start|>User:{image}{prompt}<end_of_utterance>\nAssistant:"
    images_at_once = 2  # up to seventeen tiles each

    @property
    def language_model(self) -> nn.Module:
        module: nn.Module = self.model.model.text_model
        return module

    def prompt_template(self) -> str | None:
        chosen = super().prompt_template()
        smolvlm = self.model.config.model_type == "smolvlm"
        return self.smolvlm_template if chosen is not None and smolvlm else chosen

    def grid(self, features: Features) -> tuple[int, int, int]:
        side = math.isqrt(self.model.model.image_seq_len)
        return len(features) - side * side, side, side
