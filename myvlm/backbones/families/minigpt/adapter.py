"""MiniGPT-v2: instructions begin with a task tag; boxes are `{<25><30><75><80>}`, from 0 to 100."""

from __future__ import annotations

import math

from myvlm.backbones.boxes import four_numbers, on_grid
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.registry import register_backbone
from myvlm.boxes import Box


@register_backbone
class MiniGPTv2Backbone(CausalBackbone):
    """`myvlm.backbones.families.minigpt.model.MiniGPTv2ForConditionalGeneration`.

    An instruction without a task tag (`[caption]`, `[vqa]`, `[refer]`, `[identify]`, `[grounding]`) gets
    one: `[vqa]` if it is a question, else `[caption]`.
    """

    family = "minigpt_v2"
    model_types = ("minigpt_v2",)
    # The space before `</Img>`: the text after a picture is tokenised on its own and begins with `▁</`.
    template = "[INST] <Img>{image} </Img> {prompt} [/INST]"
    default_caption_prompt = "[caption] Briefly describe this image."
    caption_prompts = (
        "[caption] Briefly describe this image.",
        "[caption] Provide a concise depiction of this image.",
        "[caption] Present a short description of this image.",
        "[caption] Summarize this image in a few words.",
        "[caption] Please provide a short depiction of the picture.",
        "[caption] Can you briefly explain what you see in the image?",
    )

    def prompt_template(self) -> str:
        return self.template

    def instruction(self, prompt: str) -> str:
        if prompt.lstrip().startswith("["):
            return prompt
        return f"[vqa] {prompt}" if prompt.rstrip().endswith("?") else f"[caption] {prompt}"

    def hinted(self, hint: str, prompt: str) -> str:
        mark, _, rest = self.instruction(prompt).partition(" ")
        return f"{mark} {hint} {rest}".strip()

    def refer(self, name: str) -> str:
        return f"[refer] give me the location of {name}"

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        return on_grid(four_numbers(reply), 100, (0, 0, *size))

    def grid(self, features: Features) -> tuple[int, int, int]:
        side = math.isqrt(4 * len(features))  # in patches; a token is four of them in a row
        return 0, side, side // 4
