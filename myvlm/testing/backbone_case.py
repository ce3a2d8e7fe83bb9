"""The case that a backbone's contract is checked on: a backbone, pictures, texts and random concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows, NormRule
from myvlm.backbones.probe import Lack, Probe
from myvlm.errors import InputError

SHORT: dict[str, Any] = {"max_new_tokens": 8}


@dataclass(frozen=True, eq=False)
class BackboneCase:
    """A backbone to check, pictures to show it, and a word for a concept.

    Args:
        backbone: around a model in float32; a small random one will do.
        images: at least three, all different.
        identifier: a word for the concept in prompts and answers.

    Raises:
        InputError: the model is not in float32, or there are fewer than three images.
    """

    backbone: Backbone
    images: Sequence[Image.Image]
    identifier: str = "sks"

    def __post_init__(self) -> None:
        if self.backbone.dtype != torch.float32 or len(self.images) < 3:
            raise InputError(
                "The checks need float32 and at least three images.",
                got=f"{self.backbone.dtype}, {len(self.images)} images",
                expected="torch.float32, 3 images or more",
                fix="load the model with dtype='float32'",
            )

    @property
    def lacks(self) -> Mapping[Lack, str]:
        """What the family declares that it cannot do: the only reasons for which a check may be skipped."""
        return self.backbone.lacks

    @property
    def probe(self) -> Probe:
        """The backbone's `Probe`, which gives access to its internals."""
        return self.backbone.probe()

    @property
    def prompts(self) -> list[str]:
        """One prompt per image, of different lengths."""
        texts = [self.backbone.caption_prompt, f"What is next to {self.identifier}? Describe it.", "Where?"]
        return [texts[index % 3] for index in range(len(self.images))]

    @property
    def answers(self) -> list[str]:
        """One answer per image, of different lengths."""
        texts = [f"a photo of {self.identifier}", self.identifier, f"the table, and {self.identifier} on it"]
        return [texts[index % 3] for index in range(len(self.images))]

    @property
    def texts(self) -> tuple[Sequence[Image.Image], list[str], list[str]]:
        """Images, prompts and answers."""
        return self.images, self.prompts, self.answers

    def rows(self, *counts: int, norm: NormRule = "visual_mean", seed: int = 0) -> list[list[ConceptRows]]:
        """Random rows, for each image as many as `counts` says in turn; more than one make two concepts."""
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for index in range(len(self.images)):
            count = counts[index % len(counts)]
            parts = [1, count - 1] if count > 1 else [count] if count else []
            made = [torch.randn(part, self.backbone.dim, generator=generator) for part in parts]
            samples.append([ConceptRows(part.requires_grad_(), norm) for part in made])
        return samples

    def next_logits(
        self,
        samples: Iterable[int],
        rows: Sequence[Sequence[ConceptRows]],
        said: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """`N × V`: the next-token logits of the chosen samples, any of which may be chosen several times."""
        chosen = list(samples)
        images, prompts = [self.images[i] for i in chosen], [self.prompts[i] for i in chosen]
        behind = [[] for _ in chosen] if said is None else said
        return self.probe.next_logits(images, prompts, [rows[i] for i in chosen], behind)

    def skip_if_lacking(self, what: Lack, *, able: bool) -> None:
        """Skip the check if the family declares that it lacks something; fail if it declares wrongly."""
        reason = self.lacks.get(what)
        assert able == (reason is None), (
            f"`lacks` does not declare {what!r}, which the backbone cannot do"
            if reason is None
            else f"`lacks` declares {what!r}, which the backbone can do"
        )
        if reason is not None:
            raise SkipTest(reason)

    def state(self) -> dict[str, Any]:
        """Everything that a method must leave as it was, except the weights' values."""
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
