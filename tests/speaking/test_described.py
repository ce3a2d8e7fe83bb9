"""Questions asked with the model's own description of a concept, and answered with the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.backbones import Backbone, Generation
from myvlm.concepts.embedding import Embedding
from myvlm.learning.concept_optimizer import ConceptOptimizer, LearnRequest
from myvlm.learning.settings import default_settings
from myvlm.speaking.addressing import build_model_input, with_identifiers
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, around
from tests.support.teaching import examples

DESCRIBED = "the dotted purple mug"


def asked_by(taught: Taught, how: str | None = "description", **changes: Any) -> Concept:
    """The concept with an embedding that records how it is asked about; None: nothing recorded."""
    one = taught.concept
    learned = {
        name: Embedding(
            own.directions, own.norm, own.prompt, own.fingerprint, {"asked_by": how} if how else {}
        )
        for name, own in one.embeddings.items()
    }
    return replace(one, embeddings=learned, folder=None, **changes)


@pytest.fixture
def backbone(vlm: MyVLM) -> Backbone:
    return vlm.backbone


def test_a_question_holds_the_description_and_the_picture_rows_where_it_does_not(
    backbone: Backbone, taught: Taught
) -> None:
    concept, word = asked_by(taught), taught.word
    assert concept.description == DESCRIBED
    question = f"{word.title()} is where? What is on {word}?"
    prompt, rows, _ = build_model_input(backbone, question, [concept])
    assert prompt == "The dotted purple mug is where? What is on the dotted purple mug?"
    assert not rows
    assert len(build_model_input(backbone, question, [concept], always_rows=True).rows) == 1
    assert len(build_model_input(backbone, "What do you see?", [concept]).rows) == 1
    assert len(build_model_input(backbone, (question, "here", "What else?"), [concept]).rows) == 1
    turns, _, _ = build_model_input(
        backbone, (f"Is {word} here?", f"{word} is.", f"And by {word}?"), [concept]
    )
    assert turns == (
        "Is the dotted purple mug here?", "The dotted purple mug is.", "And by the dotted purple mug?",
    )  # fmt: skip


@pytest.mark.parametrize("how", ["name", None])
def test_one_that_was_learned_by_name_is_asked_about_by_name(
    backbone: Backbone, taught: Taught, how: str | None
) -> None:
    prompt = f"What is on {taught.word}?"
    asked, rows, _ = build_model_input(backbone, prompt, [asked_by(taught, how)])
    assert (asked, len(rows)) == (prompt, 1)


def test_two_of_one_description_go_by_their_names(backbone: Backbone, taught: Taught) -> None:
    two = [asked_by(taught), asked_by(taught, identifier="Bo", spoken="Bo")]
    prompt = f"What is on {taught.word}, and where is Bo?"
    assert build_model_input(backbone, prompt, two).prompt == prompt
    other = asked_by(taught, identifier="Bo", spoken="Bo", recipe={"description": "the red mug"})
    said, rows, _ = build_model_input(backbone, prompt, [two[0], other])
    assert said == "What is on the dotted purple mug, and where is the red mug?"
    assert not rows
    assert len(build_model_input(backbone, f"What is on {taught.word}?", [two[0], other]).rows) == 1, (
        "of the other"
    )


def test_a_renamed_one_is_asked_about_by_its_description_too(backbone: Backbone, taught: Taught) -> None:
    concept = asked_by(taught, identifier="Bluebell")
    assert build_model_input(backbone, "Where is Bluebell?", [concept]).prompt == f"Where is {DESCRIBED}?"
    said = with_identifiers(
        backbone, "Where is Bluebell?", f"The dotted purple mug, {taught.word}, is here.", [concept]
    )
    assert said == "Bluebell, Bluebell, is here."


def test_a_learned_word_that_begins_a_question_stays_as_it_was_learned(
    backbone: Backbone, taught: Taught
) -> None:
    by_name = asked_by(taught, "name", identifier="Bluebell")
    assert build_model_input(backbone, "Bluebell is where?", [by_name]).prompt == f"{taught.word} is where?"
    by_description = asked_by(taught, identifier="Bo", spoken="Bo", recipe={"description": "the red mug"})
    both = build_model_input(backbone, "Bluebell and Bo are where?", [by_name, by_description])
    assert both.prompt == f"{taught.word} and the red mug are where?"


def test_a_reply_says_the_name_of_whom_the_question_names(backbone: Backbone, taught: Taught) -> None:
    concept, word = asked_by(taught), taught.word
    assert (
        with_identifiers(backbone, f"Where is {word}?", "The dotted purple mug is here.", [concept])
        == f"{word} is here."
    )
    beside = "A mug by the dotted purple mug."
    assert (
        with_identifiers(backbone, "What is here?", f"{word} by {DESCRIBED}.", [concept])
        == f"{word} by {DESCRIBED}."
    )
    assert with_identifiers(backbone, f"What is by {word}?", beside, [concept]) == f"A mug by {word}."
    by_name = asked_by(taught, "name")
    assert with_identifiers(backbone, f"What is by {word}?", beside, [by_name]) == beside


def test_it_is_asked_so_by_the_door(vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    user, heard = around(vlm), []
    user.concepts.add(asked_by(taught))
    generate: Callable[..., list[Generation]] = user.backbone.generate

    def listening(images: Sequence[Any], prompts: Sequence[Any], *args: Any, **more: Any) -> list[Generation]:
        heard.extend(prompts)
        return generate(images, prompts, *args, **more)

    monkeypatch.setattr(user.backbone, "generate", listening)
    [there], [other] = pictures(taught.kit.present[:1]), pictures(taught.kit.other[:1])
    user.ask(there, f"What colour is {taught.word}?")
    user.ask(other, f"What colour is {taught.word}?")
    assert heard == [
        f"What colour is {DESCRIBED}?",
        f"There is no {taught.word} in this picture. What colour is {taught.word}?",
    ]


def test_one_that_is_only_introduced_is_told_of_or_described(
    backbone: Backbone, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept, word = replace(taught.concept, embeddings={}, folder=None), taught.word
    told = f"{word} is {DESCRIBED}. "
    assert build_model_input(backbone, f"Where is {word}?", [concept]).prompt == f"{told}Where is {word}?"
    monkeypatch.setattr(backbone, "name", "org/model")
    assert build_model_input(backbone, f"Where is {word}?", [concept]).prompt == f"Where is {DESCRIBED}?"
    assert build_model_input(backbone, "Describe it.", [concept]).prompt == f"{told}Describe it."
    assert (
        with_identifiers(backbone, f"Where is {word}?", "The dotted purple mug is here.", [concept])
        == f"{word} is here."
    )


def test_learning_asks_as_it_will_be_asked_and_keeps_what_the_user_wrote(backbone: Backbone) -> None:
    asked = (("What is on sks?", "a sks"), ("Where is it?", "here"))
    given = [replace(one, questions=asked) for one in examples()]
    settings = LearnSettings(views=1, asked_by="description", questions_per_step=2)
    request = LearnRequest(given, settings, ("sks", "dotted", "purple", "mug"))
    learner = ConceptOptimizer(backbone, request)
    by_description = {("What is on the dotted purple mug?", "a sks"), ("Where is it?", "here")}
    assert set(learner.examples[0].questions) == by_description
    drawn = [
        (s.prompt, s.answer) for _ in range(9) for s in learner.draw_batch([1] * len(given))[len(given) :]
    ]
    assert set(drawn) == by_description
    assert request.examples[0].questions == asked
    for unknown in (LearnRequest(given, settings, ()), LearnRequest(given, settings, ("sks",))):
        assert ConceptOptimizer(backbone, unknown).examples[0].questions == asked, "there is no description"


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        (("purple", "dotted"), "description"),
        (("purple", "of cheese"), "description"),
        (("of cheese", "old", "purple"), "name"),
        ((), "description"),
    ],
)
def test_what_the_plain_model_finds_is_asked_by_description_and_what_it_cannot_know_by_name(
    vlm: MyVLM, taught: Taught, answers: tuple[str, ...], how: str
) -> None:
    word, forms = taught.word, {"purple": "what colour is {} ?", "dotted": "what pattern does {} have ?"}
    asked = [(forms.get(answer, "what size is {} ?").format(word), answer) for answer in answers]
    learned = around(vlm).learn(
        word, taught.kit.photos(2), category="mug", captions=taught.kit.captions(2), questions=[asked] * 2,
        settings=LearnSettings(steps=1, views=1, asked_by="auto"), progress=False,
    )  # fmt: skip
    [embedding] = learned.embeddings.values()
    assert embedding.settings["asked_by"] == how
    assert learned.recipe["questions"] == [[list(pair) for pair in asked]] * 2


def test_models_of_others_are_asked_by_description_and_tinyworlds_by_name() -> None:
    assert default_settings("org/model", family="llava").asked_by == "auto"
    assert default_settings("tinyworld/llava").asked_by == "name"
    assert LearnSettings().asked_by == "name"
