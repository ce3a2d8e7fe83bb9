"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of any size, three position ids per token (M-RoPE)."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from myvlm.backbones.boxes import four_numbers, on_grid
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features, Layout, stacked_inputs
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box


@register_backbone
class QwenBackbone(CausalBackbone):
    """`Qwen2VL…`, `Qwen2_5_VL…` and `Qwen3VLForConditionalGeneration`.

    Qwen3-VL adds features to the visual tokens in its first layers (deepstack); rows get none.
    """

    family = "qwen_vl"
    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    template = (
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    kept_inputs = ("image_grid_thw",)
    images_at_once = 4  # each at its own size

    def arguments(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        types, kept = (ids == self.image_id).int(), stacked_inputs(layouts, ids.device)
        # Explicit, since with a cache the model would otherwise continue from the offset of another input.
        positions, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=types, attention_mask=mask, **kept
        )
        return {"mm_token_type_ids": types, "position_ids": positions, **kept}

    def refer(self, name: str) -> str:
        if self.model.config.model_type == "qwen2_vl":
            return f"Detect the bounding box of {name}."
        return f"Locate {name}, report the bounding box coordinates in JSON format."

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        """Parse a box; its units are 1000ths in Qwen2-VL and Qwen3-VL, resized pixels in Qwen2.5-VL."""
        scale = (1000.0, 1000.0)
        if self.model.config.model_type == "qwen2_5_vl":
            inputs, _ = self.read([Image.new("RGB", size)])
            _, height, width = inputs["image_grid_thw"][0].tolist()
            patch = self.model.config.vision_config.patch_size
            scale = (float(width * patch), float(height * patch))
        return on_grid(four_numbers(reply), scale, (0, 0, *size))

    def grid(self, features: Features) -> tuple[int, int, int]:
        merged = self.model.config.vision_config.spatial_merge_size
        _, height, width = (features.layout.inputs["image_grid_thw"][0] // merged).tolist()
        return 0, height, width
