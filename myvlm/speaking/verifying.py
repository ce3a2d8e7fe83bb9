"""Verify replies that were generated with concept rows, by their likelihood under the plain model.

Rows can distort the rest of a reply: the object appears beside itself, or with things that only its photos
show. Small models often do so, but can tell: with the description in place of the name ("a dotted purple mug
next to a dotted purple mug") the model without rows finds such a text less likely than each learned caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from myvlm.backbones import Backbone
from myvlm.backbones.frozen import exclusive_use
from myvlm.concepts.concept import Concept
from myvlm.images import LoadedImage, naming
from myvlm.learning.likelihood import losses
from myvlm.learning.noun_phrases import as_described
from myvlm.text import contains_word, replace_words


class ReplyToVerify(NamedTuple):
    """A reply to verify.

    Attributes:
        photo: the picture that it is about.
        prompt: the instruction that it answers.
        text: the reply, with the user's identifiers.
        concepts: those that are detected; all have a description.
        limit: mean loss of a token, in nats, above which the reply is unreliable.
    """

    photo: LoadedImage
    prompt: str
    text: str
    concepts: Sequence[Concept]
    limit: float


def find_unreliable(backbone: Backbone, replies: Sequence[ReplyToVerify]) -> list[bool]:
    """Whether each reply is unreliable.

    It is if it leaves a concept unnamed, holds nothing but names, or its loss under the plain model is above
    its limit.
    """
    by_text = [
        leaves_unnamed(one.text, one.concepts) or only_names(one.text, one.concepts) for one in replies
    ]
    others = [one for one, unreliable in zip(replies, by_text, strict=True) if not unreliable]
    found = iter(_plain_losses(backbone, others))
    return [unreliable or next(found) > one.limit for one, unreliable in zip(replies, by_text, strict=True)]


def _plain_losses(backbone: Backbone, replies: Sequence[ReplyToVerify]) -> list[float]:
    """The loss of each reply under the plain model, with descriptions in place of the names."""
    if not replies:
        return []
    photos = [one.photo for one in replies]
    described = [
        as_described(one.text, {seen.identifier: seen.description or "" for seen in one.concepts})
        for one in replies
    ]
    with naming(photos, backbone.encode), exclusive_use(backbone.model):
        features = backbone.encode([photo.image for photo in photos])
        prompts, at_once = [one.prompt for one in replies], backbone.images_at_once
        return losses(backbone.answer_loss, features, prompts, described, at_once=at_once)


def leaves_unnamed(text: str, concepts: Sequence[Concept], than: str | None = None) -> bool:
    """Whether a text does not name one of the concepts; with `than`, one of those that `than` names."""
    return any(
        not contains_word(text, one.identifier) and (than is None or contains_word(than, one.identifier))
        for one in concepts
    )


def only_names(text: str, concepts: Sequence[Concept]) -> bool:
    """Whether a text consists of the concepts' names alone."""
    return not any(
        letter.isalnum() for letter in replace_words(text, {one.identifier: "" for one in concepts})
    )
