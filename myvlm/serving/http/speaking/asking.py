"""Requests and replies of the engines, and the stable prefix of a streamed reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from myvlm.api import MyVLM
from myvlm.backbones import Backbone
from myvlm.backbones.tokens import Prompt, turns_of
from myvlm.concepts.concept import Concept
from myvlm.errors import ConceptFileError, InputError
from myvlm.images import LoadedImage
from myvlm.learning.noun_phrases import longest_phrase, noun_phrases
from myvlm.speaking.addressing import Names, build_model_input, identifiers_by_word, unnamed
from myvlm.speaking.choosing import BoxLookup, no_boxes
from myvlm.text import composed, replace_words

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class EngineRequest:
    """A request to an engine: a picture, a prompt, and the concepts detected in the picture.

    Args:
        photo: the picture.
        prompt: an instruction, or a conversation's turns.
        seen: the detected concepts, of one owner.
        names: of all concepts of the owner.
        options: of transformers' `generate`.
        on_text: called with the reply so far whenever it has grown by a word, in any thread.
        box_of: boxes of the detected concepts, by identifier.
    """

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    names: Names
    options: Options
    on_text: Callable[[str], None] | None = None
    box_of: BoxLookup = no_boxes


@dataclass(frozen=True)
class CountedReply:
    """A reply, with the numbers of prompt tokens (`read`) and of generated tokens (`written`)."""

    text: str
    read: int
    written: int


class Engine(Protocol):
    """Generates replies to requests."""

    async def reply(self, request: EngineRequest) -> CountedReply:
        """The complete reply; `request.on_text` is called with prefixes of it before."""
        ...

    async def close(self) -> None:
        """Start no more work."""
        ...


def check_context_length(backbone: Backbone, prompt: Prompt, tokens: int) -> None:
    """Raise InputError if the model's context is too short for a prompt and a reply of so many tokens."""
    config = backbone.model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    long = sum(len(backbone.word_ids(turn)) for turn in turns_of(prompt) if turn.strip())
    if room and long + tokens > room:
        raise InputError(
            "The conversation is too long for the model.",
            got=f"{long} tokens of text and up to {tokens} of reply",
            expected=f"at most {room} in total",
            fix="start a new one, or request a shorter reply",
        )


def hinted_absent(vlm: MyVLM, prompt: Prompt, seen: Sequence[Concept], names: Names) -> Sequence[str] | None:
    """The concepts that a prompt names and a hint calls absent; see `Reply.absent`.

    None if the rows of a detected concept cannot be read: it may just have been erased.
    """
    try:
        return build_model_input(
            vlm.backbone, prompt, seen, names.absent(prompt, seen), always_rows=True
        ).absent
    except ConceptFileError:
        return None


class StablePrefix:
    """Streams the part of a growing reply that later tokens cannot change.

    The last words are held back, since they may become part of a word that an identifier replaces; and so is
    a noun phrase that an identifier may replace, until the reply has named the concept.
    """

    def __init__(self, backbone: Backbone, request: EngineRequest) -> None:
        self.backbone, self.request = backbone, request
        self.words = identifiers_by_word(backbone, request.prompt, request.seen)
        self.held_words = max([1, *(len(word.split()) for word in self.words)])

    def update(self, so_far: str) -> None:
        """Call `on_text` with the part of the reply so far that can no longer change."""
        if self.request.on_text is None:
            return
        text, held_words = composed(replace_words(so_far, self.words)), self.held_words
        for concept in unnamed(self.request.prompt, text, self.request.seen):
            # which phrase means the concept, if any, is only known at the end
            for phrase in noun_phrases(text, concept.category)[:1]:
                text = text[: text.index(phrase)]
            held_words = max(held_words, longest_phrase(concept.category))
        settled = text.rsplit(None, held_words)
        if len(settled) > held_words:
            self.request.on_text(settled[0])
