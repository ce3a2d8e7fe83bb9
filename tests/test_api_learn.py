"""`MyVLM.learn` and `learn_many`: reproducibility, bad input, Ctrl-C, several concepts at once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from myvlm import LearnSettings, Lesson, MyVLM, api
from myvlm.errors import (
    ConceptExistsError,
    InputError,
)
from myvlm.learning import teach as learning
from myvlm.learning.settings import default_settings
from myvlm.text import contains_word
from myvlm.tinyworld import FewShot, few_shot
from tests.support.taught import Taught, check_same, state_of
from tests.support.teaching import SHORT, interrupted_at_two, teach

pytestmark = pytest.mark.usefixtures("unchanged")


def test_learning_again_gives_the_same_numbers(vlm: MyVLM, quick: MyVLM, kit: FewShot) -> None:
    first = teach(quick, kit).embeddings["tinyworld/llava"]
    quick.concepts.remove(kit.identifier)
    second = teach(quick, kit).embeddings["tinyworld/llava"]
    quick.concepts.remove(kit.identifier)
    other = teach(quick, kit, settings=SHORT.model_copy(update={"seed": 1})).embeddings["tinyworld/llava"]
    assert np.array_equal(first.directions, second.directions)
    assert not np.array_equal(first.directions, other.directions)
    assert first.directions.shape == (4, vlm.backbone.dim)
    assert first.fingerprint == vlm.backbone.fingerprint()
    assert first.figures["cross_entropy"] > 0


@pytest.mark.parametrize("given", [LearnSettings(steps=1, views=1), {"steps": 1, "views": 1}])
def test_what_is_not_set_is_the_models_default(quick: MyVLM, kit: FewShot, given: Any) -> None:
    default = default_settings("tinyworld/llava").model_dump()
    assert default["learning_rate"] != LearnSettings().learning_rate
    learned = teach(quick, kit, settings=given).embeddings["tinyworld/llava"]
    assert learned.settings == default | {"steps": 1, "views": 1}


def test_the_model_writes_captions_where_the_user_gives_none(quick: MyVLM, kit: FewShot) -> None:
    concept = teach(quick, kit, captions=None)
    assert concept.recipe["captions_by"] == "model"
    captions = concept.recipe["captions"]
    assert len(captions) == 4
    assert all(contains_word(text, kit.identifier) for own in captions for text in own)


def test_learning_starts_at_what_the_model_calls_the_thing(
    quick: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []

    def noted(backbone: Any, tasks: Any, **options: Any) -> Any:
        started.extend(task.words for task in tasks)
        return learn(backbone, tasks, **options)

    learn = learning.learn_embeddings
    monkeypatch.setattr(learning, "learn_embeddings", noted)
    for start in ("words", "random"):
        teach(quick, kit, settings=SHORT.model_copy(update={"start": start}))
        quick.concepts.remove(kit.identifier)
    assert kit.look.colour in started[0]
    assert started == [(kit.identifier, kit.look.pattern, kit.look.colour, kit.category), (kit.identifier,)]


def test_learning_leaves_a_model_in_training_as_it_was(quick: MyVLM, kit: FewShot) -> None:
    model = quick.backbone.model
    frozen = next(model.parameters())
    model.train()
    model.model.language_model.eval()
    frozen.requires_grad_(False)
    handle = model.register_forward_hook(lambda *_: None)
    try:
        before = state_of(model)
        teach(quick, kit)
        quick.caption(kit.photos()[0])
        check_same(before, state_of(model))
    finally:
        handle.remove()
        frozen.requires_grad_(True)
        model.eval()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["{} on a chair", "a mug", "{} here", "{} there"], r"images\[1\] does not name the concept"),
        (["{} on a chair"], "1 captions"),
        ("{} on a chair", "one string"),
        ([["{} on a chair"], [], ["{}"], ["{}"]], r"images\[1\] has no caption"),
        ([["{}"], ["{}"], ["{}", "{}s of the world"], ["{}"]], r"images\[2\] does not name"),
    ],
)
def test_bad_captions(quick: MyVLM, kit: FewShot, captions: Any, message: str) -> None:
    filled = json.loads(json.dumps(captions).replace("{}", kit.identifier))
    with pytest.raises(InputError, match=message):
        teach(quick, kit, captions=filled)
    assert len(quick.concepts) == 0


def test_bad_questions(quick: MyVLM, kit: FewShot) -> None:
    with pytest.raises(InputError, match="2 lists"):
        teach(quick, kit, questions=[[("where ?", "here")], []])
    with pytest.raises(InputError, match="question is empty"):
        quick.ask(kit.photos()[0], "  ")
    with pytest.raises(InputError, match="not text"):
        quick.ask(kit.photos()[0], None)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: .*0"),
        ({"unheard": 1}, "unheard"),
        ({"step": 3}, "write steps"),
        ({"seed": 2**63}, "seed"),
        ("auto", "'auto'"),
    ],
)
def test_no_settings(quick: MyVLM, kit: FewShot, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s)The settings for learning are invalid.*{message}"):
        teach(quick, kit, settings=settings)


@pytest.mark.parametrize("identifier", ["", " sks", "a/b", "..", "x" * 65, "tab\there", None, 5])
def test_no_identifier(quick: MyVLM, kit: FewShot, identifier: Any) -> None:
    with pytest.raises(InputError, match="Invalid identifier"):
        teach(quick, kit, identifier=identifier)


@pytest.mark.parametrize("category", ["", " ", "a\nb", "a/b", "a\\b", None, 5])
def test_no_category(quick: MyVLM, kit: FewShot, category: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load_images", None)  # fails before anything is read, written or learned
    for captions in (kit.captions(), None):
        with pytest.raises(InputError, match="Invalid category"):
            quick.learn(kit.identifier, kit.photos(), category=category, captions=captions)


def test_an_identifier_that_the_model_cannot_write(
    quick: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"(?s)cannot write 'qwertz'.*unknown words.*sks"):
        teach(quick, kit, identifier="qwertz")
    monkeypatch.setattr(quick.backbone, "word_ids", lambda word: [])
    with pytest.raises(InputError, match="no tokens"):
        teach(quick, kit)


def test_no_encoder_is_the_default_one(quick: MyVLM, kit: FewShot) -> None:
    concept = teach(quick, kit, head_options={"encoder": None, "crops": 9})
    assert (concept.head.encoder, concept.head.crops) == (quick.encoder, 9)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- stopped half-way, and several at once


def test_ctrl_c_in_the_middle_of_learning_keeps_what_is_there(
    quick: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = state_of(quick.backbone.model)
    monkeypatch.setattr(learning, "learning_progress", interrupted_at_two)
    concept = teach(quick, kit, settings=LearnSettings(steps=50, views=2))
    figures = concept.embeddings["tinyworld/llava"].figures
    assert (figures["steps"], figures["interrupted"]) == (2, True)
    assert "Interrupted after 2 of at most 50 steps" in caplog.text
    assert list(quick.concepts) == [kit.identifier]
    check_same(before, state_of(quick.backbone.model))
    monkeypatch.undo()
    quick.concepts.remove(kit.identifier)
    figures = teach(quick, kit).embeddings["tinyworld/llava"].figures
    assert figures["steps"] == 2
    assert "interrupted" not in figures


def test_ctrl_c_before_the_first_step_leaves_nothing(
    quick: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    before = state_of(quick.backbone.model)
    for method in ("encode", "prefixes"):
        with monkeypatch.context() as patched:
            patched.setattr(type(quick.backbone), method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                teach(quick, kit)
        assert len(quick.concepts) == 0
        check_same(before, state_of(quick.backbone.model))
        before = state_of(quick.backbone.model)


def test_several_concepts_learn_together_what_each_learns_alone(quick: MyVLM, kit: FewShot) -> None:
    other = few_shot(1, photos=2, tests=1)
    settings = SHORT.model_copy(update={"steps": 3, "seed": 7})
    lessons = [
        Lesson(kit.identifier, kit.photos(), kit.category, kit.captions(), settings=SHORT),
        Lesson(other.identifier, other.photos(2), other.category, other.captions(2), settings=settings),
    ]
    together = quick.learn_many(lessons, progress=False)
    assert list(quick.concepts) == [kit.identifier, other.identifier]
    for concept, lesson in zip(together, lessons, strict=True):
        quick.concepts.remove(concept.identifier)
        alone = quick.learn(
            lesson.identifier, lesson.images, category=lesson.category, captions=lesson.captions,
            settings=lesson.settings, progress=False,
        )  # fmt: skip
        ours, theirs = (one.embeddings["tinyworld/llava"] for one in (concept, alone))
        assert ours.settings == theirs.settings
        assert ours.figures["steps"] == theirs.figures["steps"] == lesson.settings.steps
        np.testing.assert_allclose(ours.directions, theirs.directions, rtol=1e-3, atol=1e-4)
        assert concept.recipe == alone.recipe


def test_of_several_concepts_all_are_added_or_none(
    quick: MyVLM, kit: FewShot, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = few_shot(1, photos=2, tests=1)
    one = Lesson(kit.identifier, kit.photos(), kit.category, kit.captions(), settings=SHORT)
    two = Lesson(other.identifier, other.photos(2), other.category, other.captions(2), settings=SHORT)
    with pytest.raises(InputError, match="does not name"):
        quick.learn_many([one, replace(two, captions=["a mug", "a mug"])], progress=False)
    with pytest.raises(InputError, match="twice"):
        quick.learn_many([one, replace(one, identifier=one.identifier.upper())], progress=False)
    with pytest.raises(InputError, match="no lessons"):
        quick.learn_many([], progress=False)
    learn = learning.learn_embeddings

    def meanwhile(*given: Any, **named: Any) -> Any:
        word = other.identifier
        quick.concepts.add(replace(taught.concept, identifier=word, spoken=word, folder=None))
        return learn(*given, **named)

    monkeypatch.setattr(learning, "learn_embeddings", meanwhile)
    with pytest.raises(ConceptExistsError):
        quick.learn_many([one, two], progress=False)
    assert list(quick.concepts) == [other.identifier]
