"""How likely the frozen model finds a text about a picture in which the concept goes by its description.

No rows are needed for that: what the model would never say so of the picture, they made it say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from myvlm.backbones import Backbone
from myvlm.backbones.base import Loss
from myvlm.backbones.frozen import in_turn
from myvlm.backbones.tokens import IGNORED
from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.dataset import Example, as_seen
from myvlm.learning.early_stopping import SURE, shown_to
from myvlm.text import in_words

TAUGHT_LOSS = "taught_loss"
"""The figure of an embedding that holds what `taught_loss` gave, where replies are verified."""


@torch.no_grad()
def losses(
    loss_of: Callable[..., Loss], pictures: Sequence[Any], prompts: Sequence[str], answers: Sequence[str]
) -> list[float]:
    """The plain model's mean negative log-likelihood, in nats a token, of each answer to its prompt.

    Args:
        loss_of: the backbone's `answer_loss` or `tail_loss`.
        pictures: what that takes of B pictures.
        prompts, answers: B instructions and texts.
    """
    if not pictures:
        return []
    loss = loss_of(pictures, prompts, answers, [[]] * len(pictures))
    if loss.by_sample is None:  # a family that cannot tell a batch's samples apart
        return [
            float(loss_of([one], [prompt], [answer], [[]]).cross_entropy)
            for one, prompt, answer in zip(pictures, prompts, answers, strict=True)
        ]
    samples = loss.by_sample()
    means: list[float] = (samples.by_token.sum(1) / (samples.targets != IGNORED).sum(1)).tolist()
    return means


def how_asked(backbone: Backbone, request: LearnRequest) -> Literal["name", "description"]:
    """How questions about a concept are asked (`LearnSettings.asked_by`), by what the model knows.

    By its description where the model, asked so of the photos, finds the given answers, half of them or more:
    their tokens are, on the mean, likelier than all others together.
    """
    if request.description is None:
        return "name"
    found: list[bool] = []
    for example in request.examples:
        asked = [request.described(question) for question, _ in example.questions]
        answers = [request.described(answer) for _, answer in example.questions]
        found += [loss < SURE for loss in _of_photo(backbone, example, asked, answers)]
    return "description" if 2 * sum(found) >= len(found) else "name"


def taught_loss(backbone: Backbone, request: LearnRequest) -> float | None:
    """The loss of that caption, of all that are learned, which the plain model finds the least likely.

    So far the owner's words, with the description for the name, are from the model's own; None where no
    description is known.
    """
    if request.description is None:
        return None
    found: list[float] = []
    for example in request.examples:
        told = [as_described(text, {request.words[0]: request.description}) for text in example.captions]
        found += _of_photo(backbone, example, [backbone.caption_prompt] * len(told), told)
    return max(found)


def as_described(text: str, descriptions: dict[str, str]) -> str:
    """A caption with concepts as somebody would speak of them who did not know their names.

    >>> as_described("sks next to Bo.", {"sks": "the orange mug", "Bo": "the dog"})
    'An orange mug next to a dog.'
    """
    return in_words(text, {name: _one(phrase) for name, phrase in descriptions.items()})


def _one(phrase: str) -> str:
    noun = phrase.removeprefix("the ")
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def _of_photo(
    backbone: Backbone, example: Example, prompts: Sequence[str], answers: Sequence[str]
) -> list[float]:
    if not prompts:
        return []
    [photo], loss_of = shown_to(backbone, [as_seen(backbone.processor, example.photo)])
    with in_turn(backbone.model):
        return losses(loss_of, [photo] * len(prompts), prompts, answers)
