"""A mean with its 95 % interval, where values come by subject and by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure: its mean, its 95 % interval, and how many values it is from.

    >>> str(Estimate(0.9375, 0.9, 0.97, 15))
    '0.938 [0.900, 0.970]'
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.low == self.high:
            return _short(self.mean)
        return f"{_short(self.mean)} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def estimate(values: Mapping[str, Sequence[float]], *, seed: int = 0) -> Estimate:
    """The mean over subjects of their means over splits, with a two-stage bootstrap interval.

    Splits of one subject share its photos and are not independent: so subjects are drawn with replacement,
    and of each drawn subject its splits; the interval holds the middle 95 % of 2,000 such means. It is the
    mean itself where there is but one value.

    Args:
        values: subject → one value a split; neither is empty.
        seed: of the resampling.

    >>> estimate({"mug": [1.0, 1.0], "dog": [0.5, 0.5]})
    Estimate(mean=0.75, low=0.5, high=1.0, count=4)
    """
    groups = [np.asarray(own, dtype=float) for own in values.values()]
    mean = float(np.mean([group.mean() for group in groups]))
    random = np.random.default_rng(seed)
    drawn = random.integers(len(groups), size=(RESAMPLES, len(groups)))
    means = np.empty(drawn.shape)
    for number, group in enumerate(groups):
        here = np.nonzero(drawn == number)
        picks = random.integers(len(group), size=(len(here[0]), len(group)))
        means[here] = group[picks].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return Estimate(mean, float(low), float(high), sum(map(len, groups)))
