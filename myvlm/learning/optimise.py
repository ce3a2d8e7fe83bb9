"""The learning loop: only the concept embeddings are updated; the model and the encoded views stay fixed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows, Loss
from myvlm.errors import BackboneError, InputError
from myvlm.images import naming
from myvlm.learning.concept_optimizer import ConceptOptimizer, LearnRequest, LearnResult, Sample
from myvlm.learning.dataset import Example
from myvlm.learning.settings import LearnSettings
from myvlm.learning.view_cache import ViewCache, memory_budget

Report = Callable[[int, float, float, float | None], None]
"""Callback after every step: the step's number (from 1), cross-entropy, regularizer, and the share of
held-out captions that name the concept so far, None unless `steps="auto"`. If several concepts are learned,
the losses and the share are means over them."""

_log = logging.getLogger(__name__)


def learn_embedding(
    backbone: Backbone,
    examples: Sequence[Example],
    settings: LearnSettings,
    *,
    words: Sequence[str] = (),
    report: Report | None = None,
) -> LearnResult:
    """Optimize one concept embedding on a frozen backbone (§3.2 and §3.3 of arXiv 2403.14599).

    Every step uses all photos, each with a random view, a random caption of its own and a random instruction,
    and `questions_per_step` question/answer pairs of random photos.

    Args:
        words: the identifier and the words for the object, where the optimizer starts. The start is random
            without them, and if the backbone has no word embeddings as wide as a row.
        report: called after every step.

    Raises:
        InputError: the memory budget does not hold a step, or `steps="auto"` is set without `words`.
        BackboneError: a step's losses or its gradient are not finite; no further step is taken.
        KeyboardInterrupt: Ctrl-C before the first step. Later, Ctrl-C ends the loop, and the result so far is
            returned and marked as interrupted.
    """
    [learned] = learn_embeddings(backbone, [LearnRequest(examples, settings, words)], report=report)
    return learned


def learn_embeddings(
    backbone: Backbone, requests: Sequence[LearnRequest], *, report: Report | None = None
) -> list[LearnResult]:
    """Optimize several embeddings side by side: each step takes one batch with the samples of all concepts.

    Each concept has its own random draws, optimizer and end, and learns the same as it would alone, within
    rounding. The memory budget is the smallest that any of the requests sets.

    Raises: as `learn_embedding`.
    """
    for request in requests:
        if request.settings.steps == "auto" and not request.words:
            raise InputError(
                'steps="auto" needs the words of the concept.',
                got="no words", expected="the identifier", fix="pass words=(identifier, category)",
            )  # fmt: skip
    interrupted = False
    # The caller may have disabled gradients, and tensors made in inference mode could not have any.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(backbone.device.type, enabled=False),
        backbone.frozen(),
    ):
        optimizers = [ConceptOptimizer(backbone, request) for request in requests]
        batches = _JointBatches(backbone, optimizers)
        try:
            while active := [optimizer for optimizer in optimizers if not optimizer.progress.done]:
                losses = batches.step(active)
                if report:
                    cross_entropy, attention = (sum(own) / len(own) for own in zip(*losses, strict=True))
                    step = max(optimizer.progress.step for optimizer in active)
                    report(step, cross_entropy, attention, _mean_named_share(active))
            for optimizer in optimizers:
                optimizer.ask()
        except KeyboardInterrupt:
            if any(optimizer.progress.step == 0 for optimizer in optimizers):
                raise
            interrupted = True
            _log.warning(
                "Interrupted after %d of at most %d steps; the best embedding so far is used.",
                max(optimizer.progress.step for optimizer in optimizers),
                max(optimizer.progress.end for optimizer in optimizers),
            )
    return [optimizer.result(interrupted) for optimizer in optimizers]


def _mean_named_share(optimizers: Sequence[ConceptOptimizer]) -> float | None:
    known = [one.progress.said for one in optimizers if one.progress.said is not None]
    return sum(known) / len(known) if known else None


class _JointBatches:
    """Takes steps of several concepts in joint batches, as large as the memory allows.

    The photos of all concepts are numbered consecutively; each of their views is encoded once and cached.
    """

    def __init__(self, backbone: Backbone, optimizers: Sequence[ConceptOptimizer]) -> None:
        self.backbone = backbone
        photos: list[list[Any]] = []
        self.first_photo: dict[ConceptOptimizer, int] = {}
        self.view_counts: dict[ConceptOptimizer, list[int]] = {}
        for optimizer in optimizers:
            own = []
            for example, views in zip(optimizer.examples, optimizer.views(), strict=True):
                with naming([example.photo], backbone.encode):
                    own.append(backbone.encode(views))
            self.first_photo[optimizer], self.view_counts[optimizer] = (
                len(photos),
                [len(photo) for photo in own],
            )
            photos += own
        budgets = [c.settings.budget for c in optimizers if c.settings.budget != "auto"]
        self.tail_loss: Callable[..., Loss] = backbone.tail_loss
        if not budgets:  # under a budget a step takes the measured memory, so nothing is kept between steps
            texts = [text for optimizer in optimizers for text in optimizer.prompt_answer_pairs()]
            self.tail_loss = backbone.tail_losses(texts, max(len(c.direction) for c in optimizers))
        largest = max(optimizers, key=lambda optimizer: len(optimizer.largest_batch()))
        batch = largest.largest_batch()
        self.views = ViewCache(
            backbone,
            photos,
            memory_budget(backbone, min(budgets, default="auto")),
            samples=[self.first_photo[largest] + sample.photo for sample in batch],
            trial=lambda fetched, prefixed: self._gradients([largest], [batch], fetched, prefixed),
            batches=len(optimizers),
            strict=bool(budgets),
        )
        self.at_once = self.views.at_once
        for optimizer in optimizers:
            if validation := optimizer.progress.validation:
                # Binds no reference to self, which holds the validation: a cycle would keep the views alive.
                kept = partial(_cached_photo, self.views, self.first_photo[optimizer])
                validation.use_cached_photos(kept, prefixed=self.views.prefixed)

    def step(self, active: Sequence[ConceptOptimizer]) -> list[tuple[float, float]]:
        """Take one step of each of these concepts; return their cross-entropies and regularizers."""
        batches = [optimizer.draw_batch(self.view_counts[optimizer]) for optimizer in active]
        done: list[tuple[float, float]] = []
        while len(done) < len(active):
            group = slice(len(done), len(done) + self.at_once)
            fetched = [
                self.views.fetch(self.first_photo[optimizer] + sample.photo, sample.view)
                for optimizer, batch in zip(active[group], batches[group], strict=True)
                for sample in batch
            ]
            made = self._gradients(active[group], batches[group], fetched, self.views.prefixed)
            if made is None:
                self.at_once = 1
                continue
            for optimizer, (gradient, losses) in zip(active[group], made, strict=True):
                optimizer.advance(gradient, losses)
                done.append(losses)
        return done

    def _gradients(
        self,
        optimizers: Sequence[ConceptOptimizer],
        batches: Sequence[Sequence[Sample]],
        fetched: Sequence[Any],
        prefixed: bool,
    ) -> list[tuple[Tensor, tuple[float, float]]] | None:
        """Each concept's gradient and losses; None if the family cannot separate the losses of the samples.

        Args:
            batches: for each concept its samples.
            fetched: what the cache returned for each of these samples, in order.
            prefixed: whether `fetched` are prefixes.
        """
        samples = [sample for batch in batches for sample in batch]
        rows = [
            [ConceptRows(optimizer.direction, optimizer.settings.norm)]
            for optimizer, batch in zip(optimizers, batches, strict=True)
            for _ in batch
        ]
        loss_of = self.tail_loss if prefixed else self.backbone.answer_loss
        loss = loss_of(fetched, [s.prompt for s in samples], [s.answer for s in samples], rows)
        losses = _split_losses(loss, [len(batch) for batch in batches])
        if losses is None:
            return None
        totals = [
            own.cross_entropy + optimizer.settings.regularizer * own.attention
            for optimizer, own in zip(optimizers, losses, strict=True)
        ]
        # No sample has two of the concepts, so the gradient of the sum holds each concept's own.
        gradients = torch.autograd.grad(totals, [optimizer.direction for optimizer in optimizers])
        steps = [optimizer.progress.step + 1 for optimizer in optimizers]
        return [
            (gradient, _read_losses(own, gradient, step))
            for own, gradient, step in zip(losses, gradients, steps, strict=True)
        ]


def _cached_photo(views: ViewCache, first: int, number: int) -> Any:
    """The cached first view, the photo itself, of one photo of a concept whose photos begin at number
    `first`."""
    return views.fetch(first + number, 0)


def _read_losses(loss: Loss, gradient: Tensor, step: int) -> tuple[float, float]:
    """Read a step's losses from the device in one transfer, with whether they and the gradient are finite.

    Raises:
        BackboneError: a loss or the gradient is not finite.
    """
    parts = (loss.cross_entropy, loss.attention, gradient.norm())
    found = torch.stack([part.detach().to(gradient.device, torch.float32) for part in parts]).tolist()
    cross_entropy, attention, norm = found
    if not all(map(math.isfinite, found)):
        raise BackboneError(
            f"The model's output in learning step {step} is not finite.",
            got=f"cross-entropy {cross_entropy:g}, attention {attention:g}, a gradient of norm {norm:g}",
            expected="finite numbers",
            fix="load a float16 model in bfloat16 or float32; else learn with a smaller learning rate",
        )
    return cross_entropy, attention


def _split_losses(loss: Loss, counts: Sequence[int]) -> list[Loss] | None:
    """The losses of consecutive groups of samples of these sizes; None if the samples cannot be separated."""
    if len(counts) == 1:
        return [loss]
    if loss.by_sample is None:
        return None
    samples = loss.by_sample()
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [samples.of(slice(start, start + count)) for start, count in zip(starts, counts, strict=True)]
