"""Likelihood of given answers under a frozen model, from forward passes without generation.

With a concept's rows it decides when learning may stop. Towards the end the training captions are nearly
memorized under the training instructions; the decision therefore uses held-out views, and instructions that
are not trained on unless the family has caption prompts of its own. Without rows, with the description in the
name's place, it measures what the plain model knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows, Loss
from myvlm.backbones.frozen import exclusive_use
from myvlm.backbones.tokens import IGNORED, as_written
from myvlm.learning.dataset import Example, held_out_view, reduced_for_model
from myvlm.learning.noun_phrases import as_described
from myvlm.learning.settings import LearnSettings
from myvlm.text import find_words, in_words

UNSEEN_PROMPTS = ("Tell me what you see.", "What is in the image?", "Write about the picture.")
"""Instructions for validation that no training step uses."""
REQUIRED_NAMED_SHARE = 0.75
"""Share of the held-out captions that must name the concept; not all, as some views are too dark or rotated
too far."""
MAX_ANSWERS = 16
"""The most answers that are asked for after learning."""
DOMINANT_TOKEN_LOSS = math.log(2)
"""Loss below which a token is more likely than all others together, so that greedy decoding generates it."""
TAUGHT_LOSS = "taught_loss"
"""Key of an embedding's figures, present if its replies are verified: the plain model's loss of the training
caption that it finds least likely, in nats per token."""


class Check(NamedTuple):
    """Result of a validation: how often held-out captions would name the concept, and how likely they are.

    Attributes:
        said: share of the held-out captions in which every token of the name is more likely than all others
            together; None if that is not known.
        loss: mean negative log-likelihood per token of these captions, the name included.
    """

    said: float | None
    loss: float


PicturesAndLoss: TypeAlias = "tuple[Sequence[Any], Callable[..., Loss]]"
"""Pictures as features or prefixes, and the loss function that takes them."""


def pictures_and_loss(backbone: Backbone, views: Sequence[Image.Image]) -> PicturesAndLoss:
    """Encode pictures, to prefixes if the backbone keeps them; return them with the loss that takes them."""
    features = backbone.encode(views)
    prefixes = backbone.prefixes(features)
    return (features, backbone.answer_loss) if prefixes is None else (prefixes, backbone.tail_loss)


class Validation:
    """Measures how likely captions that name the concept are for held-out views; deterministic by seed.

    Args:
        backbone: the frozen model.
        examples: the concept's photos. One view of each is held out, or the photo itself without
            augmentation.
        settings: the settings that views are made with.
        identifier: the word to look for in the captions.
    """

    def __init__(
        self, backbone: Backbone, examples: Sequence[Example], settings: LearnSettings, identifier: str
    ) -> None:
        self.backbone, self.norm, self.word = backbone, settings.norm, as_written(backbone, identifier)
        self.augmented = settings.augment
        self.views = [
            held_out_view(
                reduced_for_model(backbone.processor, e.photo),
                settings.views,
                augment=settings.augment,
                seed=settings.view_seed(number),
            )
            for number, e in enumerate(examples)
        ]
        prompts = backbone.caption_prompts or UNSEEN_PROMPTS
        self.photos = [number % len(examples) for number in range(max(len(examples), len(prompts)))]
        self.prompts = [prompts[number % len(prompts)] for number in range(len(self.photos))]
        self.captions = [
            examples[photo].captions[number // len(examples) % len(examples[photo].captions)]
            for number, photo in enumerate(self.photos)
        ]
        asked = [(number, *pair) for number, e in enumerate(examples) for pair in e.questions]
        self.asked = asked[:: math.ceil(len(asked) / MAX_ANSWERS) or 1]
        self._pictures_and_loss: Callable[[], PicturesAndLoss] = cache(
            partial(pictures_and_loss, backbone, self.views)
        )
        if self.augmented:
            self._pictures_and_loss()  # now, before the view cache divides up the free memory

    def use_cached_photos(self, fetch: Callable[[int], Any], *, prefixed: bool) -> None:
        """Without augmentation, use the photos that the view cache keeps instead of encoding them again.

        Args:
            fetch: returns the prefix or features of a photo, by its number.
            prefixed: whether `fetch` returns prefixes.
        """
        loss_of = self.backbone.tail_loss if prefixed else self.backbone.answer_loss
        numbers = range(len(self.views))  # so that the lambda holds no reference to self: no cycle
        if not self.augmented:
            self._pictures_and_loss = lambda: ([fetch(number) for number in numbers], loss_of)

    @torch.no_grad()
    def check(self, direction: Tensor) -> Check:
        """Return how likely the captions are with this `rows × dim` embedding.

        `said` is None for a family that cannot separate the samples of a batch (`Loss.by_sample`).
        """
        views, loss_of = self._pictures_and_loss()
        rows = [[ConceptRows(direction.detach(), self.norm)]] * len(self.photos)
        loss = loss_of([views[photo] for photo in self.photos], self.prompts, self.captions, rows)
        if loss.by_sample is None:
            return Check(None, float(loss.cross_entropy))
        samples = loss.by_sample()
        each = zip(samples.by_token.cpu(), samples.targets.cpu(), strict=True)
        own = [(losses[ids != IGNORED], ids[ids != IGNORED].tolist()) for losses, ids in each]
        decode = self.backbone.processor.tokenizer.decode
        of_name = [losses[_word_tokens(decode, ids, self.word)] for losses, ids in own]
        named = [bool((losses < DOMINANT_TOKEN_LOSS).all()) for losses in of_name]
        return Check(sum(named) / len(named), float(torch.cat([losses for losses, _ in own]).mean()))

    @torch.no_grad()
    def share_answered(self, direction: Tensor) -> float | None:
        """Return the share of the given answers that the model would give with this `rows × dim` embedding.

        Every token of such an answer is more likely than all others together. At most `MAX_ANSWERS` of them
        are asked for. None without questions, or for a family that cannot separate the samples of a batch.
        """
        views, loss_of = self._pictures_and_loss()
        rows, found = [ConceptRows(direction.detach(), self.norm)], list[bool]()
        for start in range(0, len(self.asked), len(self.photos)):
            photos, questions, answers = zip(*self.asked[start : start + len(self.photos)], strict=True)
            loss = loss_of([views[photo] for photo in photos], questions, answers, [rows] * len(photos))
            if loss.by_sample is None:
                return None
            samples = loss.by_sample()
            given = (samples.by_token < DOMINANT_TOKEN_LOSS) | (samples.targets == IGNORED)
            found += given.all(dim=1).tolist()
        return sum(found) / len(found) if found else None


def _word_tokens(decode: Callable[[list[int]], str], ids: list[int], word: str) -> slice:
    """The slice of tokens that write a word where it first occurs in the text; all tokens if it does not
    occur.

    >>> _word_tokens(lambda ids: "".join("a |s|k|s| .".split("|")[i] for i in ids), [0, 1, 2, 3, 4], "sks")
    slice(1, 4, None)
    """
    found = next(find_words(decode(ids), word), None)
    if found is None:
        return slice(0, len(ids))
    written = [len(decode(ids[:count])) for count in range(len(ids) + 1)]
    first = max(count for count, length in enumerate(written) if length <= found.start)
    return slice(first, next(count for count, length in enumerate(written) if length >= found.end))


@torch.no_grad()
def losses(
    loss_of: Callable[..., Loss],
    pictures: Sequence[Any],
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    at_once: int,
) -> list[float]:
    """Return the plain model's mean negative log-likelihood, in nats per token, of each answer to its prompt.

    Args:
        loss_of: the backbone's `answer_loss` or `tail_loss`.
        pictures: features or prefixes of B pictures, as `loss_of` takes them.
        prompts, answers: B instructions and B texts.
        at_once: batch size, such as the backbone's `images_at_once`.
    """
    means: list[float] = []
    for start in range(0, len(pictures), at_once):
        batch = [part[start : start + at_once] for part in (pictures, prompts, answers)]
        loss = loss_of(*batch, [[]] * len(batch[0]))
        if loss.by_sample is None:  # the family cannot separate the samples of a batch
            each = zip(*batch, strict=True)
            means += [float(loss_of(*([part] for part in one), [[]]).cross_entropy) for one in each]
        else:
            samples = loss.by_sample()
            means += (samples.by_token.sum(1) / (samples.targets != IGNORED).sum(1)).tolist()
    return means


class PlainLosses(NamedTuple):
    """The plain model's losses of the given answers and captions, with the description in place of the name.

    Attributes:
        answers: nats per token of each given answer.
        captions: nats per token of each caption: how far the owner's wording is from the model's own.
    """

    answers: list[float]
    captions: list[float]

    @property
    def asked_by(self) -> Literal["name", "description"]:
        """How questions should refer to the concept (`LearnSettings.asked_by`).

        By its description if the plain model, asked that way, finds at least half of the given answers: their
        tokens are on average more likely than all others together.
        """
        found = [loss < DOMINANT_TOKEN_LOSS for loss in self.answers]
        return "description" if 2 * sum(found) >= len(found) else "name"


def plain_losses(backbone: Backbone, examples: Sequence[Example], name: str, description: str) -> PlainLosses:
    """Compute the plain model's losses of the photos' answers and captions, with the description for the
    name."""
    found = PlainLosses([], [])
    for example in examples:
        asked, answers = (
            [in_words(pair[part], {name: description}) for pair in example.questions] for part in (0, 1)
        )
        told = [as_described(text, {name: description}) for text in example.captions]
        [photo], loss_of = pictures_and_loss(backbone, [reduced_for_model(backbone.processor, example.photo)])
        prompts = [*asked, *[backbone.caption_prompt] * len(told)]
        with exclusive_use(backbone.model):
            texts, at_once = [*answers, *told], backbone.images_at_once
            each = losses(loss_of, [photo] * len(texts), prompts, texts, at_once=at_once)
        found.answers.extend(each[: len(asked)])
        found.captions.extend(each[len(asked) :])
    return found
