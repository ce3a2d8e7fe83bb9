"""InstructBLIP (https://arxiv.org/abs/2305.06500): a BLIP-2 whose Q-Former reads the instruction too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones import tokens as text
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.qformer.prompts import Blip2Prompter, Taught, check_length
from myvlm.backbones.registry import register_backbone


class InstructBlipPrompter(Blip2Prompter):
    """As `Blip2Prompter`, with the instruction as a further input of the Q-Former; it is used unchanged."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.qformer_positions = int(model.config.qformer_config.max_position_embeddings)
        # Vicuna's configuration names other end-of-sequence ids than the one that the model was trained with.
        self.eos_ids = list(dict.fromkeys([processor.tokenizer.eos_token_id, *self.eos_ids]))

    def render(self, prompt: text.Prompt) -> str:
        asked = text.single_turn(prompt)
        text.check_prompt(self.processor, asked, self._accepted_prompts)
        return asked

    def qformer_inputs(self, prompts: Sequence[text.Prompt]) -> dict[str, Tensor]:
        """The instructions as ids of the Q-Former's tokenizer; right-padded: positions start at the left."""
        read = self.processor.qformer_tokenizer(
            [self.render(prompt) for prompt in prompts],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        check_length(read["input_ids"].shape[1], self.qformer_positions)
        return {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt]) -> Any:
        if not self.processor.num_query_tokens:
            self.check_placeholders(torch.zeros(len(prompts), 1, dtype=torch.long))
        inputs = super().processed(images, prompts)
        inputs.update(self.qformer_inputs(prompts))
        if self.causal:
            # The processor pads between picture and text; a Llama would count the padding in its positions.
            order = inputs["attention_mask"].sort(dim=1, stable=True).indices
            for name in ("input_ids", "attention_mask"):
                inputs[name] = inputs[name].gather(1, order)
        return inputs

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> Taught:
        taught = super().teacher_forced(prompts, answers)
        taught.inputs.update(self.qformer_inputs(prompts))
        return taught


@register_backbone
class InstructBlipBackbone(Blip2Backbone):
    """`InstructBlipForConditionalGeneration` with Vicuna or Flan-T5."""

    family = "instructblip"
    model_types = ("instructblip",)
    default_caption_prompt = "Write a short description for the image."
    caption_prompts = (
        "Write a short description for the image.",
        "Write a description for the photo.",
        "Briefly describe the content of the image.",
        "A short image description:",
    )
    prompter_kind = InstructBlipPrompter

    def query_outputs(self, images: Tensor, read: dict[str, Tensor]) -> Tensor:
        queries = self.model.query_tokens.expand(len(images), -1, -1)
        beside = read["qformer_attention_mask"]
        seen: Tensor = self.model.qformer(
            input_ids=read["qformer_input_ids"],
            attention_mask=torch.cat([beside.new_ones(queries.shape[:2]), beside], dim=1),
            query_embeds=queries,
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=images.device),
            return_dict=True,
        ).last_hidden_state
        return seen[:, : queries.shape[1]]
