"""Exposes the internals of causal backbones to the contract checks of `myvlm.testing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.causal.prompts import TeacherForced
from myvlm.backbones.probe import Entered, Probe, Rows, TaughtText, eager_attention


class CausalProbe(Probe):
    """Probe of a causal backbone: its model's inputs and outputs, from full passes that start at pixels.

    Args:
        backbone: a `CausalBackbone`; typed `Any` because its module imports this one.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone

    @property
    def eos_ids(self) -> list[int]:
        return list(self.backbone.prompter.eos_ids)

    @property
    def special_ids(self) -> list[int]:
        return [self.backbone.image_id, self.backbone.prompter.sentinel_id]

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        processed = self.backbone.prompter.processed(images, prompts)
        return processed.to(self.backbone.device, self.backbone.dtype)

    def reply_ids(self, output: Tensor, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        new = output[:, inputs["input_ids"].shape[1] :]
        return [self.backbone.prompter.reply(ids)[1].tolist() for ids in new]

    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        replies: Sequence[Sequence[int]],
    ) -> Tensor:
        backbone, attach = self.backbone, any(rows)
        inputs, sentinels = backbone.prompter.processed(images, prompts), None
        if attach:
            inputs, sentinels = backbone.prompter.with_rows(inputs, rows)
        inputs = inputs.to(backbone.device, backbone.dtype)
        if any(replies):
            self._append_replies(inputs, images, replies)
        with (
            backbone.frozen(),
            torch.no_grad(),
            backbone.inserted(rows, sentinels) if attach else nullcontext(),
        ):
            logits: Tensor = backbone.model(**inputs).logits[:, -1].float()
        return logits

    def _append_replies(
        self, inputs: Any, images: Sequence[Image.Image], replies: Sequence[Sequence[int]]
    ) -> None:
        """Append replies to the prompts in `inputs`, and recompute the model's per-token inputs."""
        backbone = self.backbone
        new = torch.tensor(replies, dtype=torch.long, device=backbone.device)
        shape = inputs["input_ids"].shape
        for name in [name for name, table in inputs.items() if table.shape == shape]:
            if name not in ("input_ids", "attention_mask"):  # types are recomputed, labels dropped
                del inputs[name]
        inputs["input_ids"] = ids = torch.cat([inputs["input_ids"], new], dim=1)
        inputs["attention_mask"] = mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        layouts = [feature.layout for feature in backbone.encode(images)]
        arguments = backbone.arguments(ids, mask, [shape[1]] * len(new), layouts)
        inputs.update(arguments)

    def taught(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[TaughtText]:
        batch = self._batch(images, prompts, answers, [[] for _ in images])
        samples = []
        for ids, mask, labels, start in zip(
            batch.ids, batch.attention_mask, batch.labels, batch.starts, strict=True
        ):
            read, answer = ids[:start].tolist(), ids[start : int(mask.sum())].tolist()
            samples.append(TaughtText(read, answer, labels.tolist(), start))
        return samples

    def pixel_loss(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        loss: Tensor = self._pass(images, prompts, rows, self._batch(images, prompts, answers, rows)).loss
        return loss

    def entered(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> list[list[Entered]]:
        batch = self._batch(images, prompts, answers, rows)
        seen: list[Tensor] = []
        handle = self.backbone.language_model.register_forward_hook(
            lambda module, args, kwargs, output: seen.append(kwargs["inputs_embeds"].detach()),
            with_kwargs=True,
        )
        try:
            with torch.no_grad():
                self._pass(images, prompts, rows, batch)
        finally:
            handle.remove()
        entered = []
        for states, ids, mask in zip(seen[-1], batch.ids, batch.attention_mask, strict=True):
            place = int((ids == self.backbone.image_id).nonzero().max()) + 1
            entered.append([Entered(states[: int(mask.sum())], place)])
        return entered

    def visual_tokens(self, features: Any) -> Tensor:
        tokens: Tensor = self.backbone.entering(features)
        return tokens

    def penalty(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        batch = self._batch(images, prompts, answers, rows)
        with eager_attention(self.backbone.language_model.config), torch.no_grad():
            maps = self._pass(images, prompts, rows, batch, output_attentions=True).attentions
        samples = []
        for index in range(len(rows)):
            later, columns = (part[index][part[index] >= 0] for part in (batch.later, batch.rows))
            if len(columns):
                samples.append(sum(layer[index][:, later][:, :, columns].pow(2).mean() for layer in maps))
        return torch.stack(samples).mean()

    def arranged(self, features: Any, values: Tensor) -> Tensor:
        arranged: Tensor = self.backbone.arranged(features, values)
        return arranged

    def misuses(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows
    ) -> Mapping[str, Callable[[], object]]:
        batch = self._batch(images, prompts, [""] * len(images), rows)

        def forward(others: Rows) -> None:
            with self.backbone.frozen(), torch.no_grad(), self.backbone.inserted(others):
                self.backbone.model(input_ids=batch.ids.to(self.backbone.device))

        return {
            "no rows for the places": partial(forward, [[] for _ in rows]),
            "more rows than places": partial(forward, [[*sample, *sample] for sample in rows]),
        }

    def _batch(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> TeacherForced:
        """The prompts with their answers and rows, laid out as in learning."""
        pictures = [feature.layout.text for feature in self.backbone.encode(images)]
        batch: TeacherForced = self.backbone.prompter.teacher_forced(pictures, prompts, answers, rows)
        return batch

    def _pass(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        batch: TeacherForced,
        **options: Any,
    ) -> Any:
        """The model's own output for the batch, computed from pixels through the vision tower."""
        from transformers import BatchFeature

        backbone = self.backbone
        inputs = backbone.prompter.processed(images, prompts)
        pixels = {name: value for name, value in inputs.items() if value.shape != inputs["input_ids"].shape}
        layouts = [feature.layout for feature in backbone.encode(images)]
        arguments = backbone.arguments(batch.ids, batch.attention_mask, batch.starts, layouts)
        with backbone.frozen(), backbone.inserted(rows, batch.sentinels):
            return backbone.model(
                input_ids=batch.ids.to(backbone.device),
                attention_mask=batch.attention_mask.to(backbone.device),
                labels=batch.labels.to(backbone.device),
                **BatchFeature({**arguments, **pixels}).to(backbone.device, backbone.dtype),
                **options,
            )
