"""What is asked about a picture and what is said of it, whichever engine speaks."""

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
from myvlm.speaking.addressing import Names, address, unnamed, words_for
from myvlm.speaking.choosing import Where, nowhere
from myvlm.text import composed, replace_words

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked about a picture, and those that are seen in it.

    Args:
        photo, prompt: of the request; a prompt is an instruction or a conversation's turns.
        seen: the concepts that are there, of one owner.
        names: of all that the owner has.
        options: of transformers' `generate`.
        on_text: given the reply so far, whenever it has grown by a word; called in any thread.
        where: where in the photo they are.
    """

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    names: Names
    options: Options
    on_text: Callable[[str], None] | None = None
    where: Where = nowhere


@dataclass(frozen=True)
class CountedReply:
    """A reply, and how many tokens were read and written."""

    text: str
    read: int
    written: int


class Engine(Protocol):
    """What makes replies of pictures, prompts and the rows of what is seen."""

    async def say(self, asked: Ask) -> CountedReply:
        """The reply, once it is whole; `asked.on_text` has its beginnings before."""
        ...

    async def close(self) -> None:
        """Begin no more work."""
        ...


def check_room(backbone: Backbone, prompt: Prompt, tokens: int) -> None:
    """Raise InputError where the model's context has no room for a prompt and so many tokens of reply."""
    config = backbone.model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    long = sum(len(backbone.word_ids(turn)) for turn in turns_of(prompt) if turn.strip())
    if room and long + tokens > room:
        raise InputError(
            "The conversation is longer than the model can read.",
            got=f"{long} tokens of text, and up to {tokens} of reply",
            expected=f"{room} in all",
            fix="begin a new one, or ask for a shorter reply",
        )


def told_absent(vlm: MyVLM, prompt: Prompt, seen: Sequence[Concept], names: Names) -> Sequence[str] | None:
    """Whom a prompt names and the model is told to be absent; see `Reply.absent`.

    None where the rows of those that are seen cannot be read now: one may have been erased a moment ago.
    """
    try:
        return address(vlm.backbone, prompt, seen, names.absent(prompt, seen), always_rows=True).absent
    except ConceptFileError:
        return None


class Settled:
    """The part of a reply that can be handed on while it grows.

    Its last words may go on, and be one that is called otherwise now once they are whole; and a phrase that a
    name may take the place of waits until the name is said.
    """

    def __init__(self, backbone: Backbone, asked: Ask) -> None:
        self.backbone, self.asked = backbone, asked
        self.words = words_for(backbone, asked.prompt, asked.seen)
        self.held = max([1, *(len(word.split()) for word in self.words)])

    def update(self, so_far: str) -> None:
        """Call `on_text` with what is settled of a reply that the model has said so far."""
        if self.asked.on_text is None:
            return
        text, held = composed(replace_words(so_far, self.words)), self.held
        for concept in unnamed(self.asked.prompt, text, self.asked.seen):
            # which of its phrases is meant, if any, is known at the end
            for phrase in noun_phrases(text, concept.category)[:1]:
                text = text[: text.index(phrase)]
            held = max(held, longest_phrase(concept.category))
        settled = text.rsplit(None, held)
        if len(settled) > held:
            self.asked.on_text(settled[0])
