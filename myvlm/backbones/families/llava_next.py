"""LLaVA-NeXT (LLaVA 1.6) and LLaVA-OneVision: an overview of the picture, then tiles at full resolution."""

from __future__ import annotations

from typing import Any

from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.families.llava import counting
from myvlm.backbones.registry import register_backbone


@register_backbone
class LlavaNextBackbone(CausalBackbone):
    """`LlavaNextForConditionalGeneration`, any tile shape, with Vicuna, Mistral or another language model.

    Rows are inserted after the last tile's last newline token. Attention maps show the overview.
    """

    family = "llava_next"
    model_types = ("llava_next",)
    template = "USER: {image}\n{prompt} ASSISTANT:"
    mistral_template = "[INST] {image}\n{prompt} [/INST]"
    images_at_once = 4  # five tiles each, or more

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, counting(processor, model.config), name=name)

    def prompt_template(self) -> str | None:
        chosen = super().prompt_template()
        mistral = self.model.config.text_config.model_type == "mistral"
        return self.mistral_template if chosen is not None and mistral else chosen

    def grid(self, features: Features) -> tuple[int, int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        dropped = self.model.config.vision_feature_select_strategy == "default"
        return getattr(self.processor, "num_additional_image_tokens", 0) - dropped, side, side


@register_backbone
class LlavaOnevisionBackbone(CausalBackbone):
    """`LlavaOnevisionForConditionalGeneration`. The model itself shrinks tiles beyond its limit."""

    family = "llava_onevision"
    model_types = ("llava_onevision",)
    template = "<|im_start|>user\n{image}\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    images_at_once = 2  # ten tiles each

    def grid(self, features: Features) -> tuple[int, int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return 0, side, side
