"""PaliGemma and PaliGemma 2: bidirectional attention over image, concept and instruction, causal answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from myvlm.backbones.boxes import on_grid
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features, Layout
from myvlm.backbones.probe import Lack
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box

TASK = re.compile(r"((caption|cap|describe|ocr|answer|question)\b|(detect|segment) )")
"""The beginning of an instruction that names its task (https://arxiv.org/abs/2407.07726, B.1)."""


@register_backbone
class PaliGemmaBackbone(CausalBackbone):
    """`PaliGemmaForConditionalGeneration`, which takes task prompts: `caption en`, `answer en …`, `detect …`.

    An instruction that names no task is sent as `answer en …`: pre-trained checkpoints know no other format,
    and `mix` ones accept it besides free questions. Prompts cannot take a hint before the task.

    The prefix before the concept depends on it, so prefixes are not cached. Positions start at 1, which the
    model handles itself.
    """

    family = "paligemma"
    model_types = ("paligemma",)
    template = "{image}{prompt}"
    default_caption_prompt = "caption en"
    caption_prompts = ("caption en", "describe en")
    lacks: ClassVar[Mapping[Lack, str]] = {"kept_prefixes": "the tokens before the concept attend to it"}

    def completed(self, rendered: str) -> str:
        token = self.processor.image_token
        place = rendered.rfind(token) + len(token)
        return f"{rendered[:place]}{self.processor.tokenizer.bos_token}{rendered[place:]}\n"

    def prompt_template(self) -> str:
        return self.template

    def instruction(self, prompt: str) -> str:
        return prompt if TASK.match(prompt) else f"answer en {prompt}"

    def hinted(self, hint: str, prompt: str) -> None:
        return None

    def arguments(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        columns = torch.arange(ids.shape[1], device=ids.device)
        answers = columns >= torch.tensor(starts, device=ids.device)[:, None]
        return {"token_type_ids": answers.long()}

    def prefixes(self, features: Sequence[Features]) -> None:
        return None

    def refer(self, name: str) -> str:
        return f"detect {name}"

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        """Parse `<loc0205><loc0102><loc0819><loc0512> name`: top, left, bottom, right in 1024ths."""
        found = re.search(r"<loc(\d{4})>" * 4, reply)
        if not found:
            return None
        top, left, bottom, right = (int(number) for number in found.groups())
        return on_grid((left, top, right, bottom), 1024, (0, 0, *size))

    def grid(self, features: Features) -> tuple[int, int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return 0, side, side
