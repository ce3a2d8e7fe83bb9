"""A picture and what is asked about it → who is seen, and what the model says: in batches, owners mixed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.backbones.tokens import Prompt, heard
from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError
from myvlm.heads.base import EncodingGate
from myvlm.heads.detections import Detection
from myvlm.images import LoadedImage
from myvlm.serving.http.queue import Batches
from myvlm.speaking.addressing import address, named, only_introduced, speak

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Look:
    """A picture that an owner's library is looked for in."""

    library: ConceptLibrary
    photo: LoadedImage


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked about a picture, and those that are seen in it.

    Args:
        photo, prompt: of the request; a prompt is an instruction or a conversation's turns.
        seen: the concepts that are there, of one owner.
        options: of transformers' `generate`.
        on_text: given the reply so far, whenever it has grown by a word; called in another thread.
    """

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    options: Options
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Said:
    """A reply, and how many tokens were read and written."""

    text: str
    read: int
    written: int


class Speaker:
    """The model's two steps, each in its own thread: while it speaks of some pictures it looks at others.

    Args:
        vlm: whose backbone speaks.
        at_once: pictures of a batch.
    """

    def __init__(self, vlm: MyVLM, *, at_once: int) -> None:
        self.backbone = vlm.backbone
        self.looking: Batches[Look, Sequence[Detection]] = Batches(
            _look, key=lambda one: None, at_most=at_once
        )
        self.speaking: Batches[Ask, Said] = Batches(
            self._speak,
            key=lambda one: (one.options, self._has_rows(one)),
            at_most=min(at_once, vlm.backbone.images_at_once),
        )

    def close(self) -> None:
        """Begin no more work."""
        self.looking.close()
        self.speaking.close()

    def check_room(self, prompt: Prompt, tokens: int) -> None:
        """Raise InputError where the model's context has no room for a prompt and so many tokens of reply."""
        config = self.backbone.model.config.get_text_config()
        room = getattr(config, "max_position_embeddings", None)
        turns = [prompt] if isinstance(prompt, str) else prompt
        long = sum(len(self.backbone.word_ids(turn)) for turn in turns if turn.strip())
        if room and long + tokens > room:
            raise InputError(
                "The conversation is longer than the model can read.",
                got=f"{long} tokens of text, and up to {tokens} of reply",
                expected=f"{room} in all",
                fix="begin a new one, or ask for a shorter reply",
            )

    def _has_rows(self, one: Ask) -> bool:
        return not all(only_introduced(self.backbone, concept) for concept in one.seen)

    def _speak(self, asked: Sequence[Ask]) -> list[Said]:
        streamed = _Streamed(self.backbone, asked)
        options = {**dict(asked[0].options), "streamer": streamed}
        photos, prompts = [one.photo for one in asked], [one.prompt for one in asked]
        said = speak(self.backbone, photos, [one.seen for one in asked], prompts, options)
        read = streamed.read or [0] * len(asked)
        return [Said(text, own, len(ids)) for (text, ids), own in zip(said, read, strict=True)]


def present(
    library: ConceptLibrary, found: Sequence[Detection], chosen: Sequence[str] | None
) -> list[Concept]:
    """The concepts that are there, of those that were chosen."""
    names = [one.identifier for one in found if one.present]
    return [library[name] for name in names if name in library and (chosen is None or name in chosen)]


def check_usable(vlm: MyVLM, seen: Sequence[Concept]) -> bool:
    """Whether the rows of these concepts can be read now: one may have been erased a moment ago."""
    try:
        address(vlm.backbone, "", seen)
    except ConceptFileError:
        return False
    return True


def _look(asked: Sequence[Look]) -> Sequence[Sequence[Detection]]:
    """All in one batch: those who are looked at together are spoken of together."""
    _encode(asked)
    places: dict[int, list[int]] = {}
    for place, one in enumerate(asked):
        places.setdefault(id(one.library), []).append(place)
    found: dict[int, Sequence[Detection]] = {}
    for own in places.values():
        seen = asked[own[0]].library.recognise([asked[place].photo for place in own])
        found.update((place, one.present) for place, one in zip(own, seen, strict=True))
    return [found[place] for place in range(len(asked))]


def _encode(asked: Sequence[Look]) -> None:
    """One pass of each encoder over the pictures of all libraries that use it."""
    together: dict[Hashable, tuple[EncodingGate, dict[int, LoadedImage]]] = {}
    for one in asked:
        for members, gate in one.library.gated():
            if isinstance(gate, EncodingGate):
                head = members[0].head
                _, photos = together.setdefault((type(head), head.gate_key), (gate, {}))
                photos[id(one.photo)] = one.photo
    for gate, photos in together.values():
        gate.encode(list(photos.values()))


@dataclass(eq=False)
class _Streamed:
    """What transformers hands each new token to: prompts first, `B × S`, then `B` tokens a step."""

    backbone: Any
    asked: Sequence[Ask]
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids: list[list[int]] = [[] for _ in self.asked]
        learned = [[heard(self.backbone, concept.spoken) for concept in one.seen] for one in self.asked]
        # The last words may go on, and be one that is called otherwise now once they are whole.
        self._held = [max([1, *(len(word.split()) for word in words)]) for words in learned]
        self._begun = False

    def put(self, tokens: Tensor) -> None:
        if not self._begun:
            self._begun = True
            pad = self.backbone.processor.tokenizer.pad_token_id
            self.read = [sum(token != pad for token in own) for own in tokens.tolist()]
            return
        for place, (one, token) in enumerate(zip(self.asked, tokens.tolist(), strict=True)):
            self._ids[place].append(token)
            if one.on_text and hasattr(self.backbone, "prompter"):
                self._tell(place, one.on_text)

    def end(self) -> None:
        """Nothing is left to do: who waits gets the whole reply."""

    def _tell(self, place: int, on_text: Callable[[str], None]) -> None:
        text, _ = self.backbone.prompter.reply(torch.tensor(self._ids[place]))
        held = self._held[place]
        settled = named(self.backbone, text, self.asked[place].seen).rsplit(None, held)
        if len(settled) > held:
            on_text(settled[0])
