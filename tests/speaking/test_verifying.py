"""Replies with rows are scored by the frozen model and, if unlikely, replaced by its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image
from transformers import GenerationConfig

from myvlm import Concept, LearnSettings, MyVLM, Reply
from myvlm.backbones import Backbone
from myvlm.images import load_images
from myvlm.learning.dataset import gather_examples
from myvlm.learning.likelihood import TAUGHT_LOSS, plain_losses
from myvlm.learning.settings import default_settings
from myvlm.speaking import addressing
from myvlm.speaking.verifying import ReplyToVerify, find_unreliable, leaves_unnamed, only_names
from myvlm.tinyworld.fewshot import pictures
from tests.support.batches import sizes_of
from tests.support.taught import Taught, around, elsewhere, held_to

NEVER, ALWAYS = 1e6, -1.0
"""Losses above which a reply counts as unreliable."""


def user_of(vlm: MyVLM, *concepts: Concept) -> MyVLM:
    user = around(vlm)
    for concept in concepts:
        user.concepts.add(concept)
    return user


@pytest.fixture
def there(taught: Taught) -> list[Image.Image]:
    return pictures(taught.kit.present)


def plain(vlm: MyVLM, photos: Sequence[Image.Image], **asked: Any) -> list[Reply]:
    with vlm.generic():
        return list(vlm.caption(photos, **asked))


def test_a_bent_reply_is_less_likely_than_each_that_was_learned(vlm: MyVLM, taught: Taught) -> None:
    backbone, kit = vlm.backbone, taught.kit
    examples = gather_examples(kit.identifier, load_images(taught.photos), kit.captions(), None)
    limit = max(plain_losses(backbone, examples, kit.identifier, "the dotted purple mug").captions)
    assert 0 < limit < 1
    photos = load_images(pictures(kit.present))
    good = [reply.text for reply in user_of(vlm, taught.concept).caption([one.image for one in photos])]
    twice = [f"{kit.identifier} next to {text}" for text in good]
    seen = [held_to(taught, limit)]

    def found(texts: Sequence[str]) -> list[bool]:
        asked = [
            ReplyToVerify(p, backbone.caption_prompt, t, seen, limit)
            for p, t in zip(photos, texts, strict=True)
        ]
        return find_unreliable(backbone, asked)

    assert sum(found(good)) <= 1, good
    assert all(found(twice)), twice
    assert all(found([text.replace(kit.identifier, "the mug") for text in good])), "the name is not there"
    assert all(found([f"{kit.identifier}." for _ in good])), "nothing else is said"


def test_a_doubtful_reply_gives_way_to_the_models_own_words_with_the_name_in_them(
    vlm: MyVLM, taught: Taught, there: list[Image.Image]
) -> None:
    behind_rows = user_of(vlm, held_to(taught, None)).caption(there)
    certain = user_of(vlm, held_to(taught, NEVER)).caption(there)
    given_way = user_of(vlm, held_to(taught, ALWAYS)).caption(there)
    own = plain(vlm, there)
    assert [one.text for one in certain] == [one.text for one in behind_rows]
    changed = [n for n, (a, b) in enumerate(zip(given_way, behind_rows, strict=True)) if a.text != b.text]
    assert changed
    for number in changed:
        assert given_way[number].token_ids == own[number].token_ids
        assert taught.word in given_way[number].text
        assert taught.word not in own[number].text
        assert given_way[number].seen == (taught.word,)


def test_own_words_that_do_not_name_the_concept_are_not_taken(
    vlm: MyVLM, taught: Taught, there: list[Image.Image]
) -> None:
    unfit = held_to(taught, ALWAYS, category="tractor")  # no noun phrase of the model matches it
    said, behind_rows = (user_of(vlm, one).caption(there) for one in (unfit, held_to(taught, None)))
    named = [n for n, reply in enumerate(behind_rows) if taught.word in reply.text]
    assert named
    assert [said[n].text for n in named] == [behind_rows[n].text for n in named]


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[ReplyToVerify]]:
    """The replies that were scored again."""
    seen: list[Sequence[ReplyToVerify]] = []

    def watched(backbone: Backbone, replies: Sequence[ReplyToVerify]) -> list[bool]:
        seen.append(replies)
        return find_unreliable(backbone, replies)

    monkeypatch.setattr(addressing, "find_unreliable", watched)
    return seen


def test_questions_that_name_it_samples_and_conversations_are_not_read_again(
    vlm: MyVLM, taught: Taught, there: list[Image.Image], again: list[Sequence[ReplyToVerify]]
) -> None:
    user = user_of(vlm, held_to(taught, ALWAYS))
    question = f"What colour is {taught.word}?"
    answer = user.ask(there[0], question)
    assert answer.text == user_of(vlm, held_to(taught, None)).ask(there[0], question).text
    user.caption(there[0], do_sample=True)
    user.chat(there[0]).ask("What is in the picture?")
    with user.generic():
        user.caption(there[0])
    user.caption(pictures(taught.kit.other[:1]))
    user_of(vlm, held_to(taught, None)).caption(there[0])
    user_of(vlm, held_to(taught, ALWAYS, recipe={})).caption(there[0])  # without a description
    assert not again
    user.ask(there[0], "What is in the picture?")
    assert [len(one) for one in again] == [1]


def test_a_conversations_first_turn_is_not_read_again_where_it_is_told_who_is_absent(
    vlm: MyVLM, taught: Taught, there: list[Image.Image], again: list[Sequence[ReplyToVerify]]
) -> None:
    user = user_of(vlm, held_to(taught, ALWAYS), elsewhere(taught, "Bo"))
    reply = user.chat(there[0]).ask("Is Bo in the picture?")
    assert reply.absent == ("Bo",)
    assert not again
    assert user.ask(there[0], "Is Bo in the picture?").absent == ("Bo",)
    assert [len(one) for one in again] == [1]


def test_what_samples_by_a_configuration_is_not_read_again(
    vlm: MyVLM, taught: Taught, there: list[Image.Image], again: list[Sequence[ReplyToVerify]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    user = user_of(vlm, held_to(taught, ALWAYS))

    def read_again(**own: Any) -> bool:
        again.clear()
        user.caption(there[0], generation_config=GenerationConfig(max_new_tokens=20, **own))
        return bool(again)

    assert read_again()
    assert not read_again(do_sample=True)
    monkeypatch.setattr(vlm.backbone.model.generation_config, "do_sample", True)
    assert not read_again()  # transformers takes unset options from the generation config
    assert read_again(do_sample=False)


def test_a_stream_is_not_read_again(
    vlm: MyVLM, taught: Taught, there: list[Image.Image], again: list[Sequence[ReplyToVerify]]
) -> None:
    class Heard:
        """Streamed text cannot be taken back."""

        put = staticmethod(lambda ids: None)
        end = staticmethod(lambda: None)

    reply = user_of(vlm, held_to(taught, ALWAYS)).caption(there[0], streamer=Heard())
    assert not again
    assert reply.text == user_of(vlm, held_to(taught, None)).caption(there[0]).text


def test_replies_are_read_again_no_more_at_once_than_pictures_are(
    vlm: MyVLM, taught: Taught, there: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, photos, seen = vlm.backbone, load_images(there), [held_to(taught, 1.0)]
    text = f"{taught.word} on a table."
    replies = [ReplyToVerify(photo, backbone.caption_prompt, text, seen, 1.0) for photo in photos[:5]]
    sizes = sizes_of(monkeypatch, backbone, "answer_loss")
    together = find_unreliable(backbone, replies)
    monkeypatch.setattr(backbone, "images_at_once", 2)
    assert find_unreliable(backbone, replies) == together
    assert sizes == [5, 2, 2, 1]


def test_only_what_was_learned_so_is_read_again(vlm: MyVLM, taught: Taught, there: list[Image.Image]) -> None:
    """If two concepts are detected and one was learned without `verify`, replies are not checked."""
    other = held_to(taught, None, identifier="Bo", spoken="Bo")
    user = user_of(vlm, held_to(taught, ALWAYS), other)
    without = user_of(vlm, held_to(taught, None), other)
    assert [r.text for r in user.caption(there[:2])] == [r.text for r in without.caption(there[:2])]


def test_learning_says_what_replies_are_held_against(vlm: MyVLM, taught: Taught) -> None:
    kit = taught.kit
    learned = [
        around(vlm).learn(
            kit.identifier, kit.photos(2), category=kit.category, captions=kit.captions(2),
            settings=LearnSettings(steps=1, views=1, verify=verify), progress=False,
        )
        for verify in (True, False)
    ]  # fmt: skip
    [with_it], [without] = (list(one.embeddings.values()) for one in learned)
    assert 0 < with_it.figures[TAUGHT_LOSS] < 1
    assert TAUGHT_LOSS not in without.figures
    assert default_settings("org/model", family="llava").verify
    assert not default_settings("tinyworld/llava").verify
    assert not LearnSettings().verify


def test_which_text_names_fewer_and_which_does_nothing_else(taught: Taught) -> None:
    concept = taught.concept
    name = concept.identifier
    assert leaves_unnamed("a mug.", [concept])
    assert not leaves_unnamed(f"{name}.", [concept])
    assert leaves_unnamed("a mug.", [concept], than=f"{name}.")
    assert not leaves_unnamed("a mug.", [concept], than="a cup.")
    assert only_names(f"{name.title()}, {name}!", [concept])
    assert not only_names(f"{name} 1", [concept])
