"""Prompts and pictures are written as the checkpoint's own chat template and processor write them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from myvlm.backbones import backbone_for
from myvlm.backbones.causal.features import read_pictures
from myvlm.backbones.tokens import render
from tests.support.tiny import pictures
from tests.support.tiny_families import FAMILIES

# PaliGemma's processor uses a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

PUBLISHED = (
    *("LLaVA-NeXT, Vicuna", "LLaVA-NeXT, Mistral", "Qwen2.5-VL", "InternVL", "Gemma 3", "Mistral 3"),
)
"""Without OneVision and Idefics3, which have other correct forms: see `test_family_facts`."""
BEFORE = (
    "",
    "<bos>",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
)
"""The text of a published template before the first turn."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_a_chat_template_the_prompt_is_the_published_one(name: str) -> None:
    model, processor = FAMILIES[name]()
    assert processor.chat_template
    without = copy.copy(processor)
    without.chat_template = None
    published = backbone_for(model, processor).prompter.render("Where?")
    ours = backbone_for(model, without).prompter.render("Where?")
    assert "Where?" in ours
    assert published.endswith(ours)
    before = published.removesuffix(ours)
    assert before in BEFORE or re.fullmatch(r"(?s)<s>\[SYSTEM_PROMPT\].*\[/SYSTEM_PROMPT\]", before)


class Listening:
    """A processor that records the input of its chat template."""

    chat_template = "{{ messages }}"

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        self.given = conversation, options
        return "written"


def test_what_was_said_before_is_turns_of_text_by_both_sides() -> None:
    listening = Listening()
    assert render(listening, None, ("What is this?", "a mug", "Whose?")) == "written"
    picture, asked, answered, whose = (
        {"type": "image"},
        *({"type": "text", "text": turn} for turn in ("What is this?", "a mug", "Whose?")),
    )
    turns, options = listening.given
    assert turns == [
        {"role": "user", "content": [picture, asked]},
        {"role": "assistant", "content": [answered]},
        {"role": "user", "content": [whose]},
    ]
    assert options == {"add_generation_prompt": True, "tokenize": False}


class Silent:
    """A processor that does not report what it wrote in place of a picture, as in older releases."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.said = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, **given: Any) -> Any:
        inputs = self.processor(**given)
        self.said += len(inputs.pop("text_replacement_offsets"))
        return inputs


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Gemma 3", "Mistral 3", "Idefics3"])
def test_what_a_processor_does_not_say_is_read_back_from_the_ids(name: str) -> None:
    _, processor = FAMILIES[name]()
    shown = [picture.resize(size) for picture, size in zip(pictures(2), [(60, 30), (40, 40)], strict=True)]
    silent = Silent(processor)
    inputs, texts = read_pictures(silent, shown)
    assert silent.said == 2
    known_inputs, known = read_pictures(processor, shown)
    assert texts == known
    assert inputs.keys() == known_inputs.keys()
    assert all(str(processor.image_token) in text for text in texts)
