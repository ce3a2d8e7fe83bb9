"""What learning makes smaller, of a language model's logits and recorded attention (§3.3 of the paper)."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import Loss, SampleLosses
from myvlm.backbones.tokens import IGNORED


def objective(logits: Tensor, targets: Tensor, given: Tensor, queries: Tensor, keys: Tensor) -> Loss:
    """Cross-entropy of logits `B × N × V` against the `B × N` tokens that follow, and the penalty.

    This is `Σ_layers mean(p²)` over heads, queries and keys, the mean over the samples that have any.

    Args:
        given: `layers × B × H × Q × K` probabilities, zero at a -1.
        queries: `B × Q`; -1 is none.
        keys: `B × K`; -1 is none.
    """
    targets = targets.to(logits.device)
    # Once for the batch and for its samples: it is as wide as the vocabulary.
    likely = logits.flatten(0, 1).float().log_softmax(-1)
    of_tokens = partial(functional.nll_loss, likely, targets.flatten(), ignore_index=IGNORED)
    pairs = ((queries >= 0).sum(1) * (keys >= 0).sum(1)).to(logits.device)
    attention = given.pow(2).mean(2).sum((0, 2, 3)).to(logits.device) / pairs.clamp(min=1)

    def by_sample() -> SampleLosses:
        return SampleLosses(of_tokens(reduction="none").view_as(targets), targets, attention)

    return Loss(of_tokens(), attention.sum() / (pairs > 0).sum().clamp(min=1), by_sample)
