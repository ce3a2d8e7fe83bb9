"""Introduced concepts: used by description in pictures where their heads detect them, nowhere else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.concepts.embedding import Embedding
from myvlm.errors import ConceptExistsError, InputError, NotFittedError
from myvlm.tinyworld import FewShot
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.taught import Taught, around


@pytest.fixture(scope="module")
def told(vlm: MyVLM, taught: Taught) -> MyVLM:
    """The model, with the concept of `taught` only introduced."""
    fresh = around(vlm)
    fresh.introduce(taught.word, taught.photos, category=taught.kit.category)
    return fresh


@pytest.fixture
def kit(taught: Taught) -> FewShot:
    return taught.kit


def test_it_is_named_where_it_is_seen_and_elsewhere_all_is_plain(told: MyVLM, kit: FewShot) -> None:
    concept = told.concepts[kit.identifier]
    assert concept.description == "the dotted purple mug"
    assert not concept.embeddings
    replies = told.caption(pictures(kit.present))
    assert all(reply.seen == (kit.identifier,) for reply in replies)
    assert all(kit.identifier in reply.text for reply in replies)
    absent = pictures(kit.look_alike) + pictures(kit.other)
    with told.generic() as plain:
        assert [r.token_ids for r in told.caption(absent)] == [r.token_ids for r in plain.caption(absent)]


def test_it_is_named_in_the_models_own_words(told: MyVLM, kit: FewShot) -> None:
    shown = pictures(kit.present)
    with told.generic() as plain:
        own = plain.caption(shown)
    for reply, before in zip(told.caption(shown), own, strict=True):
        assert reply.token_ids == before.token_ids
        assert kit.identifier in reply.text
        assert kit.identifier not in before.text


def test_where_own_words_hold_no_place_for_the_name_the_model_is_told(
    vlm: MyVLM, told: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, generate = [], vlm.backbone.generate
    fresh = around(vlm)
    [known] = told.concepts.values()
    recipe = {**known.recipe, "description": "the old tractor"}
    fresh.concepts.add(replace(known, category="tractor", recipe=recipe, folder=None))

    def watched(images: Any, prompts: Any, *rest: Any, **options: Any) -> Any:
        asked.append(list(prompts))
        return generate(images, prompts, *rest, **options)

    monkeypatch.setattr(fresh.backbone, "generate", watched)
    shown = pictures(kit.present)
    fresh.caption(shown)
    prompt = fresh.backbone.caption_prompt
    assert asked[0] == [prompt] * len(shown)
    [hinted] = set(asked[1])
    assert f"{kit.identifier} is the old tractor." in hinted
    asked.clear()
    fresh.caption(shown[0], do_sample=True)  # one pass: sampled replies are drawn once
    assert asked == [[hinted]]


def test_it_is_asked_about_by_name(told: MyVLM, kit: FewShot) -> None:
    [answer] = told.ask(pictures(kit.present[:1]), f"what colour is {kit.identifier} ?")
    assert answer.text == "purple"


def test_attention_and_place(told: MyVLM, kit: FewShot) -> None:
    [picture] = pictures(kit.present[:1])
    assert np.asarray(told.attention(picture, kit.identifier)).size
    assert told.locate(picture, kit.identifier).box


def test_without_its_name_in_the_reply_attention_says_how_to_learn_it(
    told: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = told.backbone.generate
    unnamed = partial(generate, max_new_tokens=1)
    monkeypatch.setattr(told.backbone, "generate", unnamed)
    again = rf"fix: +learn it by vlm.relearn\(vlm.concepts\['{kit.identifier}'\], images=\[\.\.\.\]\)"
    with pytest.raises(InputError, match=rf"(?s)does not name '{kit.identifier}'.*{again}"):
        told.attention(pictures(kit.present[:1])[0], kit.identifier)


def test_a_renamed_one_is_told_of_by_its_first_word(told: MyVLM, kit: FewShot) -> None:
    told.concepts.rename(kit.identifier, "Bluebell")
    try:
        [reply] = told.caption(pictures(kit.present[:1]))
    finally:
        told.concepts.rename("Bluebell", kit.identifier)
    assert "Bluebell" in reply.text
    assert kit.identifier not in reply.text


def test_a_family_that_takes_no_hint_has_the_name_put_in(
    told: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told.backbone, "hinted", lambda hint, prompt: None)
    [reply] = told.caption(pictures(kit.present[:1]))
    assert kit.identifier in reply.text
    assert kit.category not in reply.text
    [answer] = told.ask(pictures(kit.present[:1]), f"what colour is {kit.identifier} ?")
    assert answer.text == "purple"


def test_a_model_that_does_not_take_the_hint_has_the_name_put_in(
    told: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told.backbone, "hinted", lambda hint, prompt: prompt)
    shown = pictures(kit.present)
    with told.generic():
        plain = told.caption(shown)
    for reply, before in zip(told.caption(shown), plain, strict=True):
        assert reply.token_ids == before.token_ids
        assert (kit.identifier in reply.text) == (kit.category in before.text)
    assert any(kit.identifier in reply.text for reply in told.caption(shown))
    [answer] = told.ask(shown[:1], f"what is {kit.identifier} ?")
    with told.generic():
        assert told.ask(shown[0], f"what is {kit.identifier} ?").text == answer.text


def test_learning_takes_its_place(told: MyVLM, taught: Taught, vlm: MyVLM) -> None:
    other = around(vlm)
    other.concepts.add(replace(told.concepts[taught.word], folder=None))
    learned = other.learn(
        taught.word, taught.photos, category=taught.kit.category, captions=taught.kit.captions(),
        settings=LearnSettings(steps=1, views=1), progress=False,
    )  # fmt: skip
    assert other.concepts[taught.word] is learned
    assert learned.embeddings
    assert learned.description == "the dotted purple mug"
    with pytest.raises(ConceptExistsError):  # a learned concept is not replaced
        other.introduce(taught.word, taught.photos, category=taught.kit.category)


def test_what_fails_leaves_it_introduced(told: MyVLM, taught: Taught) -> None:
    before = told.concepts[taught.word]
    with pytest.raises(InputError):
        told.introduce(taught.word, taught.photos, category="mug", description="<image>")
    unfitted = replace(before, head=type(before.head)())
    with pytest.raises(NotFittedError):
        told.concepts.add_learned([unfitted])
    assert told.concepts[taught.word] is before


def test_what_another_model_learned_is_told_in_words(
    vlm: MyVLM, taught: Taught, caplog: pytest.LogCaptureFixture
) -> None:
    embedding = Embedding(np.ones((1, 3), np.float32), "none", "", "of other weights")
    recipe = {**taught.concept.recipe, "description": "the dotted purple mug"}
    elsewhere = replace(taught.concept, embeddings={"org/other": embedding}, recipe=recipe, folder=None)
    fresh = around(vlm)
    fresh.concepts.add(elsewhere)
    assert "its description is used instead" in caplog.text
    [reply] = fresh.caption(pictures(taught.kit.present[:1]))
    assert taught.word in reply.text


def test_the_command(myvlm: Myvlm, taught: Taught, tmp_path: Path) -> None:
    words = ["introduce", taught.word, taught.photos, "--category", taught.kit.category]
    run = myvlm(*words, "--out", tmp_path / "mug", "--json")
    assert run.code == 0, run.stderr
    assert run.document["description"] == "the dotted purple mug"
    assert "the dotted purple mug" in (tmp_path / "mug" / "README.md").read_text()
    assert Concept.load(tmp_path / "mug").description == "the dotted purple mug"
    used = myvlm("caption", *taught.photos.glob("1.png"), "--concepts", tmp_path / "mug", "--json")
    assert taught.word in used.stdout


def test_a_description_is_put_into_a_sentence_however_it_was_typed(taught: Taught, fresh: MyVLM) -> None:
    mug = fresh.introduce(
        taught.word, taught.photos, category="mug", description=" the dotted\n  purple mug. "
    )
    assert mug.description == "the dotted purple mug"
