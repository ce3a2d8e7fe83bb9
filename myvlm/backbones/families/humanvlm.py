"""HumanVLM (https://arxiv.org/abs/2411.03034): a LLaVA for pictures of people, SigLIP tower and Llama 3.

Checkpoint `OpenFace-CQUPT/Human_LLaVA`. Its model card prompts as below, without the chat template of
Llama 3 that its tokenizer carries; `LLAMA3` is that template.
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
    """A LLaVA that is called HumanVLM or Human-LLaVA, or whose `config.backbone_family` says `humanvlm`.

    Args:
        template: the prompt, with `{image}` and `{prompt}`: `CARD`, as the model card has it, or `LLAMA3`.
    """

    family = "humanvlm"
    template = CARD
    ends = ("<|eot_id|>", "<|end_of_text|>")  # Llama 3 has two, and the checkpoint does not say which

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
        # `[x1, y1, x2, y2]`. Its documentation does not say of what: up to 1 they are taken for shares of
        # the picture, as LLaVA has it, beyond that for pixels.
        numbers = four_numbers(reply)
        shares = numbers is not None and max(numbers) <= 1
        return on_grid(numbers, (1.0, 1.0) if shares else size, (0, 0, *size))
