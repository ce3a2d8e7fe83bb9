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
from myvlm.backbones.frozen import exclusive_use
from myvlm.backbones.generation import ForbiddenWords, SpelledWords, is_sampled
from myvlm.backbones.tokens import MANY_PROMPTS, Prompt, as_written, single_turn, standalone_ids, turns_of
from myvlm.concepts.concept import Concept
from myvlm.images import LoadedImage, naming
from myvlm.learning.likelihood import TAUGHT_LOSS
from myvlm.learning.noun_phrases import name_in_phrase, other_phrases
from myvlm.learning.settings import default_settings
from myvlm.speaking.choosing import BoxLookup, most_attended_phrase, no_boxes
from myvlm.speaking.verifying import ReplyToVerify, find_unreliable, leaves_unnamed
from myvlm.text import contains_word, find_word, fold, in_words, replace_words

ABSENT_HINT = "There is no {} in this picture."
"""The hint for a concept that is not detected. Of thirteen wordings, under three forms of question, our three
small models follow this one most often, though none always does (benchmarks/RESULTS.md)."""


class ModelInput(NamedTuple):
    """What the model is given beside the picture.

    Attributes:
        prompt: an instruction, or a conversation's turns, hints included.
        rows: the rows that follow the visual tokens, by concept.
        absent: identifiers of the concepts that a hint calls absent.
    """

    prompt: Prompt
    rows: list[ConceptRows]
    absent: tuple[str, ...] = ()


class GeneratedReply(NamedTuple):
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

    def unsaid(self, seen: Sequence[Concept]) -> ForbiddenWords | None:
        """The names that a reply must not contain, those of concepts that are not in `seen`.

        None if `seen` is empty, as the reply is the plain model's, which knows no names; or if it is all.
        """
        if not seen or len(seen) == len(self.concepts):
            return None
        return ForbiddenWords(self._spelled, frozenset(_names_of(seen)))

    def banned_words(self, seen: Sequence[Concept]) -> list[str]:
        """The same as a list of words, for engines with a tokenizer of their own.

        Without words that are part of a detected concept's name: banning them would ban that name too.
        """
        if not seen:
            return []
        there = _names_of(seen)
        return sorted(
            word for word in _names_of(self.concepts) - there if not any(word in one for one in there)
        )

    @cached_property
    def _spelled(self) -> SpelledWords:
        word_ids, tokenizer = self._backbone.word_ids, self._backbone.processor.tokenizer
        # both spellings: within a sentence, and at the start of a reply
        return SpelledWords(
            {n: [word_ids(n), standalone_ids(tokenizer, n)] for n in _names_of(self.concepts)}
        )


def _names_of(concepts: Iterable[Concept]) -> set[str]:
    """The concepts' identifiers, and the words that their embeddings were learned with."""
    return {word for one in concepts for word in (one.identifier, one.spoken)}


class _Request(NamedTuple):
    """One request: picture, prompt, detected concepts, their boxes, the user's names, the model's input."""

    photo: LoadedImage
    prompt: Prompt
    seen: Sequence[Concept]
    box_of: BoxLookup
    names: Names
    given: ModelInput

    def without_hints(self) -> _Request:
        """A copy with neither hints nor rows."""
        return self._replace(given=ModelInput(self.prompt, []))

    def without_rows(self) -> _Request:
        return self._replace(given=self.given._replace(rows=[]))


def generate_replies(
    backbone: Backbone, photos: Sequence[LoadedImage], seen: Sequence[Sequence[Concept]],
    prompts: Sequence[Prompt], generation: Mapping[str, Any], names: Sequence[Names] = (),
    box_lookups: Sequence[BoxLookup] = (), *, always_rows: bool = False, verify: bool | None = None,
) -> list[GeneratedReply]:  # fmt: skip
    """Generate a reply for each picture that calls the concepts detected in it by their identifiers.

    A renamed concept goes into the prompt by the word that its embedding was learned with, and that word is
    replaced in the reply. An unreliable reply that was generated with rows is replaced by one without, if
    that names every concept that the first names.

    Args:
        seen: the concepts detected in each picture.
        generation: options of transformers' `generate`.
        names: each user's names, by picture; if empty, no concept is absent and no name is banned.
        box_lookups: for each picture, used if several phrases of a reply may mean a concept.
        always_rows: see `build_model_input`.
        verify: whether to generate without hints first where a prompt introduces concepts, and to verify
            replies about concepts that were learned with `LearnSettings.verify`; by default, if replies are
            not streamed. Neither is done for questions that name a detected concept, sampled replies and
            conversations.
    """
    requests = [
        _Request(photo, prompt, detected, box_of, known, build_model_input(
            backbone, prompt, detected, known.absent(prompt, detected), always_rows=always_rows
        ))
        for photo, prompt, detected, box_of, known in zip(
            photos, prompts, seen, list(box_lookups) or [no_boxes] * len(photos),
            list(names) or [Names(backbone)] * len(photos), strict=True,
        )
    ]  # fmt: skip
    if verify is None:
        verify = generation.get("streamer") is None  # streamed text cannot be taken back
    if not verify or is_sampled(backbone.model, generation):
        return _generate(backbone, requests, generation)
    hinted = {index: one for index, one in enumerate(requests) if _has_hints_only(one)}
    first = [one.without_hints() if index in hinted else one for index, one in enumerate(requests)]
    replies = _generate(backbone, first, generation)
    not_streamed = {name: value for name, value in generation.items() if name != "streamer"}

    def replace_where_better(alternatives: Mapping[int, _Request]) -> None:
        others = _generate(backbone, [*alternatives.values()], not_streamed)
        for index, other in zip(alternatives, others, strict=True):
            if not leaves_unnamed(other.text, requests[index].seen, than=replies[index].text):
                replies[index] = other

    replace_where_better({i: one for i, one in hinted.items() if leaves_unnamed(replies[i].text, one.seen)})
    unreliable = _indices_of_unreliable(backbone, requests, replies)
    replace_where_better({index: requests[index].without_rows() for index in unreliable})
    return replies


def _has_hints_only(request: _Request) -> bool:
    """Whether a request has hints that introduce concepts but no rows, and its prompt names none of them."""
    given = request.given
    if not isinstance(request.prompt, str) or given.prompt == request.prompt or given.rows or given.absent:
        return False
    return not named_in(request.prompt, request.seen)


def _generate(
    backbone: Backbone, requests: Sequence[_Request], generation: Mapping[str, Any]
) -> list[GeneratedReply]:
    if not requests:
        return []
    with naming([one.photo for one in requests], backbone.encode):
        generated = backbone.generate(
            [one.photo.image for one in requests],
            [one.given.prompt for one in requests],
            [one.given.rows for one in requests],
            unsaid=[one.names.unsaid(one.seen) for one in requests],
            **generation,
        )
    replies = []
    for one, reply in zip(requests, generated, strict=True):
        choose = partial(_index_of_phrase_for, backbone, one)
        text = with_identifiers(backbone, one.prompt, reply.text, one.seen, choose)
        replies.append(GeneratedReply(text, tuple(reply.token_ids.tolist()), one.given.absent))
    return replies


def _index_of_phrase_for(
    backbone: Backbone, request: _Request, concept: Concept, text: str, starts: Sequence[int]
) -> int:
    """The index of the phrase of a reply that means a concept, by attention; 0 if that cannot be told."""
    prompt, rows, _ = request.given
    if not isinstance(prompt, str) or "attention_map" in backbone.lacks:
        return 0
    box = request.box_of(concept.identifier)
    if box is None:
        return 0
    with exclusive_use(backbone.model):
        return most_attended_phrase(backbone, request.photo.image, prompt, rows, box, text, starts)


def _misplaces_name(backbone: Backbone, request: _Request, concept: Concept, text: str) -> bool:
    """Whether a reply attends more to a concept's box at another phrase of its category than at its name."""
    start, others = find_word(text, concept.identifier), other_phrases(text, concept.category)
    if start is None or not others:
        return False
    return _index_of_phrase_for(backbone, request, concept, text, [start, *others]) > 0


def _indices_of_unreliable(
    backbone: Backbone, requests: Sequence[_Request], replies: Sequence[GeneratedReply]
) -> list[int]:
    """The indices of the replies that verification finds unreliable."""
    checks: dict[int, ReplyToVerify] = {}
    for index, (one, reply) in enumerate(zip(requests, replies, strict=True)):
        if not one.given.rows or not isinstance(one.prompt, str) or named_in(one.prompt, one.seen):
            continue
        if (limit := _loss_limit(backbone, one.seen)) is not None:
            prompt = single_turn(one.given.prompt)
            checks[index] = ReplyToVerify(one.photo, prompt, reply.text, one.seen, limit)
    unreliable = find_unreliable(backbone, [*checks.values()]) if checks else []
    return [
        index
        for (index, check), unlikely in zip(checks.items(), unreliable, strict=True)
        if unlikely
        or any(_misplaces_name(backbone, requests[index], concept, check.text) for concept in check.concepts)
    ]


def _loss_limit(backbone: Backbone, concepts: Sequence[Concept]) -> float | None:
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


def build_model_input(
    backbone: Backbone, prompt: Prompt, concepts: Sequence[Concept], absent: Sequence[Concept] = (), *,
    always_rows: bool = False,
) -> ModelInput:  # fmt: skip
    """Build the prompt and rows for a picture in which these concepts are detected.

    Identifiers become the words that the model learned, or descriptions (`name_or_description`). Learned
    concepts get their rows; hints before the first instruction introduce the others, and name those that are
    absent. A concept whose description is in the last question needs neither rows nor hint. In a family that
    takes no hints (`Backbone.hinted`) an introduced concept becomes "the mug"; absent ones are not mentioned.

    Args:
        absent: the concepts that the prompt names and that are not detected.
        always_rows: whether a concept whose description is in the question gets its rows too.

    Raises:
        ConceptFileError: a concept was learned for other models only, and has no description.
    """
    wordings = {concept.identifier: name_or_description(backbone, concept, concepts) for concept in concepts}
    names = {one.identifier: one.spoken for one in concepts if wordings[one.identifier] == one.spoken}
    phrases = {identifier: words for identifier, words in wordings.items() if identifier not in names}
    described = [one for one in named_in(turns_of(prompt)[-1], concepts) if one.identifier in phrases]
    introduced = [concept for concept in concepts if only_introduced(backbone, concept)]
    with_rows = [one for one in concepts if one not in introduced and (always_rows or one not in described)]
    rows = [backbone.rows_of(concept) for concept in with_rows]
    to_introduce = [concept for concept in introduced if concept not in described]
    prompt = _replace_in_turns(prompt, phrases, names)
    hints = [f"{concept.spoken} is {concept.description}." for concept in to_introduce]
    hints += [ABSENT_HINT.format(concept.identifier) for concept in absent]
    if hints:
        first, *later = turns_of(prompt)
        hinted = backbone.hinted(" ".join(hints), first)
        if hinted is not None:
            identifiers = tuple(one.identifier for one in absent)
            return ModelInput(hinted if isinstance(prompt, str) else (hinted, *later), rows, identifiers)
        prompt = _replace_in_turns(prompt, {one.spoken: f"the {one.category}" for one in to_introduce})
    return ModelInput(prompt, rows)


def name_or_description(backbone: Backbone, concept: Concept, seen: Sequence[Concept]) -> str:
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


def _replace_in_turns(
    prompt: Prompt, phrases: Mapping[str, str], names: Mapping[str, str] | None = None
) -> Prompt:
    """A prompt with words replaced in all its turns; see `text.in_words`."""
    turns = tuple(in_words(turn, phrases, names) for turn in turns_of(prompt))
    return turns[0] if isinstance(prompt, str) else turns


def with_identifiers(
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
    text = replace_words(text, identifiers_by_word(backbone, prompt, concepts))
    for concept in unnamed(prompt, text, concepts):
        which = None if choose is None else partial(choose, concept)
        described = concept.description or ""
        text = name_in_phrase(text, concept.category, described, concept.identifier, which)
    return text


def identifiers_by_word(backbone: Backbone, prompt: Prompt, concepts: Sequence[Concept]) -> dict[str, str]:
    """The words that a reply may use for concepts → the identifiers that replace them.

    These are the words that embeddings were learned with and, for concepts that the prompt names, what
    replaced their identifiers there.
    """
    words = {as_written(backbone, one.spoken): one.identifier for one in concepts}
    asked = named_in(prompt, concepts)
    return words | {name_or_description(backbone, one, concepts): one.identifier for one in asked}


def unnamed(prompt: Prompt, text: str, concepts: Iterable[Concept]) -> list[Concept]:
    """The concepts with a description that neither the prompt nor the reply names."""
    told = " ".join([*turns_of(prompt)[::2], text])
    return [one for one in concepts if one.description and not contains_word(told, one.identifier)]
