"""GLM-4.1V, 4.5V, 4.6V and GLM-OCR: pictures of any size; boxes from 0 to 1000 between two box tokens."""

from __future__ import annotations

from myvlm.backbones.boxes import four_numbers, on_grid
from myvlm.backbones.causal.general import GeneralBackbone
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box


@register_backbone
class GlmBackbone(GeneralBackbone):
    """`Glm4v…`, `Glm4vMoe…`, `Glm46V…` and `GlmOcrForConditionalGeneration`, which support grounding."""

    family = "glm_v"
    model_types = ("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr")
    ends = ("<|user|>",)  # the template writes this token only at the start of the user's next turn

    def refer(self, name: str) -> str:
        return f"Help me to locate {name} in the image and give me its bounding boxes."

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        """Parse `<|begin_of_box|>[816, 162, 838, 172]<|end_of_box|>`, ignoring the reasoning before it."""
        _, _, boxed = reply.rpartition("<|begin_of_box|>")
        return on_grid(four_numbers(boxed), 1000, (0, 0, *size))
