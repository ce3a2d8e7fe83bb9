"""The contract where concepts enter beside a picture's features, in a Q-Former: what is checked otherwise.

The checks of `contract` hand over to these; most run on a `QFormerCase` as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import Backbone, ConceptRows, NormRule
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.qformer.prompts import Taught
from myvlm.errors import BackboneError, InputError
from myvlm.testing.backbone_case import BackboneCase


def case_of(backbone: Backbone, images: Sequence[Image.Image], identifier: str) -> BackboneCase:
    """The case that fits the way by which concepts enter the backbone."""
    kind = QFormerCase if isinstance(backbone, Blip2Backbone) else BackboneCase
    return kind(backbone, images, identifier)


class QFormerCase(BackboneCase):
    """A BLIP-2, its pictures, texts and random concepts."""

    @property
    def blip2(self) -> Blip2Backbone:
        assert isinstance(self.backbone, Blip2Backbone)
        return self.backbone

    @property
    def pixels(self) -> Tensor:
        made = self.backbone.processor.image_processor(list(self.images), return_tensors="pt")
        pixels: Tensor = made["pixel_values"].to(self.backbone.device, self.backbone.dtype)
        return pixels

    def processed(self) -> Any:
        return self.blip2.prompter.processed(self.images, self.prompts).to(self.backbone.device)

    def plain_logits(self, inputs: Any) -> Tensor:
        logits: Tensor = self.backbone.model(**inputs, **self._written([[]] * len(self.images))).logits
        return logits

    def said(self, output: Tensor, inputs: Any) -> list[list[int]]:
        prompter = self.blip2.prompter
        return [prompter.reply(ids)[1].tolist() for ids in prompter.new_ids(output, inputs)]

    def batch(self, rows: Sequence[Sequence[ConceptRows]]) -> Taught:  # type: ignore[override]
        return self.blip2.prompter.teacher_forced(self.prompts, self.answers)

    def pixel_pass(self, rows: Sequence[Sequence[ConceptRows]], batch: Any, **options: Any) -> Any:
        device = self.backbone.device
        inputs = {"labels": batch.labels, **batch.inputs}
        with self.backbone.frozen(), self.blip2.inserted(rows):
            return self.backbone.model(
                pixel_values=self.pixels,
                **{name: value.to(device) for name, value in inputs.items()},
                **options,
            )

    def first_logits(self, samples: Iterable[int], rows: Sequence[Sequence[ConceptRows]]) -> Tensor:
        chosen = list(samples)
        return self.next_logits(chosen, rows, [[]] * len(chosen))

    def next_logits(
        self, samples: Sequence[int], rows: Sequence[Sequence[ConceptRows]], said: Sequence[Sequence[int]]
    ) -> Tensor:
        """The logits `N × V` behind what was said in each sample, by one full pass, padded as in use."""
        prompter, device = self.blip2.prompter, self.backbone.device
        inputs = prompter.processed([self.images[i] for i in samples], [self.prompts[i] for i in samples])
        inputs = {name: value.to(device) for name, value in inputs.items()}
        new = torch.tensor(said, dtype=torch.long, device=device)
        if prompter.causal:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        written = self._written(said)
        with self.backbone.frozen(), torch.no_grad(), self.blip2.inserted([rows[i] for i in samples]):
            logits: Tensor = self.backbone.model(**inputs, **written).logits[:, -1].float()
        return logits

    def _written(self, said: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """What a decoder has written so far, its start first; nothing for a causal model."""
        if self.blip2.prompter.causal:
            return {}
        start = self.backbone.model.language_model.config.decoder_start_token_id
        ids = [[start, *sample] for sample in said]
        return {"decoder_input_ids": torch.tensor(ids, device=self.backbone.device)}


def rows_land_in_the_qformer(case: QFormerCase) -> None:
    """Rows stand behind untouched features, and keys and values have the promised norms, layer by layer."""
    backbone, norms = case.blip2, get_args(NormRule)
    features = torch.stack(backbone.encode(case.images))
    tokens = features.shape[1]
    for norm in norms:
        rows = case.rows(0, 1, 3, norm=norm)
        for linear, states, output in _maps(case, rows):
            own = output[:, :tokens]
            assert torch.equal(states[:, :tokens], features.to(states)), "a feature of the picture changed"
            assert torch.equal(own, linear(states)[:, :tokens]), "a key or value of the picture changed"
            for index, sample in enumerate(rows):
                count = sum(concept.count for concept in sample)
                if not count:
                    continue
                got, made = (part[index, tokens : tokens + count] for part in (states, output))
                torch.testing.assert_close(got, _entering(sample, features[index]).to(got))
                sizes, raw = own[index].norm(dim=-1), linear(got)
                target = {"visual_mean": sizes.mean(), "first_patch": sizes[0], "none": None}[norm]
                expected = raw if target is None else functional.normalize(raw, dim=-1) * target
                torch.testing.assert_close(made, expected)


def _maps(case: QFormerCase, rows: Sequence[Sequence[ConceptRows]]) -> list[tuple[Any, Tensor, Tensor]]:
    """Every key's and value's linear map in a pass with rows, what it was given, and what came of it."""
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def see(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        seen.append((module.forward, args[0], output))

    backbone = case.blip2
    with backbone.frozen(), torch.no_grad(), backbone.inserted(rows) as inserted, ExitStack() as hooks:
        for layer in inserted.layers:
            for linear in (layer.key, layer.value):  # behind the insertion's own hooks
                hooks.callback(linear.register_forward_hook(see).remove)
        backbone.model.get_image_features(case.pixels)
    assert len(seen) == 2 * len(inserted.layers) > 0, f"{len(seen)} maps of {len(inserted.layers)} layers"
    return seen


def _entering(sample: Sequence[ConceptRows], feature: Tensor) -> Tensor:
    rows = []
    for concept in sample:
        unit = functional.normalize(concept.directions.detach(), dim=-1)
        sizes = feature.norm(dim=-1).cpu()
        targets = {"visual_mean": unit * sizes.mean(), "first_patch": unit * sizes[0]}
        rows.append(targets.get(concept.norm, concept.directions.detach()))
    return torch.cat(rows)


def replies_are_those_of_full_passes(case: QFormerCase) -> None:
    """Greedy tokens and beams are those of full passes without a cache (which transformers insists on)."""
    backbone, rows, length = case.blip2, case.rows(0, 1, 3), 3
    # A random model may say an image placeholder: a full pass would look for its picture.
    unsaid = [backbone.prompter.image_id]
    for beams in (1, 3):
        replies = backbone.generate(
            case.images,
            case.prompts,
            rows,
            num_beams=beams,
            max_new_tokens=length,
            min_new_tokens=length,  # of one length: no beam ends before another
            suppress_tokens=unsaid,
        )
        for index, reply in enumerate(replies):
            kept: list[tuple[float, list[int]]] = [(0.0, [])]
            for _ in range(length):
                logits = case.next_logits([index] * len(kept), rows, [said for _, said in kept])
                scores = logits.log_softmax(-1)
                scores[:, [*unsaid, *backbone.prompter.eos_ids]] = -torch.inf
                best = scores.topk(beams)
                longer = [
                    (total + score, [*said, token])
                    for (total, said), values, tokens in zip(kept, best.values, best.indices, strict=True)
                    for score, token in zip(values.tolist(), tokens.tolist(), strict=True)
                ]
                kept = sorted(longer, reverse=True)[:beams]
            expected = backbone.prompter.reply(torch.tensor(kept[0][1]))[1]
            assert torch.equal(reply.token_ids, expected), f"sample {index}, {beams} beams: {reply.text!r}"


def taught_prompts_are_those_of_use(case: QFormerCase) -> None:
    """What is read in learning is what the processor makes in use; labels are the answer's only."""
    prompter, batch = case.blip2.prompter, case.batch(case.rows(0))
    for index, (image, prompt) in enumerate(zip(case.images, case.prompts, strict=True)):
        used = prompter.processed([image], [prompt])["input_ids"][0].tolist()
        real = int(batch.inputs["attention_mask"][index].sum())
        read = batch.inputs["input_ids"][index, :real].tolist()
        labels = batch.labels[index].tolist()
        said = [label for label in labels if label != -100]
        assert said == [*prompter.answer_ids(prompt, case.answers[index]), *prompter.eos_ids[:1]]
        assert len(said) >= 2, "no answer, or no end of sequence"
        assert read == ([*used, *said] if prompter.causal else used), f"prompt {prompt!r} differs"
        start = batch.starts[index]
        assert labels[start : start + len(said)] == said, "labels elsewhere than on the answer"
        assert start == (len(used) if prompter.causal else 0)


def query_attention_is_eager_attention(case: QFormerCase) -> None:
    """The attention that the concept gets from the queries is the one of eager attention maps."""
    backbone, rows = case.blip2, case.rows(0, 1, 3)
    features = backbone.encode(case.images)
    recorded = backbone.answer_loss(features, case.prompts, case.answers, rows).attention
    config: Any = backbone.model.qformer.config
    before, maps = config._attn_implementation, []
    config._attn_implementation = "eager"
    try:
        with ExitStack() as hooks:
            for layer in backbone.inserted(rows).layers:
                hook = layer.register_forward_hook(lambda module, args, output: maps.append(output[1]))
                hooks.callback(hook.remove)
            case.pixel_pass(rows, case.batch(rows))
    finally:
        config._attn_implementation = before
    samples, tokens = [], len(features[0])
    for index, sample in enumerate(rows):
        columns = slice(tokens, tokens + sum(concept.count for concept in sample))
        if sample:
            samples.append(sum(layer[index][:, :, columns].pow(2).mean() for layer in maps))
    assert len(maps) > 0
    torch.testing.assert_close(recorded, torch.stack(samples).mean(), rtol=1e-5, atol=1e-6)


def wrong_pictures_raise(case: QFormerCase) -> None:
    """Rows for more or fewer pictures, and a prompt without places for its picture, are errors."""
    backbone, before = case.blip2, case.state()
    for rows in (case.rows(1)[:-1], [*case.rows(1), *case.rows(1)]):
        try:
            with backbone.frozen(), backbone.inserted(rows):
                backbone.model.get_image_features(case.pixels)
        except BackboneError:
            continue
        raise AssertionError("rows for another number of pictures went unnoticed")
    processor, places = backbone.processor, backbone.processor.num_query_tokens
    try:
        processor.num_query_tokens = None
        backbone.generate(case.images, case.prompts, case.rows(0, 1))
    except InputError:
        pass
    else:
        raise AssertionError("a prompt without a place for its picture went unnoticed")
    finally:
        processor.num_query_tokens = places
    assert case.state() == before
