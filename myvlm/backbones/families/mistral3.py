"""Mistral Small 3.1 and later: a Pixtral tower, pictures of any size, a token after each row of patches."""

from __future__ import annotations

from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.registry import register_backbone


@register_backbone
class Mistral3Backbone(CausalBackbone):
    """`Mistral3ForConditionalGeneration`. Rows go between the last patch and the end-of-image token."""

    family = "mistral3"
    model_types = ("mistral3",)
    template = "[INST]{image}{prompt}[/INST]"
    kept_inputs = ("image_sizes",)
    images_at_once = 4  # each at its own size

    def grid(self, features: Features) -> tuple[int, int, int]:
        config = self.model.config
        patch = config.vision_config.patch_size * config.spatial_merge_size
        height, width = (features.layout.inputs["image_sizes"][0] // patch).tolist()
        return 0, height, width
