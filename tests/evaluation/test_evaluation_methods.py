"""Baselines: all use the same head, and each generates replies in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.errors import InputError, NameTakenError
from myvlm.evaluation.data.dataset import Photo, Question, Subject
from myvlm.evaluation.methods import baselines
from myvlm.evaluation.methods import registry as methods
from myvlm.evaluation.methods.personalized import Teaching, with_only_concepts
from myvlm.evaluation.methods.registry import Setting, known_methods, make_method, register_method
from myvlm.heads import Head
from myvlm.learning import teach
from myvlm.learning.settings import default_settings
from myvlm.text import contains_word
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught
from tests.support.teaching import SHORT, interrupted_at_two


class Known(Teaching):
    """A method that has already learned."""

    def __init__(self, concept: Concept) -> None:
        super().__init__()
        self.known = concept

    def concept(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Concept:
        return self.known

    def head(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Head:
        return self.known.head


@pytest.fixture
def subject(taught: Taught) -> Subject:
    photos = [
        Photo(file=taught.photos / f"{number}.png", captions=tuple(own))
        for number, own in enumerate(taught.kit.captions(), start=1)
    ]
    return Subject(identifier=taught.word, category=taught.kit.category, photos=photos)


@pytest.fixture
def setting(taught: Taught, subject: Subject) -> Setting:
    return Setting(teaching=Known(taught.concept), subjects=[subject])


@pytest.fixture
def tests(taught: Taught) -> list[Any]:
    """Six pictures with the concept, and two without."""
    return pictures([*taught.kit.present, *taught.kit.other[:2]])


@pytest.fixture
def plain(vlm: MyVLM, tests: list[Any]) -> list[str]:
    with vlm.generic():
        return [reply.text for reply in vlm.caption(tests)]


def speaker(name: str, vlm: MyVLM, setting: Setting, subject: Subject) -> Any:
    return make_method(name, setting).teach(vlm, subject, subject.photos, seed=0)


def said(texts: Sequence[str], word: str) -> list[bool]:
    return [contains_word(text, word) for text in texts]


@pytest.fixture
def seen(fresh: MyVLM, taught: Taught, tests: list[Any]) -> list[bool]:
    fresh.concepts.add(taught.concept)
    found = [bool(one.present) for one in fresh.concepts.recognise(tests)]
    assert sum(found[:6]) >= 5
    assert found[6:] == [False, False]
    return found


# ---------------------------------------------------------------- by name


def test_methods_go_by_name() -> None:
    assert known_methods() == [
        *("myvlm", "plain", "keyword", "llm", "text_prompt"),
        *("keyword_alone", "llm_alone", "text_prompt_alone"),
        *("introduced", "visual_memory"),
        *("random", "own_word", "another", "open_gate"),
    ]
    for name in set(known_methods()) - {"llm", "llm_alone"}:  # these load a model
        assert make_method(name).name == name
    with pytest.raises(InputError, match=r"(?s)no method 'magic'.*text_prompt"):
        make_method("magic")
    with pytest.raises(NameTakenError, match="'plain' is taken"):
        register_method("plain")(lambda setting: baselines.LearnedRows(setting))
    assert register_method("plain")(baselines.PlainModel) is baselines.PlainModel


# ---------------------------------------------------------------- the methods


def test_ours_and_plain_are_the_library(
    vlm: MyVLM,
    setting: Setting,
    subject: Subject,
    tests: list[Any],
    plain: list[str],
    fresh: MyVLM,
    taught: Taught,
) -> None:
    ours = speaker("myvlm", vlm, setting, subject)
    fresh.concepts.add(taught.concept)
    assert ours.caption(tests) == [reply.text for reply in fresh.caption(tests)]
    question = f"what colour is {taught.word} ?"
    assert ours.ask(tests, question) == [reply.text for reply in fresh.ask(tests, question)]
    assert speaker("plain", vlm, setting, subject).caption(tests) == plain
    assert len(vlm.concepts) == 0


def test_baselines_name_only_what_the_head_sees(
    vlm: MyVLM,
    setting: Setting,
    subject: Subject,
    tests: list[Any],
    plain: list[str],
    seen: list[bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("keyword", "text_prompt"):
        texts = speaker(name, vlm, setting, subject).caption(tests)
        assert sum(said(texts, subject.identifier)) >= 4, name
        for text, before, present in zip(texts, plain, seen, strict=True):
            assert present or text == before
    assert caplog.text == "", "a concept that is only recognised is no stranger"
    keyword = speaker("keyword", vlm, setting, subject)
    for text, before, present in zip(keyword.caption(tests), plain, seen, strict=True):
        assert contains_word(text, subject.identifier) == (present and "mug" in before)


def test_keywords_are_asked_about_in_place_of_the_name(
    vlm: MyVLM, setting: Setting, subject: Subject, tests: list[Any], seen: list[bool]
) -> None:
    asked = f"what colour is {subject.identifier} ?"
    answers = speaker("keyword", vlm, setting, subject).ask(tests, asked)
    with vlm.generic():
        about = [reply.text for reply in vlm.ask(tests, "what colour is the mug ?")]
        bare = [reply.text for reply in vlm.ask(tests, asked)]
    assert answers == [a if present else b for a, b, present in zip(about, bare, seen, strict=True)]
    assert answers != bare
    others = Setting(teaching=setting.teaching, keywords={"mug": ["bird", "cat"]})
    texts = speaker("keyword", vlm, others, subject).caption(tests)
    assert all("bird" not in text for text, present in zip(texts, seen, strict=True) if present)


def test_a_description_is_said_before_the_instruction(
    vlm: MyVLM, setting: Setting, subject: Subject, tests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    plainly = vlm.backbone.generate

    def generate(images: Any, prompts: Sequence[str], rows: Any, **options: Any) -> Any:
        heard.extend(prompts)
        assert not any(rows)
        return plainly(images, prompts, rows, **options)

    monkeypatch.setattr(vlm.backbone, "generate", generate)
    told = speaker("text_prompt", vlm, setting, subject)
    heard.clear()
    told.caption(tests[:1])
    assert heard == [f"{subject.identifier} is the dotted purple mug. {vlm.backbone.caption_prompt}"]
    given = Setting(teaching=setting.teaching, descriptions={subject.name: "my old cup"})
    heard.clear()
    speaker("text_prompt", vlm, given, subject).ask(tests[:1], "where is this ?")
    assert heard == [f"{subject.identifier} is my old cup. where is this ?"]


def test_a_chat_model_rewrites_what_the_plain_model_said(
    vlm: MyVLM,
    setting: Setting,
    subject: Subject,
    tests: list[Any],
    plain: list[str],
    seen: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shouting:
        name = "shouting"

        def rewrite(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
            return [f"{identifier} {category} {text}".upper() for text in captions]

    loaded: list[str] = []
    monkeypatch.setattr(methods, "load_rewriter", lambda name: loaded.append(name) or Shouting())
    texts = speaker("llm", vlm, setting, subject).caption(tests)
    loud = [f"{subject.identifier} mug {text}".upper() for text in plain]
    assert texts == [new if present else old for new, old, present in zip(loud, plain, seen, strict=True)]
    assert speaker("llm_alone", vlm, setting, subject).caption(tests) == loud
    assert loaded == ["smollm2"]


def test_alone_a_baseline_takes_a_look_alike_for_the_subject(
    vlm: MyVLM, setting: Setting, subject: Subject, taught: Taught
) -> None:
    alike = pictures(taught.kit.look_alike[:4])
    ours, behind, alone = (
        said(speaker(name, vlm, setting, subject).caption(alike), subject.identifier)
        for name in ("myvlm", "keyword", "keyword_alone")
    )
    assert sum(ours) == sum(behind) == 0
    assert sum(alone) == 4
    told, asked = speaker("text_prompt_alone", vlm, setting, subject), f"where is {subject.identifier} ?"
    with vlm.generic():
        prompt = f"{subject.identifier} is the dotted purple mug. {asked}"
        assert told.ask(alike, asked) == [reply.text for reply in vlm.ask(alike, prompt)]


def test_vectors_from_elsewhere_have_our_norm_and_do_not_know_the_name(
    vlm: MyVLM, setting: Setting, subject: Subject, tests: list[Any], taught: Taught
) -> None:
    ours = taught.concept.embeddings[vlm.backbone.name]
    spoken: dict[str, list[str]] = {}
    for name, rows in (("random", len(ours.directions)), ("own_word", 1)):
        control = speaker(name, vlm, setting, subject)
        [embedding] = control.vlm.concepts[subject.identifier].embeddings.values()
        assert (embedding.norm, embedding.directions.shape) == (ours.norm, (rows, vlm.backbone.dim))
        assert control.vlm.concepts[subject.identifier].head is taught.concept.head
        spoken[name] = control.caption(tests)
    assert sum(said(spoken["random"], subject.identifier)) <= 1
    word = vlm.backbone.word_direction(subject.identifier)
    assert word is not None
    assert np.allclose(embedding.directions[0], word.numpy())
    draw = make_method("random", setting)
    first, again, other = (draw.teach(vlm, subject, subject.photos, seed=s) for s in (1, 1, 2))
    vectors = [_directions(one, subject) for one in (first, again, other)]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def _directions(speaking: Any, subject: Subject) -> Any:
    [embedding] = speaking.vlm.concepts[subject.identifier].embeddings.values()
    return embedding.directions


def test_own_word_needs_rows_that_are_words(
    vlm: MyVLM, setting: Setting, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm.backbone, "word_direction", lambda word: None)
    with pytest.raises(InputError, match="omit the method own_word"):
        speaker("own_word", vlm, setting, subject)


def test_an_open_gate_lets_the_embedding_into_pictures_without_the_subject(
    vlm: MyVLM, setting: Setting, subject: Subject, tests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere, gated = (speaker(name, vlm, setting, subject) for name in ("open_gate", "myvlm"))
    entered: list[int] = []
    speak = vlm.backbone.generate

    def watched(images: Any, prompts: Any, rows: Any, **options: Any) -> Any:
        entered.extend(map(len, rows))
        return speak(images, prompts, rows, **options)

    monkeypatch.setattr(vlm.backbone, "generate", watched)
    for one, expected in ((gated, [0, 0]), (everywhere, [1, 1])):
        entered.clear()
        one.caption(tests[6:])
        assert entered == expected
    assert said(gated.caption(tests[6:]), subject.identifier) == [False] * 2
    assert len(everywhere.ask(tests, f"where is {subject.identifier} ?")) == len(tests)


# ---------------------------------------------------------------- teaching


def test_a_model_with_other_concepts_is_not_built_anew(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myvlm.api.backbone_for", None)
    alone = with_only_concepts(vlm, taught.concept)
    assert alone.backbone is vlm.backbone
    assert (list(alone.concepts), alone.encoder) == ([taught.word], vlm.encoder)


def test_a_concept_is_learned_once_and_its_head_is_everyones(
    quick: MyVLM, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons: list[str] = []
    learn = MyVLM.learn

    def counted(self: MyVLM, identifier: str, *given: Any, **named: Any) -> Concept:
        lessons.append(identifier)
        return learn(self, identifier, *given, **named)

    monkeypatch.setattr(MyVLM, "learn", counted)
    asked = Question(question=f"what is {subject.identifier} ?", answer="a mug")
    first = subject.photos[0].model_copy(update={"questions": (asked,)})
    photos = [first, *subject.photos[1:]]
    alone, shared = Teaching(SHORT), Teaching(SHORT)
    before = alone.head(quick, subject, photos)
    assert lessons == []
    concept = shared.concept(quick, subject, photos, seed=3)
    assert shared.concept(quick, subject, photos, seed=3) is concept
    assert shared.head(quick, subject, photos) is concept.head
    assert lessons == [subject.identifier]
    assert before.state()[0] == concept.head.state()[0]
    settings = default_settings(quick.backbone.name).model_dump()
    learned = concept.embeddings[quick.backbone.name].settings
    assert learned == settings | {"steps": 2, "views": 2, "seed": 3}
    assert concept.recipe["captions_by"] == "user"
    assert concept.recipe["questions"] == [[[asked.question, asked.answer]], [], [], []]
    assert len(quick.concepts) == 0
    bare = [photo.model_copy(update={"captions": ()}) for photo in photos[:2]]
    assert shared.concept(quick, subject, bare, seed=3).recipe["captions_by"] == "model"
    assert lessons == [subject.identifier] * 2


def test_what_ctrl_c_left_half_learned_is_not_measured(
    quick: MyVLM, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    teaching = Teaching(LearnSettings(steps=5, views=2))
    with monkeypatch.context() as patched:
        patched.setattr(teach, "learning_progress", interrupted_at_two)
        with pytest.raises(KeyboardInterrupt):
            teaching.concept(quick, subject, subject.photos[:1], seed=0)
    whole = teaching.concept(quick, subject, subject.photos[:1], seed=0)
    assert whole.embeddings[quick.backbone.name].figures["steps"] == 5, "nor kept for the next method"


def test_anothers_embedding_stands_behind_our_head(quick: MyVLM, subject: Subject) -> None:
    other = subject.renamed("krell").model_copy(update={"name": "krell", "category": "vase"})
    teaching = Teaching(SHORT)
    setting = Setting(teaching=teaching, subjects=[subject, other])
    swapped = make_method("another", setting).teach(quick, subject, subject.photos[:2], seed=0)
    theirs = teaching.concept(quick, other, other.photos[:2], seed=0)
    [embedding] = theirs.embeddings.values()
    assert np.array_equal(_directions(swapped, subject), embedding.directions)
    concept = swapped.vlm.concepts[subject.identifier]
    assert concept.spoken == subject.identifier
    assert concept.head is teaching.head(quick, subject, subject.photos[:2])
    with pytest.raises(InputError, match="no subject other than"):
        make_method("another", Setting(teaching, [subject])).teach(quick, subject, subject.photos, seed=0)
