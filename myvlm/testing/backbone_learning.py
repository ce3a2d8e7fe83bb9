"""The part of a backbone's contract that learning depends on: each function asserts one property."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from myvlm.backbones import Loss
from myvlm.testing.backbone_case import SHORT, BackboneCase

STEPS = 4
"""Steps with one batch shape; on a GPU the last ones run as a graph (`myvlm.backbones.causal.cuda_graph`)."""


def learning_reads_the_prompt_of_use(case: BackboneCase) -> None:
    """Token ids before the answer are the same in learning as in generation; only the answer has labels."""
    samples = case.probe.taught(*case.texts)
    assert len(samples) == len(case.images)
    for image, prompt, sample in zip(case.images, case.prompts, samples, strict=True):
        used = case.probe.inputs([image], [prompt])["input_ids"][0].tolist()
        assert sample.read == used, f"prompt {prompt!r} differs"
        assert len(sample.answer) >= 2, "no answer, or no end of sequence"
        assert sample.answer[-1] in case.probe.eos_ids, "the end of sequence is not learned"
        end = sample.start + len(sample.answer)
        assert sample.labels[sample.start : end] == sample.answer, "labels elsewhere than on the answer"
        others = [*sample.labels[: sample.start], *sample.labels[end:]]
        assert set(others) <= {-100}, "a label on the prompt or the padding"


def features_give_the_pixels_loss(case: BackboneCase) -> None:
    """The loss from kept features equals transformers' own loss from pixels."""
    rows = case.rows(0, 1, 3)
    kept = case.backbone.answer_loss(case.backbone.encode(case.images), case.prompts, case.answers, rows)
    full = case.probe.pixel_loss(*case.texts, rows)
    torch.testing.assert_close(kept.cross_entropy, full, rtol=1e-6, atol=1e-6)


def gradient_is_the_full_one(case: BackboneCase) -> None:
    """The gradient of the directions equals that of a full pass, and no weight gets one."""
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
            "a row got no gradient"
        )
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    kept = case.backbone.answer_loss(case.backbone.encode(case.images), case.prompts, case.answers, rows)
    full = case.probe.pixel_loss(*case.texts, rows)
    pairs = zip(
        torch.autograd.grad(kept.cross_entropy, directions),
        torch.autograd.grad(full, directions),
        strict=True,
    )
    for ours, theirs in pairs:
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), "not the gradient of the full pass"


def kept_prefixes_change_nothing(case: BackboneCase) -> None:
    """Loss, regularizer and gradient from kept prefixes equal those of the full pass, step after step.

    A gradient that differs may be at most twice as far from the gradient in float64 as the full pass's is.
    """
    backbone = case.backbone
    features = backbone.encode(case.images)
    prefixes = backbone.prefixes(features)
    case.skip_if_lacking("kept_prefixes", able=prefixes is not None)
    assert prefixes is not None
    model = copy.deepcopy(backbone.model).double()
    model.set_experts_implementation("eager")  # running all experts at once does not support float64
    exact = type(backbone)(model, backbone.processor)
    exact_features = exact.encode(case.images)
    step = backbone.tail_losses(list(zip(case.prompts, case.answers, strict=True)), 3)
    for rows in (case.rows(0, 1, 3), case.rows(1, 2, norm="none"), case.rows(2, 1, norm="first_patch")):
        directions = [concept.directions for sample in rows for concept in sample]

        def gradients(loss: Loss, directions: Sequence[Tensor] = directions) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss.cross_entropy + loss.attention, directions)

        full = backbone.answer_loss(features, case.prompts, case.answers, rows)
        theirs = gradients(full)
        right = gradients(exact.answer_loss(exact_features, case.prompts, case.answers, rows))
        for loss_of in (backbone.tail_loss, *[step] * STEPS):
            fast = loss_of(prefixes, case.prompts, case.answers, rows)
            torch.testing.assert_close(fast.cross_entropy, full.cross_entropy, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(fast.attention, full.attention, rtol=1e-5, atol=1e-7)
            for one, other, true in zip(gradients(fast), theirs, right, strict=True):
                near = (one - other).norm() <= 1e-5 * other.norm()
                as_near = (one - true).norm() <= 2 * (other - true).norm()
                assert near or as_near, "not the gradient of the full pass"


def attention_is_eager_attention(case: BackboneCase) -> None:
    """The recorded attention to the concept is that of eager attention maps, and 0 without a concept."""
    features, rows = case.backbone.encode(case.images), case.rows(0, 1, 3)
    with torch.no_grad():
        recorded = case.backbone.answer_loss(features, case.prompts, case.answers, rows).attention
        none = case.backbone.answer_loss(features, case.prompts, case.answers, case.rows(0)).attention
    assert none == 0, f"the loss is {none} without a concept"
    case.skip_if_lacking("attention_penalty", able=bool(recorded > 0))
    torch.testing.assert_close(recorded, case.probe.penalty(*case.texts, rows), rtol=1e-5, atol=1e-6)


def bfloat16_learns_alike(case: BackboneCase) -> None:
    """A bfloat16 copy generates, and its gradient has nearly the direction of the float32 one."""
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
