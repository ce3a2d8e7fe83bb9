"""LLaVA-1.5 (https://arxiv.org/abs/2310.03744): a vision tower, a projector, a causal language model."""

from __future__ import annotations

import copy
from typing import Any

from myvlm.backbones.boxes import four_numbers, kept_part, on_grid
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box


@register_backbone
class LlavaBackbone(CausalBackbone):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower, any causal language model."""

    family = "llava"
    model_types = ("llava",)
    template = "USER: {image}\n{prompt} ASSISTANT:"

    @classmethod
    def matches(cls, model: Any) -> bool:
        # A Pixtral tower takes pictures of any size; the general adapter handles it.
        tower = getattr(getattr(model, "config", None), "vision_config", None)
        return super().matches(model) and getattr(tower, "model_type", None) != "pixtral"

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, counting(processor, model.config), name=name)

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return kept_part(self.processor.image_processor, size)

    def refer(self, name: str) -> str | None:
        # Not every LLaVA supports grounding; those with the task's token in the vocabulary do (tinyworld).
        return f"[refer] {name}" if "[refer]" in self.processor.tokenizer.get_vocab() else None

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        return on_grid(four_numbers(reply), 100, self.field_of_view(size))

    def grid(self, features: Features) -> tuple[int, int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return len(features) - side * side, side, side


def counting(processor: Any, config: Any) -> Any:
    """The processor with the settings for counting image tokens; a completed copy if it lacks them."""
    if processor.patch_size is not None:
        return processor
    processor = copy.copy(processor)
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = int("clip" in config.vision_config.model_type)  # its [CLS]
    return processor
