"""Several threads on one model: each gets its own reply, and the model is unchanged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch

from myvlm.backbones import tokens as text
from myvlm.backbones.causal.attention import record_attention, recording_over
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.backbones.registry import backbone_for
from tests.support.tiny import pictures, rows, tiny_llava
from tests.support.tiny_families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

Made = TypeVar("Made")


@pytest.fixture
def side_by_side() -> Iterator[Callable[[Callable[[int], Made], Sequence[int]], list[Made]]]:
    """Map in eight threads that switch as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-9)
    with ThreadPoolExecutor(8) as threads:
        yield lambda made, over: list(threads.map(made, over))
    sys.setswitchinterval(before)


def test_padding_of_one_thread_does_not_reach_another(
    backbone: LlavaBackbone, side_by_side: Callable[..., list[int]]
) -> None:
    """Padding is a state of the tokenizer that each call sets: without a lock 22 of 333 calls failed."""
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


def test_a_prefix_is_read_by_its_own_thread_alone(backbone: LlavaBackbone) -> None:
    """It took the norms of the picture that another thread sent through the model first."""
    one, two = (backbone.encode([picture]) for picture in pictures(2))
    [alone], language = backbone.prefixes(one), backbone.language_model  # type: ignore[misc]
    interrupted: list[bool] = []

    def other_first(*_: object) -> None:
        if not interrupted:
            interrupted.append(True)
            other = threading.Thread(target=backbone.prefixes, args=(two,))
            other.start()
            other.join()

    handle = backbone.model.register_forward_pre_hook(other_first)
    try:
        [beside] = backbone.prefixes(one)  # type: ignore[misc]
    finally:
        handle.remove()
    assert interrupted
    assert beside.norms == alone.norms
    assert not language._forward_pre_hooks


def test_a_text_that_another_thread_drops_from_the_cache_is_returned(backbone: LlavaBackbone) -> None:
    class Dropped(dict[Any, Any]):
        """A cache that another thread clears after each addition."""

        def __setitem__(self, key: object, value: object) -> None:
            pass

    prompter: Any = backbone.prompter
    expected = prompter.render("Where?"), prompter.prompt_ids("What?", "<image>")
    prompter._rendered, prompter._cached_ids = Dropped(), Dropped()
    assert (prompter.render("Where?"), prompter.prompt_ids("What?", "<image>")) == expected


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


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_thread_that_learns_leaves_the_replies_of_another_to_the_bit(implementation: str) -> None:
    """The configuration names one attention implementation for all threads; each layer reads it at each
    call."""
    model, processor = tiny_llava()
    model.set_attn_implementation(implementation)
    backbone = backbone_for(model, processor, name="tiny")
    shown = pictures(2)
    features, texts = backbone.encode(shown), (["Where?", "What?"], ["sks on a table", "a big red mug"])
    asked = backbone.prompter.processed(shown, ["Where is sks?", "a"])  # type: ignore[attr-defined]
    speaking, failed = threading.Event(), list[BaseException]()

    def learn() -> None:
        try:
            while not speaking.is_set():
                backbone.answer_loss(features, *texts, rows(1, 2))
        except BaseException as error:
            failed.append(error)

    def said() -> Any:
        return model.generate(
            **asked, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
        )

    with backbone.frozen(), torch.no_grad():
        before, interval = said(), sys.getswitchinterval()
        learner = threading.Thread(target=learn)
        sys.setswitchinterval(1e-5)
        try:
            learner.start()
            replies = [said() for _ in range(100)]
        finally:
            speaking.set()
            learner.join()
            sys.setswitchinterval(interval)
    assert not failed
    for reply in replies:
        assert torch.equal(reply.sequences, before.sequences)
        assert all(map(torch.equal, reply.logits, before.logits))
    assert model.model.language_model.config._attn_implementation == implementation


@pytest.mark.parametrize("family", FAMILIES)
def test_while_one_thread_records_another_runs_the_eager_attention_of_every_family(family: str) -> None:
    model, processor = FAMILIES[family]()
    model.set_attn_implementation("eager")
    backbone: Any = backbone_for(model, processor)
    config, place = backbone.language_model.config, torch.zeros(1, 1, dtype=torch.long)
    asked = backbone.prompter.processed(pictures(2), ["Where is sks?", "a"]).to(backbone.device, model.dtype)
    recording, spoken = threading.Event(), threading.Event()

    def record() -> None:
        with record_attention(config, queries=place, keys=place):
            recording.set()
            spoken.wait(300)

    def said() -> tuple[torch.Tensor, ...]:
        logits: tuple[torch.Tensor, ...] = model.generate(
            **asked, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits
        return logits

    with backbone.frozen(), torch.no_grad():
        before, thread = said(), threading.Thread(target=record)
        thread.start()
        assert recording.wait(300)
        named, meanwhile = config._attn_implementation, said()
        spoken.set()
        thread.join()
    assert named == recording_over("eager")
    assert all(map(torch.equal, meanwhile, before))
    assert config._attn_implementation == "eager"
