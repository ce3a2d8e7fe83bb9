"""One concept's optimiser: how its learning rate falls, and by what the best embedding is kept."""

from __future__ import annotations

import pytest
import torch

from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.learning import LearnSettings
from myvlm.learning.concept_optimizer import ConceptOptimizer, LearnRequest
from tests.support.teaching import examples


def optimizer(backbone: LlavaBackbone, **settings: object) -> ConceptOptimizer:
    return ConceptOptimizer(backbone, LearnRequest(examples(), LearnSettings(views=1, **settings)))


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
    assert rates[14] == pytest.approx(0.5 * (0.02 + 0.98 / 2))  # half-way down the cosine
    assert rates[-1] == pytest.approx(0.5 * 0.02)


@pytest.mark.parametrize(("attention", "kept"), [(0.0, 20), (1.0, 10)])
def test_the_best_embedding_is_that_of_the_whole_objective(
    backbone: LlavaBackbone, attention: float, kept: int
) -> None:
    """A lower cross-entropy that costs more attention than it gains is no better."""
    one, directions = optimizer(backbone, steps=40, regularizer=0.5), []
    for step in range(20):
        one.advance(torch.ones_like(one.direction), (1.0, 0.0) if step < 10 else (0.9, attention))
        directions.append(one.direction.detach().clone())
    assert not torch.equal(directions[9], directions[19])
    assert torch.equal(one.learned(interrupted=True).directions, directions[kept - 1])
