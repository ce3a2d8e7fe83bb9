"""Access to the internals of Mllama, for the checks of `myvlm.testing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.causal.probe import CausalProbe
from myvlm.backbones.causal.prompts import TeacherForced
from myvlm.backbones.probe import Entered, Rows, eager_attention


class MllamaProbe(CausalProbe):
    """Inputs of the cross-attentions; all else is as in causal models.

    Args:
        backbone: a `MllamaBackbone`, whose module imports this one.
    """

    @property
    def special_ids(self) -> list[int]:
        return [self.backbone.prompter.image_id]

    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        replies: Sequence[Sequence[int]],
    ) -> Tensor:
        inputs = dict(self.inputs(images, prompts))
        new = torch.tensor(replies, dtype=torch.long, device=self.backbone.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        looks = inputs["cross_attention_mask"]
        behind = looks[:, -1:].expand(-1, new.shape[1], -1, -1)
        inputs["cross_attention_mask"] = torch.cat([looks, behind], dim=1)
        with (
            self.backbone.frozen(),
            torch.no_grad(),
            self.backbone.inserted(rows) if any(rows) else nullcontext(),
        ):
            logits: Tensor = self.backbone.model(**inputs).logits[:, -1].float()
        return logits

    def entered(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> list[list[Entered]]:
        seen: list[Tensor] = []
        handle = self.backbone.language_model.register_forward_hook(
            lambda module, args, kwargs, output: seen.append(kwargs["cross_attention_states"].detach()),
            with_kwargs=True,
        )
        try:
            with torch.no_grad():
                self._pass(images, prompts, rows, self._batch(images, prompts, answers, rows))
        finally:
            handle.remove()
        place = len(self.backbone.encode(images[:1])[0].states)
        counts = [sum(concept.count for concept in sample) for sample in rows]
        return [
            [Entered(states[: place + count], place)] for states, count in zip(seen[-1], counts, strict=True)
        ]

    def visual_tokens(self, features: Any) -> Tensor:
        tokens: Tensor = features.tokens
        return tokens

    def penalty(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        backbone, batch = self.backbone, self._batch(images, prompts, answers, rows)
        maps: list[Any] = []
        with eager_attention(backbone.language_model.config), torch.no_grad(), ExitStack() as hooks:
            for attention in backbone.cross_attentions:
                hook = attention.register_forward_hook(lambda module, args, output: maps.append(output[1]))
                hooks.callback(hook.remove)
            self._pass(images, prompts, rows, batch)
        samples = []
        place = len(backbone.encode(images[:1])[0].states)
        for index, sample in enumerate(rows):
            first = batch.ids[index].tolist().index(backbone.prompter.image_id)
            looking = slice(first, int(batch.attention_mask[index].sum()))
            columns = slice(place, place + sum(concept.count for concept in sample))
            if sample:
                samples.append(sum(layer[index][:, looking, columns].pow(2).mean() for layer in maps))
        return torch.stack(samples).mean()

    def misuses(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows
    ) -> Mapping[str, Callable[[], object]]:
        inputs = self.inputs(images, prompts)

        def forward(others: Rows, **instead: Any) -> None:
            with self.backbone.frozen(), torch.no_grad(), self.backbone.inserted(others):
                self.backbone.model(**{**inputs, **instead})

        return {
            "rows for fewer pictures": partial(forward, rows[:-1]),
            "rows for more pictures": partial(forward, [*rows, *rows]),
            "a prompt that looks at no picture": partial(forward, rows, cross_attention_mask=None),
        }

    def _batch(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> TeacherForced:
        batch: TeacherForced = self.backbone.read(prompts, answers)
        return batch

    def _pass(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        batch: TeacherForced,
        **options: Any,
    ) -> Any:
        backbone, features = self.backbone, self.backbone.encode(images)
        inputs = self.inputs(images, prompts)
        pixels = {name: inputs[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
        with backbone.frozen(), backbone.inserted(rows):
            return backbone.model(
                **backbone.model_inputs(batch, features),
                **pixels,
                labels=batch.labels.to(backbone.device),
                **options,
            )
