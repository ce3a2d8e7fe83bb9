"""Concept rows are inserted by hooks at the right positions, and the model stays unchanged."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from myvlm.backbones import tokens as text
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import BackboneError
from tests.support.tiny import pictures, rows, tiny_llava

SHORT: dict[str, Any] = {"max_new_tokens": 6}


def hooks(backbone: LlavaBackbone) -> list[list[Any]]:
    """All forward hooks of the model, by module."""
    modules = backbone.model.modules()
    return [[*one._forward_hooks.values(), *one._forward_pre_hooks.values()] for one in modules]


def test_rows_that_never_arrive_are_an_error(backbone: LlavaBackbone) -> None:
    before = hooks(backbone)  # transformers has its own after a model's first pass
    with pytest.raises(BackboneError, match="never reached"), backbone.inserted(rows(1)):
        pass
    insertion = backbone.inserted(rows(1))
    with pytest.raises(ZeroDivisionError), insertion:
        raise ZeroDivisionError
    insertion.remove()
    insertion.remove()
    assert hooks(backbone) == before


def test_a_nested_insertion_suspends_the_outer_one(backbone: LlavaBackbone) -> None:
    batches = [
        backbone.prompter.teacher_forced(["<image>" * 16], ["Where?"], ["a mug"], rows(n)) for n in (1, 3)
    ]
    features = backbone.encode(pictures(1))
    alone = backbone.answer_loss(features, ["Where?"], ["a mug"], rows(3)).cross_entropy
    with backbone.inserted(rows(1)), backbone.frozen():
        before = backbone.model(input_ids=batches[0].ids).logits
        inner = backbone.answer_loss(features, ["Where?"], ["a mug"], rows(3)).cross_entropy
        after = backbone.model(input_ids=batches[0].ids).logits
    assert torch.equal(inner, alone)
    assert torch.equal(before, after)


def test_another_thread_sees_the_plain_model(backbone: LlavaBackbone) -> None:
    ids = backbone.prompter.teacher_forced(["<image>" * 16], ["Where?"], ["a mug"], rows(0)).ids
    found: list[torch.Tensor] = []
    with torch.no_grad():
        plain = backbone.model(input_ids=ids).logits

    def other() -> None:
        with torch.no_grad():
            found.append(backbone.model(input_ids=ids).logits)

    thread = threading.Thread(target=other)
    with backbone.inserted(rows(1)), torch.no_grad():
        thread.start()
        thread.join()
        backbone.model(
            input_ids=backbone.prompter.teacher_forced(["<image>" * 16], ["Where?"], ["a mug"], rows(1)).ids
        )
    assert torch.equal(found[0], plain)


def test_other_peoples_hooks_stay(backbone: LlavaBackbone) -> None:
    calls: list[str] = []
    table = backbone.model.get_input_embeddings()
    handle = table.register_forward_hook(lambda *_: calls.append("theirs"))
    backbone.generate(pictures(1), ["Where?"], rows(1), **SHORT)
    assert calls
    assert list(table._forward_hooks) == [handle.id]


def test_frozen_nests_and_restores_a_mixed_model(backbone: LlavaBackbone) -> None:
    model = backbone.model
    model.model.vision_tower.train()
    model.lm_head.weight.requires_grad_(False)
    before = [m.training for m in model.modules()], [w.requires_grad for w in model.parameters()]
    assert {*before[0]} == {*before[1]} == {True, False}
    with backbone.frozen():
        with backbone.frozen():
            pass
        assert not any(m.training for m in model.modules())
        assert not any(w.requires_grad for w in model.parameters())
    assert before == ([m.training for m in model.modules()], [w.requires_grad for w in model.parameters()])


@pytest.mark.parametrize("adapters", [1, 2])
def test_a_model_stays_frozen_until_the_last_thread_is_out(backbone: LlavaBackbone, adapters: int) -> None:
    other = LlavaBackbone(backbone.model, backbone.processor) if adapters == 2 else backbone
    weights = list(backbone.model.parameters())
    in_first, in_both = threading.Event(), threading.Event()

    def first() -> None:
        with backbone.frozen():
            in_first.set()
            in_both.wait()

    thread = threading.Thread(target=first)
    thread.start()
    in_first.wait()
    with other.frozen():
        in_both.set()
        thread.join()
        assert not any(weight.requires_grad for weight in weights)
    assert all(weight.requires_grad for weight in weights)
    with backbone.frozen():
        assert not any(weight.requires_grad for weight in weights)


def test_the_sentinel_is_spare_or_unused_and_its_absence_is_an_error() -> None:
    model, processor = tiny_llava(spare_ids=2)
    assert LlavaBackbone(model, processor).prompter.sentinel_id == len(processor.tokenizer)
    model, processor = tiny_llava(spare_ids=0)
    tokenizer = processor.tokenizer
    assert LlavaBackbone(model, processor).prompter.sentinel_id == tokenizer.unk_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<unused>"]})
    unused = tokenizer.convert_tokens_to_ids("<unused>")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert LlavaBackbone(model, processor).prompter.sentinel_id == unused  # before the unknown word
    with pytest.raises(BackboneError, match="resize_token_embeddings"):
        text.sentinel_id(model, tokenizer, set(tokenizer.all_special_ids))


def test_unknown_words_do_not_confuse_a_sentinel_that_is_the_unknown_word() -> None:
    backbone = LlavaBackbone(*tiny_llava(spare_ids=0))
    features = backbone.encode(pictures(1))
    loss = backbone.answer_loss(features, ["zyzzyva zyzzyva?"], ["a zyzzyva"], rows(2)).cross_entropy
    assert loss.isfinite()
    assert (
        len(backbone.generate(pictures(1), ["zyzzyva?"], rows(2), num_beams=2, use_cache=False, **SHORT)) == 1
    )
