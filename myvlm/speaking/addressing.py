"""Build the prompt and embedding rows for the concepts in a picture, and put identifiers into the reply.

A learned concept enters as embedding rows after the visual tokens. In a question its name is replaced by the
model's own description of it instead, where learning chose that (`asked_by`): a small model hardly resolves a
new name, and with rows that explain the name it answers worse about what it sees. Where rows distorted a
reply, the model's reply without rows is used (`verifying`). An introduced concept is named in the plain
model's reply: the identifier replaces a noun phrase of its category. Only if the reply has no such phrase, a
hint is put before the instruction, "sks is the dotted purple mug.": with a small model, hints distort the
rest of a reply more often than rows do (benchmarks/RESULTS.md).

A concept is named only in pictures where its head detects it: once any concept is detected, the names of all
others cannot be generated, and a prompt that names one of these gets "There is no sks in this picture."
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from myvlm.backbones import Backbone
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.frozen import in_turn
from myvlm.backbones.generation import SpelledWords, Unsaid, is_sampled
from myvlm.backbones.tokens import MANY_PROMPTS, Prompt, alone_ids, as_written, only_turn, turns_of
from myvlm.concepts.concept import Concept
from myvlm.images import LoadedImage, naming
from myvlm.learning.likelihood import TAUGHT_LOSS
from myvlm.learning.noun_phrases import name_in_phrase, other_phrases
from myvlm.learning.settings import default_settings
from myvlm.speaking.choosing import Where, looked_at, nowhere
from myvlm.speaking.verifying import Held, doubted, names_fewer
from myvlm.text import contains_word, find_word, fold, in_words, replace_words

ABSENT = "There is no {} in this picture."
"""The hint for a concept that is not detected. Of thirteen wordings, under three forms of question, our three
small models follow this one most often, though none always does (benchmarks/RESULTS.md)."""


class Address(NamedTuple):
    """What the model is given beside the picture.

    Attributes:
        prompt: an instruction, or a conversation's turns, hints included.
        rows: the rows that follow the visual tokens, by concept.
        absent: identifiers of the concepts that a hint calls absent.
    """

    prompt: Prompt
    rows: list[ConceptRows]
    absent: tuple[str, ...] = ()


class Spoken(NamedTuple):
    """A reply with the user's identifiers, its token ids, and the concepts that a hint called absent."""

    text: str
    token_ids: tuple[int, ...]
    absent: tuple[str, ...] = ()


class Names:
    """The names of a user's concepts: finds them in prompts, and says which a reply must not contain.

    Args:
        backbone: the model whose tokenizer spells them.
        concepts: all concepts of the user.
    """

    def __init__(self, backbone: Backbone, concepts: Iterable[Concept] = ()) -> None:
        self.concepts = tuple(concepts)
        self._backbone = backbone
        self._in_prompts: dict[Prompt, tuple[Concept, ...]] = {}

    def in_prompt(self, prompt: Prompt) -> tuple[Concept, ...]:
        """The concepts whose identifiers are in a prompt."""
        found = self._in_prompts.get(prompt)
        if found is None:
            found = tuple(named_in(prompt, self.concepts))
            if len(self._in_prompts) >= MANY_PROMPTS:
                self._in_prompts.clear()
            self._in_prompts[prompt] = found
        return found

    def absent(self, prompt: Prompt, seen: Sequence[Concept]) -> list[Concept]:
        """The concepts that a prompt names and that are not among those detected, `seen`."""
        there = {one.identifier for one in seen}
        return [one for one in self.in_prompt(prompt) if one.identifier not in there]

    def unsaid(self, seen: Sequence[Concept]) -> Unsaid | None:
        """The names that a reply must not contain, those of concepts that are not in `seen`.

        None if `seen` is empty, as the reply is the plain model's, which knows no names; or if it is all.
        """
        if not seen or len(seen) == len(self.concepts):
            return None
        return Unsaid(self._spelled, frozenset(_words_of(seen)))

    def others(self, seen: Sequence[Concept]) -> list[str]:
        """The same as a list of words, for engines with a tokenizer of their own.

        Without words that are part of a detected concept's name: banning them would ban that name too.
        """
        if not seen:
            return []
        there = _words_of(seen)
        return sorted(
            word for word in _words_of(self.concepts) - there if not any(word in one for one in there)
        )

    @cached_property
    def _spelled(self) -> SpelledWords:
        tokenizer = self._backbone.processor.tokenizer
        # both spellings: within a sentence, and at the start of a reply
        return SpelledWords(
            {
                word: [self._backbone.word_ids(word), alone_ids(tokenizer, word)]
                for word in _words_of(self.concepts)
            }
        )


def _words_of(concepts: Iterable[Concept]) -> set[str]:
    """The concepts' identifiers, and the words that their embeddings were learned with."""
    return {word for one in concepts for word in (one.identifier, one.spoken)}


class _Asked(NamedTuple):
    """One request: picture, prompt, detected concepts, their boxes, the user's names, the model's input."""

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    where: Where
    names: Names
    address: Address

    def untold(self) -> _Asked:
        """A copy whose prompt has no hints, and without rows."""
        return self._replace(address=Address(self.prompt, []))

    def without_rows(self) -> _Asked:
        return self._replace(address=self.address._replace(rows=[]))


def speak(
    backbone: Backbone, photos: Sequence[LoadedImage], seen: Sequence[Sequence[Concept]],
    prompts: Sequence[Prompt], generation: Mapping[str, Any], names: Sequence[Names] = (),
    where: Sequence[Where] = (), *, always_rows: bool = False, verify: bool | None = None,
) -> list[Spoken]:  # fmt: skip
    """Generate a reply for each picture that calls the concepts detected in it by their identifiers.

    A renamed concept goes into the prompt by the word that its embedding was learned with, and that word is
    replaced in the reply. An unreliable reply that was generated with rows is replaced by one without, if
    that names every concept that the first names.

    Args:
        seen: the concepts detected in each picture.
        generation: options of transformers' `generate`.
        names: each user's names, by picture; if empty, no concept is absent and no name is banned.
        where: box lookups by picture, used if several phrases of a reply may mean a concept.
        always_rows: see `address`.
        verify: whether to generate without hints first where a prompt introduces concepts, and to verify
            replies about concepts that were learned with `LearnSettings.verify`; by default, if replies are
            not streamed. Neither is done for questions that name a detected concept, sampled replies and
            conversations.
    """
    asked = [
        _Asked(photo, prompt, there, places, own, address(
            backbone, prompt, there, own.absent(prompt, there), always_rows=always_rows
        ))
        for photo, prompt, there, places, own in zip(
            photos, prompts, seen, list(where) or [nowhere] * len(photos),
            list(names) or [Names(backbone)] * len(photos), strict=True,
        )
    ]  # fmt: skip
    if verify is None:
        verify = generation.get("streamer") is None  # streamed text cannot be taken back
    if not verify or is_sampled(backbone.model, generation):
        return _replies(backbone, asked, generation)
    told = {number: one for number, one in enumerate(asked) if _only_told(one)}
    first = [one.untold() if number in told else one for number, one in enumerate(asked)]
    spoken = _replies(backbone, first, generation)
    unheard = {name: value for name, value in generation.items() if name != "streamer"}

    def instead(others: Mapping[int, _Asked]) -> None:
        replies = _replies(backbone, [*others.values()], unheard)
        for number, other in zip(others, replies, strict=True):
            if not names_fewer(other.text, asked[number].seen, than=spoken[number].text):
                spoken[number] = other

    instead({n: one for n, one in told.items() if names_fewer(spoken[n].text, one.seen)})
    instead({n: asked[n].without_rows() for n in _doubtful(backbone, asked, spoken)})
    return spoken


def _only_told(asked: _Asked) -> bool:
    """Whether a request has hints that introduce concepts but no rows, and its prompt names none of them."""
    prompt, (told, rows, absent) = asked.prompt, asked.address
    if not isinstance(prompt, str) or told == prompt or rows or absent:
        return False
    return not named_in(prompt, asked.seen)


def _replies(backbone: Backbone, asked: Sequence[_Asked], generation: Mapping[str, Any]) -> list[Spoken]:
    if not asked:
        return []
    with naming([one.photo for one in asked], backbone.encode):
        replies = backbone.generate(
            [one.photo.image for one in asked],
            [one.address.prompt for one in asked],
            [one.address.rows for one in asked],
            unsaid=[one.names.unsaid(one.seen) for one in asked],
            **generation,
        )
    return [
        Spoken(
            named(backbone, one.prompt, said.text, one.seen, partial(_meant, backbone, one)),
            tuple(said.token_ids.tolist()),
            one.address.absent,
        )
        for one, said in zip(asked, replies, strict=True)
    ]


def _meant(backbone: Backbone, asked: _Asked, concept: Concept, text: str, starts: Sequence[int]) -> int:
    """The index of the phrase of a reply that means a concept, by attention; 0 if that cannot be told."""
    prompt, rows, _ = asked.address
    if not isinstance(prompt, str) or "attention_map" in backbone.lacks:
        return 0
    box = asked.where(concept.identifier)
    if box is None:
        return 0
    with in_turn(backbone.model):
        return looked_at(backbone, asked.photo.image, prompt, rows, box, text, starts)


def _mistaken(backbone: Backbone, asked: _Asked, concept: Concept, text: str) -> bool:
    """Whether a reply gives a concept's name to one object and has the concept in view at another phrase.

    That is: more attention lies in its box at another noun phrase of its category than at the name.
    """
    place, others = find_word(text, concept.identifier), other_phrases(text, concept.category)
    return place is not None and bool(others) and _meant(backbone, asked, concept, text, [place, *others]) > 0


def _doubtful(backbone: Backbone, asked: Sequence[_Asked], spoken: Sequence[Spoken]) -> list[int]:
    """The indices of the replies that verification finds unreliable."""
    held: dict[int, Held] = {}
    for number, (one, said) in enumerate(zip(asked, spoken, strict=True)):
        if not one.address.rows or not isinstance(one.prompt, str) or named_in(one.prompt, one.seen):
            continue
        if (limit := _limit(backbone, one.seen)) is not None:
            held[number] = Held(one.photo, only_turn(one.address.prompt), said.text, one.seen, limit)
    doubts = doubted(backbone, [*held.values()]) if held else []
    return [
        number
        for (number, one), doubt in zip(held.items(), doubts, strict=True)
        if doubt or any(_mistaken(backbone, asked[number], concept, one.text) for concept in one.concepts)
    ]


def _limit(backbone: Backbone, concepts: Sequence[Concept]) -> float | None:
    """The loss above which a reply about these concepts is unreliable.

    None unless all have a description and those with an embedding were learned with `LearnSettings.verify`.
    """
    learned = [
        one.embedding_for(backbone.name, backbone.fingerprint(), backbone.dim).figures
        for one in concepts
        if not only_introduced(backbone, one)
    ]
    verified = all(one.description for one in concepts) and all(TAUGHT_LOSS in own for own in learned)
    return max(float(own[TAUGHT_LOSS]) for own in learned) if learned and verified else None


def only_introduced(backbone: Backbone, concept: Concept) -> bool:
    """Whether a concept has no embedding for this model but a description that can be put in a hint."""
    unlearned = not concept.embeddings or concept.learned_elsewhere(backbone.fingerprint())
    return unlearned and concept.description is not None


def address(
    backbone: Backbone,
    prompt: Prompt,
    concepts: Sequence[Concept],
    absent: Sequence[Concept] = (),
    *,
    always_rows: bool = False,
) -> Address:
    """Build the prompt and rows for a picture in which these concepts are detected.

    Identifiers become the words that the model learned, or descriptions (`asked_as`). Learned concepts get
    their rows; hints before the first instruction introduce the others, and name those that are absent. A
    concept whose description is in the last question needs neither rows nor hint. In a family that takes no
    hints (`Backbone.hinted`) an introduced concept becomes "the mug", and absent ones are not mentioned.

    Args:
        absent: the concepts that the prompt names and that are not detected.
        always_rows: whether a concept whose description is in the question gets its rows too.

    Raises:
        ConceptFileError: a concept was learned for other models only, and has no description.
    """
    asked = {concept.identifier: asked_as(backbone, concept, concepts) for concept in concepts}
    names = {one.identifier: one.spoken for one in concepts if asked[one.identifier] == one.spoken}
    phrases = {identifier: words for identifier, words in asked.items() if identifier not in names}
    described = [one for one in named_in(turns_of(prompt)[-1], concepts) if one.identifier in phrases]
    introduced = [concept for concept in concepts if only_introduced(backbone, concept)]
    with_rows = [one for one in concepts if one not in introduced and (always_rows or one not in described)]
    rows = [backbone.rows_of(concept) for concept in with_rows]
    told = [concept for concept in introduced if concept not in described]
    prompt = _in_words(prompt, phrases, names)
    facts = [f"{concept.spoken} is {concept.description}." for concept in told]
    facts += [ABSENT.format(concept.identifier) for concept in absent]
    if facts:
        first, *later = turns_of(prompt)
        hinted = backbone.hinted(" ".join(facts), first)
        if hinted is not None:
            away = tuple(one.identifier for one in absent)
            return Address(hinted if isinstance(prompt, str) else (hinted, *later), rows, away)
        prompt = _in_words(prompt, {one.spoken: f"the {one.category}" for one in told})
    return Address(prompt, rows)


def asked_as(backbone: Backbone, concept: Concept, seen: Sequence[Concept]) -> str:
    """What replaces a concept's identifier in a question: the word it was learned with, or its description.

    It is the description if learning chose that, or if the concept is only introduced and the model's default
    is not the name (`LearnSettings.asked_by`); but not if another detected concept has the same description.

    Raises:
        ConceptFileError: it was learned for other models only, and has no description.
    """
    described = concept.description
    if described is None:
        return concept.spoken
    if only_introduced(backbone, concept):
        by_description = default_settings(backbone.name, family=backbone.family).asked_by != "name"
    else:
        learned = concept.embedding_for(backbone.name, backbone.fingerprint(), backbone.dim)
        by_description = learned.settings.get("asked_by") == "description"
    alike = sum(fold(one.description or "") == fold(described) for one in seen)
    return described if by_description and alike < 2 else concept.spoken


def named_in(prompt: Prompt, concepts: Iterable[Concept]) -> list[Concept]:
    """The concepts whose identifiers are in a prompt, in the user's turns."""
    asked = " ".join(turns_of(prompt)[::2])
    return [one for one in concepts if contains_word(asked, one.identifier)]


def _in_words(prompt: Prompt, phrases: Mapping[str, str], names: Mapping[str, str] | None = None) -> Prompt:
    """A prompt with words replaced in all its turns; see `text.in_words`."""
    turns = tuple(in_words(turn, phrases, names) for turn in turns_of(prompt))
    return turns[0] if isinstance(prompt, str) else turns


def named(
    backbone: Backbone,
    prompt: Prompt,
    text: str,
    concepts: Sequence[Concept],
    choose: Callable[[Concept, str, Sequence[int]], int] | None = None,
) -> str:
    """A reply with the identifiers of the detected concepts in place of the model's words for them.

    If neither prompt nor reply names a concept that has a description, its identifier replaces the noun
    phrase of its category that fits the description best: its head detected it, so the phrase means it.

    Args:
        choose: picks one of several phrases that fit equally well, by their starts in the text; by default
            the first.
    """
    text = replace_words(text, words_for(backbone, prompt, concepts))
    for concept in unnamed(prompt, text, concepts):
        which = None if choose is None else partial(choose, concept)
        described = concept.description or ""
        text = name_in_phrase(text, concept.category, described, concept.identifier, which)
    return text


def words_for(backbone: Backbone, prompt: Prompt, concepts: Sequence[Concept]) -> dict[str, str]:
    """The words that a reply may use for concepts → the identifiers that replace them.

    These are the words that embeddings were learned with and, for concepts that the prompt names, what
    replaced their identifiers there.
    """
    words = {as_written(backbone, one.spoken): one.identifier for one in concepts}
    asked = named_in(prompt, concepts)
    return words | {asked_as(backbone, one, concepts): one.identifier for one in asked}


def unnamed(prompt: Prompt, text: str, concepts: Iterable[Concept]) -> list[Concept]:
    """The concepts with a description that neither the prompt nor the reply names."""
    told = " ".join([*turns_of(prompt)[::2], text])
    return [one for one in concepts if one.description and not contains_word(told, one.identifier)]
