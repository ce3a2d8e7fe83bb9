"""The part of a backbone's contract that learning rests on: one function a promise, as in `contract`."""

from __future__ import annotations

import copy
from typing import Any
from unittest import SkipTest

import torch

from myvlm.testing.backbone_case import SHORT, BackboneCase
from myvlm.testing.backbone_qformer import (
    QFormerCase,
    query_attention_is_eager_attention,
    taught_prompts_are_those_of_use,
)

STEPS = 4
"""Of one shape: on a GPU the last are a graph's (`myvlm.backbones.causal.cuda_graph`)."""


def learning_reads_the_prompt_of_use(case: BackboneCase) -> None:
    """The ids before the answer are, in learning, those of generation; labels are the answer's only."""
    if isinstance(case, QFormerCase):
        return taught_prompts_are_those_of_use(case)
    backbone, batch = case.language_rows, case.batch(case.rows(0))
    for index, (image, prompt) in enumerate(zip(case.images, case.prompts, strict=True)):
        used = backbone.prompter.processed([image], [prompt])["input_ids"][0]
        start, end = batch.starts[index], int(batch.attention_mask[index].sum())
        assert batch.ids[index, :start].tolist() == used.tolist(), f"prompt {prompt!r} differs"
        assert (batch.labels[index, :start] == -100).all(), "a label on the prompt"
        assert (batch.labels[index, end:] == -100).all(), "a label on the padding"
        assert torch.equal(batch.labels[index, start:end], batch.ids[index, start:end])
        assert end - start >= 2, "no answer, or no end of sequence"


def features_give_the_pixels_loss(case: BackboneCase) -> None:
    """The loss from kept features is transformers' own loss from pixels."""
    rows = case.rows(0, 1, 3)
    kept = case.backbone.answer_loss(case.backbone.encode(case.images), case.prompts, case.answers, rows)
    full = case.pixel_pass(rows, case.batch(rows)).loss
    torch.testing.assert_close(kept.cross_entropy, full, rtol=1e-6, atol=1e-6)


def gradient_is_the_full_one(case: BackboneCase) -> None:
    """The directions' gradient is the full pass's, and no weight gets one."""
    rows = case.rows(1, 3)
    directions = [concept.directions for sample in rows for concept in sample]
    weights = list(case.backbone.model.parameters())
    flags = [weight.requires_grad for weight in weights]
    had = [weight.grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        loss = case.backbone.answer_loss(case.backbone.encode(case.images), case.prompts, case.answers, rows)
        (loss.cross_entropy + loss.attention).backward()  # type: ignore[no-untyped-call]
        assert all(weight.grad is grad for weight, grad in zip(weights, had, strict=True)), (
            "a weight got a gradient"
        )
        assert all(direction.grad is not None and direction.grad.any() for direction in directions), (
            "a row got none"
        )
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    kept = case.backbone.answer_loss(case.backbone.encode(case.images), case.prompts, case.answers, rows)
    full = case.pixel_pass(rows, case.batch(rows)).loss
    pairs = zip(
        torch.autograd.grad(kept.cross_entropy, directions),
        torch.autograd.grad(full, directions),
        strict=True,
    )
    for ours, theirs in pairs:
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), "not the gradient of the full pass"


def kept_prefixes_change_nothing(case: BackboneCase) -> None:
    """Loss, regularizer and gradient from kept prefixes are those of the full pass, step after step."""
    features = case.backbone.encode(case.images)
    prefixes = case.backbone.prefixes(features)
    if prefixes is None:
        raise SkipTest("what stands before the concept depends on it in this family")
    step = case.backbone.tail_losses(list(zip(case.prompts, case.answers, strict=True)), 3)
    for rows in (case.rows(0, 1, 3), case.rows(1, 2, norm="none"), case.rows(2, 1, norm="first_patch")):
        directions = [concept.directions for sample in rows for concept in sample]
        full = case.backbone.answer_loss(features, case.prompts, case.answers, rows)
        theirs = torch.autograd.grad(full.cross_entropy + full.attention, directions)
        for loss_of in (case.backbone.tail_loss, *[step] * STEPS):
            fast = loss_of(prefixes, case.prompts, case.answers, rows)
            torch.testing.assert_close(fast.cross_entropy, full.cross_entropy, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(fast.attention, full.attention, rtol=1e-5, atol=1e-7)
            ours = torch.autograd.grad(fast.cross_entropy + fast.attention, directions)
            for one, other in zip(ours, theirs, strict=True):
                assert (one - other).norm() <= 1e-5 * other.norm(), "not the gradient of the full pass"


def attention_is_eager_attention(case: BackboneCase) -> None:
    """The attention that the concept gets is the one of eager attention maps."""
    if isinstance(case, QFormerCase):
        return query_attention_is_eager_attention(case)
    backbone, rows = case.language_rows, case.rows(0, 1, 3)
    batch = case.batch(rows)
    config: Any = backbone.language_model.config
    recorded = backbone.answer_loss(backbone.encode(case.images), case.prompts, case.answers, rows).attention
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        maps = case.pixel_pass(rows, batch, output_attentions=True).attentions
    finally:
        config._attn_implementation = before
    samples = []
    for index in range(len(rows)):
        later, columns = (part[index][part[index] >= 0] for part in (batch.later, batch.rows))
        if len(columns):
            samples.append(sum(layer[index][:, later][:, :, columns].pow(2).mean() for layer in maps))
    torch.testing.assert_close(recorded, torch.stack(samples).mean(), rtol=1e-5, atol=1e-6)


def bfloat16_learns_alike(case: BackboneCase) -> None:
    """A bfloat16 copy generates, and its gradient points where the float32 one does."""
    model = copy.deepcopy(case.backbone.model).to(torch.bfloat16)
    half = type(case.backbone)(model, case.backbone.processor)
    gradients = []
    for backbone in (case.backbone, half):
        rows = case.rows(1)
        directions = [concept.directions for sample in rows for concept in sample]
        loss = backbone.answer_loss(backbone.encode(case.images), case.prompts, case.answers, rows)
        gradients.append(torch.cat(torch.autograd.grad(loss.cross_entropy, directions)).flatten())
    assert gradients[1].dtype == torch.float32
    cosine = torch.cosine_similarity(gradients[0], gradients[1], dim=0).item()
    assert cosine > 0.95, f"cosine of the gradients is {cosine:.3f}"
    replies = half.generate(case.images, case.prompts, case.rows(0, 1, 3), **SHORT)
    assert len(replies) == len(case.images)
