"""How a model is spoken to of the concepts in a picture, and what it said in the user's words.

What it learned goes by rows behind the picture's tokens, but in a question, where learning chose that, by the
model's own description of it: what a new name stands for a small model hardly finds, and behind rows that say
it what it sees is answered worse. A reply that rows bent gives way to the model's own words (`verifying`).
What it has only been introduced to is named in the model's own words, the thing's noun phrase giving way to
the name. Only where these hold none it stands in words before the instruction, "sks is the dotted purple
mug.": that bends what else a small model says of a picture more often than rows do (benchmarks/RESULTS.md).

A name is said only where its head fired: where something is seen the names of all others cannot be generated,
and with a question that names one goes "There is no sks in this picture."
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
"""Of thirteen wordings, under three forms of question, the one that our three small models heed most, though
none heeds it always (benchmarks/RESULTS.md)."""


class Address(NamedTuple):
    """An instruction or a conversation's turns, the rows behind the picture's tokens, and the identifiers of
    those of whom it says that they are absent."""

    prompt: Prompt
    rows: list[ConceptRows]
    absent: tuple[str, ...] = ()


class Spoken(NamedTuple):
    """A reply in the user's identifiers, its token ids, and whom the model was told to be absent."""

    text: str
    token_ids: tuple[int, ...]
    absent: tuple[str, ...] = ()


class Names:
    """The names of some concepts, as a model reads and writes them.

    Args:
        backbone: the model.
        concepts: all whom a user might mean.
    """

    def __init__(self, backbone: Backbone, concepts: Iterable[Concept] = ()) -> None:
        self.concepts = tuple(concepts)
        self._backbone = backbone
        self._in_prompts: dict[Prompt, tuple[Concept, ...]] = {}

    def in_prompt(self, prompt: Prompt) -> tuple[Concept, ...]:
        """Those whom the user names in a prompt, by their identifiers."""
        found = self._in_prompts.get(prompt)
        if found is None:
            found = tuple(named_in(prompt, self.concepts))
            if len(self._in_prompts) >= MANY_PROMPTS:
                self._in_prompts.clear()
            self._in_prompts[prompt] = found
        return found

    def absent(self, prompt: Prompt, seen: Sequence[Concept]) -> list[Concept]:
        """Those whom a prompt names and who are not seen."""
        there = {one.identifier for one in seen}
        return [one for one in self.in_prompt(prompt) if one.identifier not in there]

    def unsaid(self, seen: Sequence[Concept]) -> Unsaid | None:
        """The names that a reply may not hold; None where nothing is seen: the reply is the plain model's."""
        if not seen or len(seen) == len(self.concepts):
            return None
        return Unsaid(self._spelled, frozenset(_words_of(seen)))

    def others(self, seen: Sequence[Concept]) -> list[str]:
        """The same as a list of words, for engines that spell them themselves; without those that stand in
        the name of somebody who is seen, who could not be named there."""
        if not seen:
            return []
        there = _words_of(seen)
        return sorted(
            word for word in _words_of(self.concepts) - there if not any(word in one for one in there)
        )

    @cached_property
    def _spelled(self) -> SpelledWords:
        tokenizer = self._backbone.processor.tokenizer
        # within a sentence, and where a reply begins with it
        return SpelledWords(
            {
                word: [self._backbone.word_ids(word), alone_ids(tokenizer, word)]
                for word in _words_of(self.concepts)
            }
        )


def _words_of(concepts: Iterable[Concept]) -> set[str]:
    """What they are called, and what they were learned with."""
    return {word for one in concepts for word in (one.identifier, one.spoken)}


class _Asked(NamedTuple):
    """A picture, what its user asks of it, who is seen and where, whom the user knows, and how the model is
    asked."""

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    where: Where
    names: Names
    address: Address

    def untold(self) -> _Asked:
        """The same, and of nobody said who it is."""
        return self._replace(address=Address(self.prompt, []))

    def without_rows(self) -> _Asked:
        return self._replace(address=self.address._replace(rows=[]))


def speak(
    backbone: Backbone, photos: Sequence[LoadedImage], seen: Sequence[Sequence[Concept]],
    prompts: Sequence[Prompt], generation: Mapping[str, Any], names: Sequence[Names] = (),
    where: Sequence[Where] = (), *, always_rows: bool = False, verify: bool | None = None,
) -> list[Spoken]:  # fmt: skip
    """What the model says of each picture, with the concepts that are seen in it, in the user's identifiers.

    A renamed concept is asked for by the word that its embedding learned, and what that says is renamed. A
    doubtful reply behind rows gives way to the model's own words, where these name all that it names.

    Args:
        names: for each picture the names that its user knows; where empty, nobody is known to be absent.
        where: for each picture where its concepts are, asked where several phrases of a reply may mean one.
        always_rows: see `address`.
        verify: whether the model's own words come first of what it was introduced to, and replies are read
            again of concepts that were learned so (`LearnSettings.verify`); by default where they are not
            streamed. Answers to questions that name one, sampled replies and conversations never are.
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
        verify = generation.get("streamer") is None  # what was heard cannot be taken back
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
    """Whether nothing but who is in a picture is said before an instruction that names nobody."""
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
    """Which of several phrases of a reply means a concept; the first where nothing tells."""
    prompt, rows, _ = asked.address
    if not isinstance(prompt, str) or "attention_map" in backbone.lacks:
        return 0
    box = asked.where(concept.identifier)
    if box is None:
        return 0
    with in_turn(backbone.model):
        return looked_at(backbone, asked.photo.image, prompt, rows, box, text, starts)


def _mistaken(backbone: Backbone, asked: _Asked, concept: Concept, text: str) -> bool:
    """Whether a reply says a concept's name of one, and means it as it speaks of another of its category."""
    place, others = find_word(text, concept.identifier), other_phrases(text, concept.category)
    return place is not None and bool(others) and _meant(backbone, asked, concept, text, [place, *others]) > 0


def _doubtful(backbone: Backbone, asked: Sequence[_Asked], spoken: Sequence[Spoken]) -> list[int]:
    """The numbers of the replies that were read again and found doubtful."""
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
    """The loss above which a reply about these is doubted; None unless all have a description, and replies
    about those that are learned are verified."""
    learned = [
        one.embedding_for(backbone.name, backbone.fingerprint(), backbone.dim).figures
        for one in concepts
        if not only_introduced(backbone, one)
    ]
    verified = all(one.description for one in concepts) and all(TAUGHT_LOSS in own for own in learned)
    return max(float(own[TAUGHT_LOSS]) for own in learned) if learned and verified else None


def only_introduced(backbone: Backbone, concept: Concept) -> bool:
    """Whether a model has no embedding of the concept, and is told of it in words."""
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
    """The prompt for a picture with these concepts in it, in the words that the model knows them by.

    Those that it learned go by their rows; before the first instruction stands in words who the others are,
    and who is not there. Whom the last question describes needs neither. A family that takes no hint
    (`Backbone.hinted`) is asked about "the mug", and is not told of those who are absent.

    Args:
        always_rows: whether whom a question describes has its rows too.

    Raises:
        ConceptFileError: a concept was learned for other models alone, and there is no description of it.
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
    """What stands for a concept in a question: the word that a model knows it by, or its description.

    The latter where learning chose that, or it is only introduced to a model whose default is not the name
    (`LearnSettings.asked_by`), unless another that is seen is described the same.

    Raises:
        ConceptFileError: it was learned for other models alone, and there is no description of it.
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
    """Those whom the user names in a prompt, by their identifiers."""
    asked = " ".join(turns_of(prompt)[::2])
    return [one for one in concepts if contains_word(asked, one.identifier)]


def _in_words(prompt: Prompt, phrases: Mapping[str, str], names: Mapping[str, str] | None = None) -> Prompt:
    """A prompt with words replaced, in all of its turns; see `in_words`."""
    turns = tuple(in_words(turn, phrases, names) for turn in turns_of(prompt))
    return turns[0] if isinstance(prompt, str) else turns


def named(
    backbone: Backbone,
    prompt: Prompt,
    text: str,
    concepts: Sequence[Concept],
    choose: Callable[[Concept, str, Sequence[int]], int] | None = None,
) -> str:
    """A reply to a user's prompt, with these concepts by their identifiers.

    Where neither names one that has a description, the noun phrase of its category that fits that best is
    taken for it, as the head saw it there; of several that fit alike `choose` says which.
    """
    text = replace_words(text, words_for(backbone, prompt, concepts))
    for concept in unnamed(prompt, text, concepts):
        which = None if choose is None else partial(choose, concept)
        described = concept.description or ""
        text = name_in_phrase(text, concept.category, described, concept.identifier, which)
    return text


def words_for(backbone: Backbone, prompt: Prompt, concepts: Sequence[Concept]) -> dict[str, str]:
    """What a reply to a user's prompt may call concepts by, and the identifiers that are to stand there.

    That is the word that the model learned and, of those whom the prompt names, what it was asked about.
    """
    words = {as_written(backbone, one.spoken): one.identifier for one in concepts}
    asked = named_in(prompt, concepts)
    return words | {asked_as(backbone, one, concepts): one.identifier for one in asked}


def unnamed(prompt: Prompt, text: str, concepts: Iterable[Concept]) -> list[Concept]:
    """Those with a description that neither a prompt nor the reply to it names."""
    told = " ".join([*turns_of(prompt)[::2], text])
    return [one for one in concepts if one.description and not contains_word(told, one.identifier)]
