"""What the checks of a backbone's contract work on: a backbone, pictures, texts and random concepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows, NormRule
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.prompts import TeacherForced

SHORT: dict[str, Any] = {"max_new_tokens": 8}


@dataclass(frozen=True, eq=False)
class BackboneCase:
    """A backbone in float32, at least three images, and a word for a concept."""

    backbone: Backbone
    images: Sequence[Image.Image]
    identifier: str

    @property
    def prompts(self) -> list[str]:
        """One prompt an image, of different lengths."""
        texts = [self.backbone.caption_prompt, f"What is next to {self.identifier}? Describe it.", "Where?"]
        return [texts[index % 3] for index in range(len(self.images))]

    @property
    def answers(self) -> list[str]:
        """One answer an image, of different lengths."""
        texts = [f"a photo of {self.identifier}", self.identifier, f"the table, and {self.identifier} on it"]
        return [texts[index % 3] for index in range(len(self.images))]

    def rows(self, *counts: int, norm: NormRule = "visual_mean", seed: int = 0) -> list[list[ConceptRows]]:
        """Random directions, for each image as many as `counts` says in turn; more than one: two concepts."""
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for index in range(len(self.images)):
            count = counts[index % len(counts)]
            parts = [1, count - 1] if count > 1 else [count] if count else []
            made = [torch.randn(part, self.backbone.dim, generator=generator) for part in parts]
            samples.append([ConceptRows(part.requires_grad_(), norm) for part in made])
        return samples

    @property
    def language_rows(self) -> CausalBackbone:
        """The backbone, where rows enter its language model; elsewhere SkipTest is raised."""
        if not isinstance(self.backbone, CausalBackbone):
            raise SkipTest("concepts do not enter this family as rows of its language model")
        return self.backbone

    def processed(self) -> Any:
        """What plain transformers is given."""
        return self.language_rows.prompter.processed(self.images, self.prompts).to(self.backbone.device)

    def plain_logits(self, inputs: Any) -> Tensor:
        """The logits that plain transformers gives for `processed` inputs."""
        logits: Tensor = self.backbone.model(**inputs).logits
        return logits

    def said(self, output: Tensor, inputs: Any) -> list[list[int]]:
        """The new ids in what plain transformers generated, without end of sequence."""
        new = output[:, inputs["input_ids"].shape[1] :]
        return [self.language_rows.prompter.reply(ids)[1].tolist() for ids in new]

    def batch(self, rows: Sequence[Sequence[ConceptRows]]) -> TeacherForced:
        """The prompts with their answers and these rows, as learning lays them out."""
        pictures = [feature.layout.text for feature in self.language_rows.encode(self.images)]
        return self.language_rows.prompter.teacher_forced(pictures, self.prompts, self.answers, rows)

    def pixel_pass(self, rows: Sequence[Sequence[ConceptRows]], batch: TeacherForced, **options: Any) -> Any:
        """The model's own output for the batch, from pixels and through the vision tower."""
        from transformers import BatchFeature

        backbone = self.language_rows
        inputs = backbone.prompter.processed(self.images, self.prompts)
        pixels = {name: value for name, value in inputs.items() if value.shape != inputs["input_ids"].shape}
        layouts = [feature.layout for feature in backbone.encode(self.images)]
        told = backbone.arguments(batch.ids, batch.attention_mask, batch.starts, layouts)
        with backbone.frozen(), backbone.inserted(rows, batch.sentinels):
            return backbone.model(
                input_ids=batch.ids.to(backbone.device),
                attention_mask=batch.attention_mask.to(backbone.device),
                labels=batch.labels.to(backbone.device),
                **BatchFeature({**told, **pixels}).to(backbone.device, backbone.dtype),
                **options,
            )

    def first_logits(self, samples: Iterable[int], rows: Sequence[Sequence[ConceptRows]]) -> Tensor:
        """The logits of the first new token, `N × V`, as generation sees them: padded on the left."""
        backbone, chosen = self.language_rows, list(samples)
        images, prompts = [self.images[i] for i in chosen], [self.prompts[i] for i in chosen]
        concepts = [rows[i] for i in chosen]
        inputs, sentinels = backbone.prompter.with_rows(
            backbone.prompter.processed(images, prompts), concepts
        )
        with backbone.frozen(), torch.no_grad(), backbone.inserted(concepts, sentinels):
            logits: Tensor = backbone.model(**inputs.to(backbone.device)).logits[:, -1].float()
        return logits

    def state(self) -> dict[str, Any]:
        """All that a method must leave as it was, but the weights' values."""
        model, tokenizer = self.backbone.model, self.backbone.processor.tokenizer
        modules = list(model.modules())
        return {
            "hooks": [
                (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules
            ],
            "training": [module.training for module in modules],
            "requires_grad": [weight.requires_grad for weight in model.parameters()],
            "gradients": [weight.grad is None for weight in model.parameters()],
            "attention": [m.config._attn_implementation for m in modules if hasattr(m, "config")],
            "positions": [str(vars(module).get("rope_deltas")) for module in modules],
            "padding_side": tokenizer.padding_side,
            "tokens": len(tokenizer),
            "generation_config": model.generation_config.to_dict(),
        }
