"""Only names of detected concepts can be generated; questions get hints about absent ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from myvlm import MyVLM
from myvlm.backbones.generation import ForbiddenWords, ForbiddenWordsProcessor, SpelledWords
from myvlm.speaking.addressing import Names
from myvlm.text import contains_word
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, by_hand, elsewhere


@pytest.fixture
def knowing(fresh: MyVLM, taught: Taught) -> MyVLM:
    fresh.concepts.add(taught.folder)
    return fresh


def test_names_of_what_is_not_seen_cannot_be_generated(knowing: MyVLM, taught: Taught) -> None:
    shown = pictures(taught.kit.present)[:3]
    before = knowing.caption(shown)
    assert all(reply.seen == (taught.word,) for reply in before)
    never = before[0].text.split()[-1]  # the place
    knowing.concepts.add(elsewhere(taught, never))
    for options in ({}, {"num_beams": 3}):
        replies = knowing.caption(shown, **options)
        assert not any(contains_word(reply.text, never) for reply in replies)
        assert all(contains_word(reply.text, taught.word) for reply in replies), replies
    one_by_one = [knowing.caption(picture).text for picture in shown]
    assert one_by_one == [reply.text for reply in knowing.caption(shown)]


def test_what_shows_nobody_is_described_as_ever(knowing: MyVLM, taught: Taught) -> None:
    shown = pictures(taught.kit.other)[:3]
    with knowing.generic():
        plain = knowing.caption(shown)
    word = plain[0].text.split()[-1]
    knowing.concepts.add(elsewhere(taught, word))
    assert [reply.token_ids for reply in knowing.caption(shown)] == [reply.token_ids for reply in plain]


def test_a_question_that_names_somebody_who_is_not_there_is_told_so(knowing: MyVLM, taught: Taught) -> None:
    away, there = pictures(taught.kit.other)[0], pictures(taught.kit.present)[0]
    question = f"Is {taught.word} in the picture?"
    said = knowing.ask(away, question)
    assert said.absent == (taught.word,)
    with knowing.generic():
        assert knowing.ask(away, f"There is no {taught.word} in this picture. {question}").text == said.text
        assert knowing.ask(away, question).absent == ()
    assert knowing.ask(there, question).absent == ()
    assert knowing.caption(away).absent == ()
    assert knowing.chat(away).ask(question).absent == (taught.word,)


def test_the_names_follow_the_library(knowing: MyVLM, taught: Taught) -> None:
    away = pictures(taught.kit.other)[0]
    assert knowing.ask(away, "Is zork here?").absent == ()
    knowing.concepts.rename(taught.word, "zork")
    assert knowing.ask(away, "Is zork here?").absent == ("zork",)
    knowing.concepts.remove("zork")
    assert knowing.ask(away, "Is zork here?").absent == ()


def test_each_sample_has_words_of_its_own_in_all_of_its_beams() -> None:
    words = SpelledWords({"Bo": [[7]], "Fido": [[3, 4], [8, 4]]})
    ids = torch.tensor([[1, 3], [1, 8], [1, 3], [1, 1]])
    scores = torch.zeros(4, 9)
    some = ForbiddenWordsProcessor([ForbiddenWords(words), ForbiddenWords(words, frozenset({"Fido"}))])(
        ids, scores
    )
    assert [torch.isinf(row).nonzero().flatten().tolist() for row in some] == [[4, 7], [4, 7], [7], [7]]
    assert not scores.isinf().any()
    assert ForbiddenWordsProcessor([None, ForbiddenWords(SpelledWords({}))])(ids, scores) is scores


def test_a_name_that_begins_with_anothers_can_be_said_and_that_one_cannot() -> None:
    """Token ids 0 to 8: Anna is 3 or 5, Maria 4, Anna Maria Lu 3 4 6, Bo 7."""
    words = SpelledWords({"Anna": [[3], [5]], "Maria": [[4]], "Anna Maria Lu": [[3, 4, 6]], "Bo": [[7]]})
    ids = torch.tensor([[1, 1], [1, 3], [3, 4], [4, 6], [1, 3]])
    scores = torch.arange(45.0).reshape(5, 9)
    seen, bo = (ForbiddenWords(words, frozenset({word})) for word in ("Anna Maria Lu", "Bo"))
    some = ForbiddenWordsProcessor([seen, seen, seen, seen, bo])(ids, scores)
    said = [(~torch.isinf(row)).nonzero().flatten().tolist() for row in some]
    anywhere = [0, 1, 2, 3, 6, 8]
    assert said == [anywhere, [4], [6], anywhere, [0, 1, 2, 6, 7, 8]]
    assert torch.equal(some[1, 4], scores[1, 4])
    assert not scores.isinf().any()


@pytest.mark.parametrize(
    ("away", "there"), [("Max", "Maxine"), ("sks", "sks2"), ("Anna", "Anna Maria"), ("Maria", "Anna Maria")]
)
def test_what_begins_with_the_name_of_somebody_away_is_named(vlm: MyVLM, away: str, there: str) -> None:
    """The longer name is forced token by token in every spelling; the shorter one is never generated
    alone."""
    absent, seen = (dataclasses.replace(by_hand(), identifier=name, spoken=name) for name in (away, there))
    names = Names(vlm.backbone, [absent, seen])
    unsaid = names.unsaid([seen])
    assert unsaid
    ids = vlm.backbone.word_ids(there)
    for end in range(len(ids)):
        chosen = torch.tensor([ids[:end]], dtype=torch.long)
        scores = ForbiddenWordsProcessor([unsaid])(
            chosen, torch.zeros(1, vlm.backbone.model.get_input_embeddings().num_embeddings)
        )
        assert torch.isfinite(scores[0, ids[end]]), (ids, end)
    assert names.banned_words([seen]) == []
    assert names.banned_words([absent]) == [there]


def test_names_are_spelled_once_for_all_pictures(vlm: MyVLM) -> None:
    first, second, third = (dataclasses.replace(by_hand(), identifier=name) for name in ("sks", "bo", "fido"))
    names = Names(vlm.backbone, [first, second, third])
    assert names.unsaid([]) is None
    assert names.unsaid([first, second, third]) is None
    one, other = names.unsaid([first]), names.unsaid([second, third])
    assert one
    assert other
    assert one.words is other.words
    assert (one.allowed, other.allowed) == ({"sks"}, {"bo", "fido", "sks"})  # learned words count too
