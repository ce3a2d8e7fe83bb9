"""What stands in for a chat template is the checkpoint's own chat template, to the letter."""

from __future__ import annotations

import copy
import re

import pytest

from myvlm.backbones import backbone_for
from tests.support.tiny_families import FAMILIES

# PaliGemma's processor asks numpy to look at tensors in a way that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

PUBLISHED = (
    *("LLaVA-NeXT, Vicuna", "LLaVA-NeXT, Mistral", "Qwen2.5-VL", "InternVL", "Gemma 3", "Mistral 3"),
)
"""Without OneVision and Idefics3, of which other forms are right there: see `test_family_facts`."""
BEFORE = (
    "",
    "<bos>",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
)
"""What a published template puts before the first turn."""


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
