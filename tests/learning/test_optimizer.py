"""The optimizer of one concept: its learning rate schedule, and the criterion for the best embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from myvlm.backbones import Backbone
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import BackboneError
from myvlm.learning import LearnSettings, learn_embedding
from myvlm.learning.concept_optimizer import MAX_SENTENCE_ROWS, ConceptOptimizer, LearnRequest
from tests.support.teaching import examples


def optimizer(backbone: Backbone, words: Sequence[str] = (), **settings: object) -> ConceptOptimizer:
    return ConceptOptimizer(backbone, LearnRequest(examples(), LearnSettings(views=1, **settings), words))


def test_a_told_start_has_a_row_for_each_token_of_the_sentence(backbone: LlavaBackbone) -> None:
    told = optimizer(backbone, ("sks", "red", "mug"), start="told", rows=2).direction.detach()
    ids = backbone.word_ids("The red mug is called sks.")
    table = backbone.model.get_input_embeddings().weight[ids]
    assert len(told) == len(ids) > 2
    assert torch.allclose(torch.cosine_similarity(told, table), torch.ones(len(ids)), atol=1e-5)
    assert torch.allclose(told.pow(2).mean(1), torch.ones(len(ids)), atol=1e-4)
    long = optimizer(backbone, ("sks", *["red"] * 200, "mug"), start="told").direction
    assert len(long) == MAX_SENTENCE_ROWS
    nothing = optimizer(backbone, start="told", rows=2).direction
    assert torch.equal(nothing, optimizer(backbone, start="random", rows=2).direction)


def test_the_rate_is_full_for_half_the_steps_and_falls_to_a_fiftieth(
    backbone: LlavaBackbone,
) -> None:
    one, rates = optimizer(backbone, steps=20, learning_rate=0.5), []
    for _ in range(20):
        one.advance(torch.ones_like(one.direction), (1.0, 0.0))
        rates.append(one.optimiser.param_groups[0]["lr"])
    assert rates[:10] == [0.5] * 10
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates[9:])) == 11
    assert rates[14] == pytest.approx(0.5 * (0.02 + 0.98 / 2))  # halfway down the cosine
    assert rates[-1] == pytest.approx(0.5 * 0.02)


@pytest.mark.parametrize(("attention", "kept"), [(0.0, 20), (1.0, 10)])
def test_the_best_embedding_is_that_of_the_whole_objective(
    backbone: LlavaBackbone, attention: float, kept: int
) -> None:
    """A lower cross-entropy that costs more attention penalty than it gains is not better."""
    one, directions = optimizer(backbone, steps=40, regularizer=0.5), []
    for step in range(20):
        one.advance(torch.ones_like(one.direction), (1.0, 0.0) if step < 10 else (0.9, attention))
        directions.append(one.direction.detach().clone())
    assert not torch.equal(directions[9], directions[19])
    assert torch.equal(one.result(interrupted=True).directions, directions[kept - 1])


@pytest.mark.parametrize("part", ["cross_entropy", "attention", "gradient"])
def test_the_first_step_that_is_not_finite_ends_learning_and_says_what_was_not(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    steps, plain = [0], type(backbone).tail_loss

    def third_is_not(self: Any, *given: Any) -> Any:
        steps[0] += 1
        loss = plain(self, *given)
        if steps[0] != 3:
            return loss
        if part == "gradient":  # of a square root at zero
            total = loss.cross_entropy + (loss.attention - loss.attention.detach()).sqrt()
            return dataclasses.replace(loss, cross_entropy=total)
        return dataclasses.replace(loss, **{part: getattr(loss, part) * torch.nan})

    monkeypatch.setattr(type(backbone), "tail_loss", third_is_not)
    said = {"cross_entropy": "cross-entropy nan", "attention": "attention nan", "gradient": "norm (nan|inf)"}
    with pytest.raises(
        BackboneError, match=rf"(?s)learning step 3 is not finite.*{said[part]}.*bfloat16 or float32"
    ):
        learn_embedding(backbone, examples(), LearnSettings(steps=9, views=1))
    assert steps == [3]
