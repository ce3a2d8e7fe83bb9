"""HumanVLM (https://arxiv.org/abs/2411.03034): a LLaVA for pictures of people, SigLIP tower and Llama 3.

Checkpoint `OpenFace-CQUPT/Human_LLaVA`. Its model card uses the prompt format `CARD`, not the Llama 3 chat
template of its tokenizer, which is `LLAMA3`.
"""

from __future__ import annotations

import re
from typing import Any

from myvlm.backbones.boxes import four_numbers, on_grid
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box

CARD = "USER: {image}\n{prompt}\nASSISTANT:"
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{image}\n{prompt}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@register_backbone
class HumanVLMBackbone(LlavaBackbone):
    """A LLaVA whose name or `config.backbone_family` contains HumanVLM or Human-LLaVA.

    Args:
        template: prompt format with `{image}` and `{prompt}`: `CARD`, as on the model card (default), or
            `LLAMA3`.
    """

    family = "humanvlm"
    template = CARD
    ends = ("<|eot_id|>", "<|end_of_text|>")  # Llama 3 has two; the checkpoint does not say which it uses

    def __init__(
        self, model: Any, processor: Any, *, name: str | None = None, template: str | None = None
    ) -> None:
        self._chosen = template or self.template
        super().__init__(model, processor, name=name)

    @classmethod
    def matches(cls, model: Any) -> bool:
        config = getattr(model, "config", None)
        called = f"{getattr(config, '_name_or_path', '')} {getattr(config, 'backbone_family', '')}"
        return super().matches(model) and bool(re.search(r"human[-_]?(llava|vlm)", called, re.IGNORECASE))

    def prompt_template(self) -> str:
        return self._chosen

    def refer(self, name: str) -> str:
        return f"Please provide the bounding box coordinate of {name}."

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        # `[x1, y1, x2, y2]` in undocumented units: values up to 1 are taken as fractions of the picture, as
        # in LLaVA, larger ones as pixels.
        numbers = four_numbers(reply)
        shares = numbers is not None and max(numbers) <= 1
        return on_grid(numbers, (1.0, 1.0) if shares else size, (0, 0, *size))
