"""Access to the internals of BLIP-2, for the checks of `myvlm.testing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.probe import Entered, Probe, Rows, TaughtText, eager_attention


class QFormerProbe(Probe):
    """Inputs of the Q-Former's cross-attentions, and outputs of the language model.

    Args:
        backbone: a `Blip2Backbone`, whose module imports this one.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self.prompter = backbone.prompter

    @property
    def eos_ids(self) -> list[int]:
        return list(self.prompter.eos_ids)

    @property
    def special_ids(self) -> list[int]:
        return [self.prompter.image_id]

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        return self.prompter.processed(images, prompts).to(self.backbone.device, self.backbone.dtype)

    def reply_ids(self, output: Tensor, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        return [self.prompter.reply(ids)[1].tolist() for ids in self.prompter.new_ids(output, inputs)]

    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        replies: Sequence[Sequence[int]],
    ) -> Tensor:
        inputs = dict(self.inputs(images, prompts))
        new = torch.tensor(replies, dtype=torch.long, device=self.backbone.device)
        if self.prompter.causal:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        else:  # the decoder's tokens so far, beginning with its start token
            start = self.backbone.model.language_model.config.decoder_start_token_id
            starts = torch.full((len(new), 1), start, device=new.device)
            inputs["decoder_input_ids"] = torch.cat([starts, new], dim=1)
        with (
            self.backbone.frozen(),
            torch.no_grad(),
            self.backbone.inserted(rows) if any(rows) else nullcontext(),
        ):
            logits: Tensor = self.backbone.model(**inputs).logits[:, -1].float()
        return logits

    def taught(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[TaughtText]:
        batch, samples = self.prompter.teacher_forced(prompts, answers), []
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            real = int(batch.inputs["attention_mask"][index].sum())
            read = batch.inputs["input_ids"][index, :real].tolist()
            target = [*self.prompter.answer_ids(prompt, answer), *self.prompter.eos_ids[:1]]
            start = batch.starts[index]
            if self.prompter.causal:
                read, target = read[:start], read[start:]
            samples.append(TaughtText(read, target, batch.labels[index].tolist(), start))
        return samples

    def pixel_loss(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        loss: Tensor = self._pass(images, prompts, answers, rows).loss
        return loss

    def entered(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> list[list[Entered]]:
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def see(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            seen.append((args[0], module.forward(args[0]), output))

        backbone = self.backbone
        with backbone.frozen(), torch.no_grad(), backbone.inserted(rows) as inserted, ExitStack() as hooks:
            for layer in inserted.layers:
                for linear in (layer.key, layer.value):  # these hooks run after those of the insertion
                    hooks.callback(linear.register_forward_hook(see).remove)
            self._look(images, prompts)
        tokens = len(backbone.encode(images[:1])[0])
        entered = []
        for index, sample in enumerate(rows):
            end = tokens + sum(concept.count for concept in sample)
            entered.append(
                [
                    Entered(states[index, :end], tokens, mapped[index, :end], made[index, :end])
                    for states, mapped, made in seen
                ]
            )
        return entered

    def visual_tokens(self, features: Tensor) -> Tensor:
        return features

    def penalty(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        maps: list[Any] = []
        with eager_attention(self.backbone.model.qformer.config), torch.no_grad(), ExitStack() as hooks:
            for layer in self.backbone.inserted(rows).layers:
                hook = layer.register_forward_hook(lambda module, args, output: maps.append(output[1]))
                hooks.callback(hook.remove)
            self._pass(images, prompts, answers, rows)
        samples, tokens = [], len(self.backbone.encode(images[:1])[0])
        for index, sample in enumerate(rows):
            columns = slice(tokens, tokens + sum(concept.count for concept in sample))
            if sample:
                samples.append(sum(layer[index][:, :, columns].pow(2).mean() for layer in maps))
        return torch.stack(samples).mean()

    def arranged(self, features: Tensor, values: Tensor) -> Tensor:
        arranged: Tensor = self.backbone.arranged(values)
        return arranged

    def misuses(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows
    ) -> Mapping[str, Callable[[], object]]:
        def encode(others: Rows) -> None:
            with self.backbone.frozen(), torch.no_grad(), self.backbone.inserted(others):
                self._look(images, prompts)

        return {
            "rows for fewer pictures": partial(encode, rows[:-1]),
            "rows for more pictures": partial(encode, [*rows, *rows]),
            "a prompt without a place for its picture": partial(self._without_places, images, prompts, rows),
        }

    def _look(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Run the vision tower and the Q-Former, which in InstructBLIP reads the prompts too."""
        read = self.prompter.qformer_inputs(prompts)
        told = {name: ids.to(self.backbone.device) for name, ids in read.items()}
        self.backbone.model.get_image_features(self._pixels(images), **told)

    def _without_places(self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows) -> None:
        processor = self.backbone.processor
        places, processor.num_query_tokens = processor.num_query_tokens, None
        try:
            self.backbone.generate(images, prompts, rows)
        finally:
            processor.num_query_tokens = places

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        made = self.backbone.processor.image_processor(list(images), return_tensors="pt")
        pixels: Tensor = made["pixel_values"].to(self.backbone.device, self.backbone.dtype)
        return pixels

    def _pass(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Any:
        """The model's own output for prompts and answers, from pixels."""
        batch = self.prompter.teacher_forced(prompts, answers)
        inputs = {"labels": batch.labels, **batch.inputs}
        with self.backbone.frozen(), self.backbone.inserted(rows):
            return self.backbone.model(
                pixel_values=self._pixels(images),
                **{name: value.to(self.backbone.device) for name, value in inputs.items()},
            )
