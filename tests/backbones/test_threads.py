"""Several threads on one model: each has its own reply, and the model is left as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch

from myvlm.backbones import tokens as text
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.backbones.registry import backbone_for
from tests.support.tiny import pictures, rows
from tests.support.tiny_families import FAMILIES

Made = TypeVar("Made")


@pytest.fixture
def side_by_side() -> Iterator[Callable[[Callable[[int], Made], Sequence[int]], list[Made]]]:
    """Maps in eight threads that take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-9)
    with ThreadPoolExecutor(8) as threads:
        yield lambda made, over: list(threads.map(made, over))
    sys.setswitchinterval(before)


def test_padding_of_one_thread_does_not_reach_another(
    backbone: LlavaBackbone, side_by_side: Callable[..., list[int]]
) -> None:
    """Whether it pads is a state of the tokenizer that each call sets: 22 of 333 such calls failed."""
    prompter, shown = backbone.prompter, pictures(3)
    asked = ["Describe", "Where is sks on the table", "a"]

    def width(number: int) -> int:
        if number % 3 == 0:
            return int(prompter.processed(shown, asked)["input_ids"].shape[1])
        if number % 3 == 1:
            return int(prompter.processed(shown[:1], asked[:1])["input_ids"].shape[1])
        return max(len(text.prompt_ids(prompter.tokenizer, asked[1])) for _ in range(30))

    alone = [width(number) for number in range(3)]
    assert len(set(alone)) == 3
    assert side_by_side(width, range(600)) == alone * 200


def test_threads_that_generate_on_one_qwen_leave_it_as_it_was(
    side_by_side: Callable[..., list[list[int]]],
) -> None:
    backbone = backbone_for(*FAMILIES["Qwen2.5-VL"]())
    sizes = [(40, 40), (70, 30), (30, 64)]
    shown = [picture.resize(size) for picture, size in zip(pictures(3), sizes, strict=True)]
    keeper = backbone.model.model
    keeper.rope_deltas = torch.tensor([[-3]])

    def said(number: int) -> list[int]:
        taught = rows(number, dim=backbone.dim)
        return backbone.generate([shown[number]], ["Where?"], taught, max_new_tokens=4)[0].token_ids.tolist()

    alone = [said(number) for number in range(3)]
    assert side_by_side(said, list(range(3)) * 8) == alone * 8
    assert keeper.rope_deltas.tolist() == [[-3]]
