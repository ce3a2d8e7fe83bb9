"""How a model is spoken to of the concepts in a picture, and what it said in the user's words.

What it learned goes by rows behind the picture's tokens. What it has only been introduced to stands in words
before the instruction, "sks is the dotted purple mug.": a model that takes the hint says the name in its own
sentence. Learned rows do so more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from myvlm.backbones import Backbone
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.tokens import Prompt, heard, turns_of
from myvlm.concepts.concept import Concept
from myvlm.images import LoadedImage, naming
from myvlm.learning.captions import name_in_caption, noun_phrases
from myvlm.text import contains_word, replace_words


class Address(NamedTuple):
    """An instruction or a conversation's turns, and the rows behind the picture's tokens."""

    prompt: Prompt
    rows: list[ConceptRows]


def speak(
    backbone: Backbone, photos: Sequence[LoadedImage], seen: Sequence[Sequence[Concept]],
    prompts: Sequence[Prompt], generation: Mapping[str, Any],
) -> list[tuple[str, tuple[int, ...]]]:  # fmt: skip
    """Text and token ids of each picture, with the concepts that are seen in it, in the user's identifiers.

    A renamed concept is asked for by the word that its embedding learned, and what that says is renamed.
    """
    addressed = [address(backbone, prompt, own) for prompt, own in zip(prompts, seen, strict=True)]
    asked, rows = [one.prompt for one in addressed], [one.rows for one in addressed]
    with naming(photos, backbone.encode):
        said = backbone.generate([photo.image for photo in photos], asked, rows, **generation)
    each = zip(said, seen, strict=True)
    return [(named(backbone, one.text, own), tuple(one.token_ids.tolist())) for one, own in each]


def only_introduced(backbone: Backbone, concept: Concept) -> bool:
    """Whether a model has no embedding of the concept, and is told of it in words."""
    unlearned = not concept.embeddings or concept.learned_elsewhere(backbone.fingerprint())
    return unlearned and concept.description is not None


def address(backbone: Backbone, prompt: Prompt, concepts: Sequence[Concept]) -> Address:
    """The prompt for a picture with these concepts in it, in the words that the model knows them by.

    Those that it learned go by their rows; before the first instruction stands in words who the others are. A
    family that takes no hint (`Backbone.hinted`) is asked about "the mug".

    Raises:
        ConceptFileError: a concept was learned for other models alone, and there is no description of it.
    """
    prompt = _in_words(prompt, {concept.identifier: concept.spoken for concept in concepts})
    told = [concept for concept in concepts if only_introduced(backbone, concept)]
    rows = [backbone.rows_of(concept) for concept in concepts if concept not in told]
    if told:
        hint = " ".join(f"{concept.spoken} is {concept.description}." for concept in told)
        first, *later = turns_of(prompt)
        hinted = backbone.hinted(hint, first)
        if hinted is not None:
            return Address((hinted, *later) if later else hinted, rows)
        prompt = _in_words(prompt, {one.spoken: f"the {one.category}" for one in told})
    return Address(prompt, rows)


def _in_words(prompt: Prompt, words: Mapping[str, str]) -> Prompt:
    """A prompt with words replaced, in all of its turns."""
    turns = tuple(replace_words(turn, words) for turn in turns_of(prompt))
    return turns[0] if isinstance(prompt, str) else turns


def named(backbone: Backbone, text: str, concepts: Sequence[Concept]) -> str:
    """A reply to an `address`, with these concepts by their identifiers.

    Where nothing could be said before the instruction, the first noun phrase of a concept's category that
    the model uses is taken for it, as the head saw it there.
    """
    text = replace_words(text, {heard(backbone, one.spoken): one.identifier for one in concepts})
    for concept in concepts:
        unaware = only_introduced(backbone, concept) and backbone.hinted("", "") is None
        if unaware and noun_phrases(text, concept.category) and not contains_word(text, concept.identifier):
            text = name_in_caption(text, concept.category, concept.identifier)
    return text
