"""How likely a frozen model finds texts about pictures, in one pass and without a word generated.

With a concept's rows it says whether learning may stop: the training captions are nearly memorised in the
end, under instructions that were trained on, so what counts are views that no step saw, under instructions
that none held. Without rows, the concept's description in the name's place, it says what the model knows by
itself.
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
from myvlm.backbones.frozen import in_turn
from myvlm.backbones.tokens import IGNORED, as_written
from myvlm.learning.dataset import Example, as_seen, held_out_view
from myvlm.learning.noun_phrases import as_described
from myvlm.learning.settings import LearnSettings
from myvlm.text import find_words, in_words

UNSEEN_PROMPTS = ("Tell me what you see.", "What is in the image?", "Write about the picture.")
"""Instructions that no step is under."""
ENOUGH = 0.75
"""Part of the captions that must have the name; some views are too dark or too much turned."""
SURE = math.log(2)
"""A token with a loss below this is likelier than all others together: greedy replies say it."""
TAUGHT_LOSS = "taught_loss"
"""The figure of an embedding whose replies are verified: the loss of that caption, of all that it was taught,
which the plain model finds the least likely."""


class Check(NamedTuple):
    """How often held-out captions would name the concept by an embedding, and how likely they are.

    Attributes:
        said: part of the held-out captions whose every token of the name is likelier than all others; None
            where that is not known.
        loss: mean negative log-likelihood of a token of these captions, the name's own among them.
    """

    said: float | None
    loss: float


Shown: TypeAlias = "tuple[Sequence[Any], Callable[..., Loss]]"
"""Pictures, as features or prefixes, and the loss that takes these."""


def shown_to(backbone: Backbone, views: Sequence[Image.Image]) -> Shown:
    """Pictures as a backbone keeps them, and the loss that takes these."""
    features = backbone.encode(views)
    prefixes = backbone.prefixes(features)
    return (features, backbone.answer_loss) if prefixes is None else (prefixes, backbone.tail_loss)


class Validation:
    """How likely captions are that name the concept, of views that were held out; deterministic by seed.

    Args:
        backbone: speaks.
        examples: their photos; one view of each is held out, the photo itself where nothing is augmented.
        settings: how views are made.
        identifier: the word that is looked for.
    """

    def __init__(
        self, backbone: Backbone, examples: Sequence[Example], settings: LearnSettings, identifier: str
    ) -> None:
        self.backbone, self.norm, self.word = backbone, settings.norm, as_written(backbone, identifier)
        self.augmented = settings.augment
        self.views = [
            held_out_view(
                as_seen(backbone.processor, e.photo),
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
        self._shown: Callable[[], Shown] = cache(partial(shown_to, backbone, self.views))
        if self.augmented:
            self._shown()  # before a learner shares out what memory is left

    def take(self, fetch: Callable[[int], Any], *, prefixed: bool) -> None:
        """Where nothing is augmented the held-out views are the photos: take what is kept of these anyway.

        Args:
            fetch: gives that of a photo, by its number.
            prefixed: whether it is a prefix; else features.
        """
        loss_of = self.backbone.tail_loss if prefixed else self.backbone.answer_loss
        numbers = range(len(self.views))  # of this object nothing is kept in what it keeps: no cycle
        if not self.augmented:
            self._shown = lambda: ([fetch(number) for number in numbers], loss_of)

    @torch.no_grad()
    def check(self, direction: Tensor) -> Check:
        """How likely the captions are with this `rows × dim` embedding.

        Of a family that cannot tell a batch's samples apart (`Loss.by_sample`) nothing is known of the name.
        """
        views, loss_of = self._shown()
        rows = [[ConceptRows(direction.detach(), self.norm)]] * len(self.photos)
        loss = loss_of([views[photo] for photo in self.photos], self.prompts, self.captions, rows)
        if loss.by_sample is None:
            return Check(None, float(loss.cross_entropy))
        samples = loss.by_sample()
        each = zip(samples.by_token.cpu(), samples.targets.cpu(), strict=True)
        own = [(losses[ids != IGNORED], ids[ids != IGNORED].tolist()) for losses, ids in each]
        decode = self.backbone.processor.tokenizer.decode
        named = [bool((losses[_of_word(decode, ids, self.word)] < SURE).all()) for losses, ids in own]
        return Check(sum(named) / len(named), float(torch.cat([losses for losses, _ in own]).mean()))


def _of_word(decode: Callable[[list[int]], str], ids: list[int], word: str) -> slice:
    """The tokens that write a word, where the text has it first; all, where it has not.

    >>> _of_word(lambda ids: "".join("a |s|k|s| .".split("|")[i] for i in ids), [0, 1, 2, 3, 4], "sks")
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
    """The plain model's mean negative log-likelihood, in nats a token, of each answer to its prompt.

    Args:
        loss_of: the backbone's `answer_loss` or `tail_loss`.
        pictures: what that takes of B pictures.
        prompts, answers: B instructions and texts.
        at_once: how many of them are one batch, as the backbone's `images_at_once`.
    """
    means: list[float] = []
    for start in range(0, len(pictures), at_once):
        batch = [part[start : start + at_once] for part in (pictures, prompts, answers)]
        loss = loss_of(*batch, [[]] * len(batch[0]))
        if loss.by_sample is None:  # a family that cannot tell a batch's samples apart
            each = zip(*batch, strict=True)
            means += [float(loss_of(*([part] for part in one), [[]]).cross_entropy) for one in each]
        else:
            samples = loss.by_sample()
            means += (samples.by_token.sum(1) / (samples.targets != IGNORED).sum(1)).tolist()
    return means


class PlainView(NamedTuple):
    """What the plain model makes of the photos, told of the thing by its description alone.

    Attributes:
        answers: nats a token of each given answer.
        captions: nats a token of each caption; so far the owner's words are from the model's own.
    """

    answers: list[float]
    captions: list[float]

    @property
    def asked_by(self) -> Literal["name", "description"]:
        """How questions about the concept are asked (`LearnSettings.asked_by`).

        By its description where the model, asked so of the photos, finds the given answers, half of them or
        more: their tokens are, on the mean, likelier than all others together.
        """
        found = [loss < SURE for loss in self.answers]
        return "description" if 2 * sum(found) >= len(found) else "name"


def plain_view(backbone: Backbone, examples: Sequence[Example], name: str, description: str) -> PlainView:
    """The plain model's view of the photos' answers and captions, with the description for the name."""
    found = PlainView([], [])
    for example in examples:
        asked, answers = (
            [in_words(pair[part], {name: description}) for pair in example.questions] for part in (0, 1)
        )
        told = [as_described(text, {name: description}) for text in example.captions]
        [photo], loss_of = shown_to(backbone, [as_seen(backbone.processor, example.photo)])
        prompts = [*asked, *[backbone.caption_prompt] * len(told)]
        with in_turn(backbone.model):
            texts, at_once = [*answers, *told], backbone.images_at_once
            each = losses(loss_of, [photo] * len(texts), prompts, texts, at_once=at_once)
        found.answers.extend(each[: len(asked)])
        found.captions.extend(each[len(asked) :])
    return found
