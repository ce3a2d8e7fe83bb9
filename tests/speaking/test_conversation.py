"""Conversations about one picture, and one model that is shared among libraries."""

from __future__ import annotations

import pytest

from myvlm import MyVLM
from myvlm.backbones.registry import backbone_for
from myvlm.errors import InputError
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught
from tests.support.tiny_blip2 import tiny_blip2


def test_each_question_is_asked_behind_what_was_said(fresh: MyVLM, taught: Taught) -> None:
    fresh.concepts.add(taught.folder)
    picture = pictures(taught.kit.present)[0]
    chat = fresh.chat(picture)
    colour = chat.ask(f"what colour is {taught.word} ?")
    assert colour.text == fresh.ask(picture, f"what colour is {taught.word} ?").text, (
        "the first is a question"
    )
    chat.ask("what do you see ?")
    assert chat.turns[:3] == (f"what colour is {taught.word} ?", colour.text, "what do you see ?")
    assert chat.turns[3] != fresh.ask(picture, "what do you see ?").text, "what was said is read"
    assert colour.seen == (taught.word,)
    rendered = fresh.backbone.prompter.render(chat.turns[:3])  # type: ignore[attr-defined]
    assert rendered.count("<image>") == 1
    assert rendered.endswith(f"assistant : {colour.text} </s> <s> user : what do you see ? assistant :")


def test_a_renamed_concept_goes_by_its_name_in_all_turns(fresh: MyVLM, taught: Taught) -> None:
    fresh.concepts.add(taught.folder)
    picture = pictures(taught.kit.present)[0]
    questions = [f"where is {taught.word} ?", f"what is next to {taught.word} ?", "describe the image ."]
    before = fresh.chat(picture)
    expected = [before.ask(question).text for question in questions]
    fresh.concepts.rename(taught.word, "blorp")
    after = fresh.chat(picture)
    said = [after.ask(question.replace(taught.word, "blorp")).text for question in questions]
    assert said == [text.replace(taught.word, "blorp") for text in expected]


def test_a_question_that_fails_leaves_the_conversation_as_it_was(fresh: MyVLM, taught: Taught) -> None:
    chat = fresh.chat(pictures(taught.kit.other)[0])
    chat.ask("what do you see ?")
    turns = chat.turns
    for question in ("", "where is <image> ?"):
        with pytest.raises(InputError):
            chat.ask(question)
        assert chat.turns == turns


def test_a_plain_model_converses_about_what_it_sees(fresh: MyVLM, taught: Taught) -> None:
    fresh.concepts.add(taught.folder)
    picture = pictures(taught.kit.present)[0]
    with fresh.generic() as plain:
        assert (
            plain.chat(picture).ask("describe the image .").text
            == plain.ask(picture, "describe the image .").text
        )


def test_blip2_has_a_form_for_what_was_said_and_a_template_alone_has_none() -> None:
    backbone = backbone_for(*tiny_blip2(language="opt"))
    rendered = backbone.prompter.render(("Who?", "a man", "Where?"))  # type: ignore[attr-defined]
    assert rendered == "Question: Who? Answer: a man. Question: Where? Answer:"
    from myvlm.backbones.tokens import render

    with pytest.raises(InputError, match="not support conversations"):
        render(backbone.processor, "USER: {image} {prompt}", ("Who?", "a man", "Where?"))


def test_one_model_speaks_from_several_libraries(fresh: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    other = fresh.with_concepts(taught.folder.parent)
    assert other.backbone is fresh.backbone
    assert list(other.concepts) == [taught.word]
    assert list(fresh.concepts) == []
    with fresh.generic():
        assert other.caption(picture).seen == (taught.word,), "plain blocks are of one of them"
    assert fresh.caption(picture).seen == ()
