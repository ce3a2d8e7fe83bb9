"""The learning loop: only the concept embedding moves; the model and the encoded views stay as they are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows, Loss
from myvlm.learning.examples import CAPTION_PROMPTS, Example
from myvlm.learning.settings import LearnSettings
from myvlm.learning.views import make_views

Report = Callable[[int, float, float], None]
"""Called after every step with its number (from 1), the cross-entropy and the regularizer."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What learning gives: `directions` (rows × dim float32, unit mean square) and the last losses."""

    directions: Tensor
    cross_entropy: float
    attention: float


def learn_embedding(
    backbone: Backbone,
    examples: Sequence[Example],
    settings: LearnSettings,
    *,
    words: Sequence[str] = (),
    report: Report | None = None,
) -> Learned:
    """Optimise one concept embedding on a frozen backbone (§3.2 and §3.3 of arXiv 2403.14599).

    Every step takes all photos: of each a random view, a random caption of its own and a random
    instruction; and `questions_per_step` question/answer pairs of random photos.

    Args:
        words: identifier and category, between whose embeddings the optimiser starts; at random without,
            and where the backbone has no embedding of words as wide as a row.
        report: told of every step; a `KeyboardInterrupt` raised anywhere leaves nothing behind.
    """
    with backbone.frozen():
        kept, step_loss = _keep_views(backbone, examples, settings)
        random = Random(f"learn {settings.seed}")
        direction = torch.nn.Parameter(_start(backbone, settings, words))
        optimiser = torch.optim.AdamW([direction], lr=settings.learning_rate, weight_decay=0.0)
        losses = (math.nan, math.nan)
        for step in range(settings.steps):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _decay(step, settings.steps)
            batch = _draw(examples, kept, settings, random, backbone.caption_prompts or CAPTION_PROMPTS)
            seen, prompts, answers = zip(*batch, strict=True)
            rows = [[ConceptRows(direction, settings.norm)]] * len(batch)
            loss = step_loss(seen, prompts, answers, rows)
            total = loss.cross_entropy + settings.regularizer * loss.attention
            (direction.grad,) = torch.autograd.grad(total, [direction])
            if settings.gradient_clip:
                torch.nn.utils.clip_grad_norm_([direction], settings.gradient_clip)
            optimiser.step()
            if settings.norm != "none":
                _to_unit_mean_square(direction)
            losses = (loss.cross_entropy.item(), loss.attention.item())
            if report:
                report(step + 1, *losses)
    return Learned(direction.detach().cpu(), *losses)


def _keep_views(
    backbone: Backbone, examples: Sequence[Example], settings: LearnSettings
) -> tuple[Sequence[Sequence[Any]], Callable[..., Loss]]:
    """What is kept of every photo's views, and the loss that takes it.

    Prefix caches where the family has them and the memory holds them, else the projected visual tokens.
    """
    features = _encode_views(backbone, examples, settings)
    first = backbone.prefixes(features[0][:1])
    if not first or first[0].nbytes * sum(map(len, features)) > _free_memory(backbone.device) / 2:
        return features, backbone.answer_loss
    return [backbone.prefixes(views) or [] for views in features], backbone.tail_loss


def _free_memory(device: torch.device) -> int:
    """Bytes that are free where the model is."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _encode_views(
    backbone: Backbone, examples: Sequence[Example], settings: LearnSettings
) -> list[list[Tensor]]:
    """For every photo the projected visual tokens of each of its views; the tower runs here only."""
    views = [
        make_views(
            e.photo.image, settings.views, augment=settings.augment, seed=settings.seed * 1000 + number
        )
        for number, e in enumerate(examples)
    ]
    encoded = iter(backbone.encode([view for own in views for view in own]))
    return [[next(encoded) for _ in own] for own in views]


NOISE = 0.3
"""Size of the random part beside the words, so that several rows do not start as one."""


def _start(backbone: Backbone, settings: LearnSettings, words: Sequence[str]) -> Tensor:
    """`rows × dim` of unit mean square: among the words, or random; the same on every device."""
    generator = torch.Generator().manual_seed(settings.seed)
    direction = torch.randn(settings.rows, backbone.dim, generator=generator)
    known = [backbone.word_direction(word) for word in words if settings.start == "words"]
    spoken = [one.cpu() for one in known if one is not None]
    if spoken:
        middle = torch.stack(spoken).sum(0)
        direction = middle * (backbone.dim**0.5 / middle.norm()) + NOISE * direction
    direction = direction.to(backbone.device)
    _to_unit_mean_square(direction)
    return direction


def _draw(
    examples: Sequence[Example],
    kept: Sequence[Sequence[Any]],
    settings: LearnSettings,
    random: Random,
    prompts: Sequence[str],
) -> list[tuple[Any, str, str]]:
    """One step's batch: a kept view, instruction and answer of every sample."""
    batch = [
        (random.choice(views), random.choice(prompts), random.choice(example.captions))
        for example, views in zip(examples, kept, strict=True)
    ]
    asked = [number for number, example in enumerate(examples) if example.questions]
    for _ in range(settings.questions_per_step if asked else 0):
        number = random.choice(asked)
        batch.append((random.choice(kept[number]), *random.choice(examples[number].questions)))
    return batch


def _decay(step: int, steps: int) -> float:
    """Full rate for the first half, then a cosine to nearly nothing, so that the end is quiet."""
    through = max(0.0, (step + 1) / steps - 0.5) * 2
    return 0.02 + 0.98 * (1 + math.cos(math.pi * through)) / 2


@torch.no_grad()
def _to_unit_mean_square(direction: Tensor) -> None:
    # The backbone sets the norm anyway; here it is what makes the learning rate an angle.
    direction.mul_(direction.shape[-1] ** 0.5 / direction.norm(dim=-1, keepdim=True))
