"""The attention recorder: SDPA's output, eager's probabilities, and no trace left."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaModel

from myvlm.backbones.causal.attention import (
    RecordedIndices,
    attention_bias,
    attention_columns,
    record_attention,
    recording_over,
)
from myvlm.backbones.causal.prefix_cache import cache_argument
from myvlm.errors import InputError
from tests.support.tiny import tiny_llava

LENGTH = 12


def language_model(*, implementation: str = "sdpa", key_heads: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        initializer_range=0.15,
        attn_implementation=implementation,
    )
    return LlamaModel(config).eval().requires_grad_(False)


def mask(padding: str) -> Tensor | None:
    """Mask of samples with 12, 9 and 6 tokens."""
    if padding == "none":
        return None
    rows = [[1] * n + [0] * (LENGTH - n) for n in (LENGTH, 9, 6)]
    return torch.tensor([row[::-1] for row in rows] if padding == "left" else rows)


def embeddings(batch: int = 3) -> Tensor:
    return torch.randn(batch, LENGTH, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_it_is_sdpa_and_records_what_eager_would(padding: str, key_heads: int) -> None:
    model, eager = (
        language_model(key_heads=key_heads),
        language_model(implementation="eager", key_heads=key_heads),
    )
    queries = torch.tensor([[7, 11, -1], [8, 7, 6], [-1, 7, 10]])
    if padding == "right":
        queries = torch.tensor([[7, 11, -1], [8, 7, 6], [-1, 5, 4]])
    keys = (
        torch.tensor([[2, 3], [4, -1], [7, 8]])
        if padding != "right"
        else torch.tensor([[2, 3], [4, -1], [1, 5]])
    )
    inputs = {"inputs_embeds": embeddings(), "attention_mask": mask(padding)}
    plain = model(**inputs).last_hidden_state
    with record_attention(model.config, queries=queries, keys=keys) as recorder:
        recorded = model(**inputs).last_hidden_state
    assert torch.equal(recorded, plain)
    maps = eager(**inputs, output_attentions=True).attentions
    assert len(recorder.probabilities) == len(maps) == 3
    valid = (queries >= 0)[:, :, None] & (keys >= 0)[:, None, :]
    assert valid.sum() == 2 * 2 + 3 * 1 + 2 * 2
    for found, whole in zip(recorder.probabilities, maps, strict=True):
        assert found.shape == (3, 4, 3, 2)
        for b, q, k in torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2)).tolist():
            expected = whole[b, :, queries[b, q], keys[b, k]] if valid[b, q, k] else torch.zeros(4)
            assert (found[b, :, q, k] - expected).abs().max() <= 8e-7
    assert max(p.max().item() for p in recorder.probabilities) > 0.2


def test_of_chosen_layers_alone_what_they_give_is_recorded() -> None:
    model, keys = language_model(), torch.tensor([[2, 4]])
    with record_attention(model.config, queries=torch.tensor([[5, 9]]), keys=keys) as every:
        model(inputs_embeds=embeddings(1))
    chosen = [model.layers[2].self_attn]
    with record_attention(model.config, queries=every.queries, keys=keys, modules=chosen) as recorder:
        model(inputs_embeds=embeddings(1))
    assert torch.equal(recorder.stacked(), every.stacked()[2:])


def test_the_gradient_is_the_one_of_eager_maps() -> None:
    model, eager = language_model(), language_model(implementation="eager")
    queries, keys = torch.tensor([[5, 9]]), torch.tensor([[2, 4]])
    inputs = embeddings(1).requires_grad_()
    with record_attention(model.config, queries=queries, keys=keys) as recorder:
        model(inputs_embeds=inputs)
    ours = torch.autograd.grad(sum(p.pow(2).sum() for p in recorder.probabilities), inputs)[0]
    maps = eager(inputs_embeds=inputs, output_attentions=True).attentions
    theirs = torch.autograd.grad(sum(m[:, :, [5, 9]][..., [2, 4]].pow(2).sum() for m in maps), inputs)[0]
    assert theirs.norm() > 0.01
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_with_a_cache_queries_count_from_the_new_tokens_and_keys_from_the_first() -> None:
    model = language_model()
    inputs = embeddings(1)
    with record_attention(model.config, queries=torch.tensor([[10]]), keys=torch.tensor([[1]])) as whole:
        model(inputs_embeds=inputs)
    cache = DynamicCache(config=model.config)
    model(inputs_embeds=inputs[:, :8], **{cache_argument(model): cache})
    with record_attention(model.config, queries=torch.tensor([[2]]), keys=torch.tensor([[1]])) as tail:
        model(inputs_embeds=inputs[:, 8:], **{cache_argument(model): cache})
    torch.testing.assert_close(torch.stack(tail.probabilities), torch.stack(whole.probabilities))


def test_only_the_language_model_is_recorded_and_the_tower_keeps_its_attention() -> None:
    model, processor = tiny_llava()
    inputs = processor(images=torch.zeros(3, 28, 28), text="<image> a mug", return_tensors="pt")
    config = model.model.language_model.config
    before = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    with record_attention(config, queries=torch.tensor([[18]]), keys=torch.tensor([[3]])) as recorder:
        model(**inputs)
        assert config._attn_implementation == recording_over("sdpa")
        assert model.model.vision_tower.config._attn_implementation == "sdpa"
    assert len(recorder.probabilities) == config.num_hidden_layers == 3
    assert [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")] == before


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_implementation_is_restored_after_an_error_and_after_nesting(implementation: str) -> None:
    model = language_model(implementation=implementation)
    places = {"queries": torch.tensor([[5]]), "keys": torch.tensor([[2]])}
    with record_attention(model.config, **places) as outer:
        with suppress(ZeroDivisionError), record_attention(model.config, **places) as inner:
            model(inputs_embeds=embeddings(1))
            raise ZeroDivisionError
        assert model.config._attn_implementation == recording_over(implementation)
        assert (len(inner.probabilities), len(outer.probabilities)) == (3, 0)
        model(inputs_embeds=embeddings(1))
    assert (len(inner.probabilities), len(outer.probabilities)) == (3, 3)
    assert model.config._attn_implementation == implementation
    model(inputs_embeds=embeddings(1))
    assert len(outer.probabilities) == 3


def test_another_model_is_not_recorded() -> None:
    first, second = language_model(), language_model()
    places = {"queries": torch.tensor([[5]]), "keys": torch.tensor([[2]])}
    with record_attention(first.config, **places), record_attention(second.config, **places) as recorder:
        first(inputs_embeds=embeddings(1))
        assert recorder.probabilities == []
        second(inputs_embeds=embeddings(1))
    assert len(recorder.probabilities) == 3
    assert first.config._attn_implementation == second.config._attn_implementation == "sdpa"


def test_threads_that_overlap_leave_the_implementation_as_it_was() -> None:
    model = language_model()
    entered, leave, recorded = threading.Event(), threading.Event(), []

    def other() -> None:
        with record_attention(
            model.config, queries=torch.tensor([[5]]), keys=torch.tensor([[2]])
        ) as recorder:
            entered.set()
            leave.wait(300)
        recorded.append(len(recorder.probabilities))

    thread = threading.Thread(target=other)
    with record_attention(model.config, queries=torch.tensor([[5]]), keys=torch.tensor([[2]])) as mine:
        thread.start()
        assert entered.wait(300)
        model(inputs_embeds=embeddings(1))
    leave.set()
    thread.join()
    assert model.config._attn_implementation == "sdpa"
    assert len(mine.probabilities) == 3
    assert recorded == [0]


@pytest.mark.parametrize(("dtype", "large"), [(torch.bfloat16, 100.0), (torch.float16, 400.0)])
def test_large_biases_of_queries_and_keys_leave_half_precision_its_probabilities(
    dtype: torch.dtype, large: float
) -> None:
    """As in Qwen2: unscaled, the product overflows float16, and bfloat16 keeps three digits of it."""
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, count, 7, 16, generator=random) for count in (4, 2))
    query[..., 3] = large
    key[..., 3] = large
    query, key = (part.to(dtype).requires_grad_() for part in (query, key))
    queries = torch.tensor([[6, 4]])
    indices = RecordedIndices.of(queries, torch.tensor([[1, 2]]))
    bias = attention_bias(None, queries, length=7, columns=7, causal=True)

    def found(*parts: Tensor) -> tuple[Tensor, ...]:
        probabilities = attention_columns(*parts, bias, indices=indices, scale=0.25)
        return probabilities, *torch.autograd.grad(probabilities.pow(2).sum(), parts)

    exact = found(*(part.detach().double().requires_grad_() for part in (query, key)))
    assert exact[0].max() > 0.1
    ours = found(query, key)
    assert [one.dtype for one in ours] == [torch.float32, dtype, dtype]
    torch.testing.assert_close(ours[0].double(), exact[0].double(), rtol=5e-3, atol=1e-5)
    for one, other in zip(ours[1:], exact[1:], strict=True):
        assert (one.double() - other).norm() <= 1e-2 * other.norm()


def test_an_additive_mask_is_read_like_a_boolean_one() -> None:
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()[None, None].clone()
    allowed[..., 0] = False
    queries = torch.tensor([[5, 0], [3, 2]])
    indices = RecordedIndices.of(queries, torch.tensor([[4], [1]]))
    additive = torch.zeros(1, 1, 6, 6).masked_fill(~allowed, -torch.inf)
    by_bool, by_number = (
        attention_columns(
            query,
            key,
            attention_bias(mask, queries, length=6, columns=6, causal=True),
            indices=indices,
            scale=0.3,
        )
        for mask in (allowed, additive)
    )
    assert by_bool.isfinite().all()  # query 0 may attend to nothing
    torch.testing.assert_close(by_bool, by_number, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [(torch.tensor([1]), torch.tensor([[1]])), (torch.ones(2, 1).long(), torch.ones(1, 1).long())],
)
def test_places_must_be_two_matrices_of_one_height(queries: Tensor, keys: Tensor) -> None:
    model = language_model()
    with (
        pytest.raises(InputError, match="equal height"),
        record_attention(model.config, queries=queries, keys=keys),
    ):
        pass
    assert model.config._attn_implementation == "sdpa"
