"""Which replies behind rows the frozen model, that reads them again without any, would hardly have given.

Rows that name a thing can bend what else is said: the thing is seen beside itself, or what only its photos
show. A small model does so often, and can tell: with the description in the name's place ("a dotted purple
mug next to a dotted purple mug") it finds such a text less likely than each that was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from myvlm.backbones import Backbone
from myvlm.backbones.frozen import in_turn
from myvlm.concepts.concept import Concept
from myvlm.images import LoadedImage, naming
from myvlm.learning.likelihood import losses
from myvlm.learning.noun_phrases import as_described
from myvlm.text import contains_word, replace_words


class Held(NamedTuple):
    """A reply in the user's identifiers to a picture and a prompt, and what it is held against.

    Attributes:
        concepts: those that are seen; all have a description.
        limit: mean loss of a token, in nats, above which it is doubtful.
    """

    photo: LoadedImage
    prompt: str
    text: str
    concepts: Sequence[Concept]
    limit: float


def doubted(backbone: Backbone, replies: Sequence[Held]) -> list[bool]:
    """Whether each reply leaves a concept unnamed, says nothing but names, or is less likely than its limit
    to the plain model."""
    plainly = [names_fewer(one.text, one.concepts) or only_names(one.text, one.concepts) for one in replies]
    found = iter(_losses(backbone, [one for one, doubt in zip(replies, plainly, strict=True) if not doubt]))
    return [doubt or next(found) > one.limit for one, doubt in zip(replies, plainly, strict=True)]


def _losses(backbone: Backbone, replies: Sequence[Held]) -> list[float]:
    """What each reply costs the plain model, the descriptions in the names' places."""
    if not replies:
        return []
    photos = [one.photo for one in replies]
    told = [
        as_described(one.text, {seen.identifier: seen.description or "" for seen in one.concepts})
        for one in replies
    ]
    with naming(photos, backbone.encode), in_turn(backbone.model):
        features = backbone.encode([photo.image for photo in photos])
        prompts, at_once = [one.prompt for one in replies], backbone.images_at_once
        return losses(backbone.answer_loss, features, prompts, told, at_once=at_once)


def names_fewer(text: str, concepts: Sequence[Concept], than: str | None = None) -> bool:
    """Whether a text leaves one of these unnamed; where another text is given, one that is named there."""
    return any(
        not contains_word(text, one.identifier) and (than is None or contains_word(than, one.identifier))
        for one in concepts
    )


def only_names(text: str, concepts: Sequence[Concept]) -> bool:
    """Whether nothing is left of a text without the names of these."""
    return not any(
        letter.isalnum() for letter in replace_words(text, {one.identifier: "" for one in concepts})
    )
