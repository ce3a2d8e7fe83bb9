"""Means with 95 % intervals of values that are grouped by subject and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of values.

    >>> str(Estimate(0.9375, 0.9, 0.97, 15))
    '0.938 [0.900, 0.970]'
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.low == self.high:
            return _format(self.mean)
        return f"{_format(self.mean)} [{_format(self.low)}, {_format(self.high)}]"


def _format(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def estimate(values: Mapping[str, Sequence[float]], *, seed: int = 0) -> Estimate:
    """The mean over subjects of their means over splits, with a two-stage bootstrap interval.

    Splits of one subject share photos and are not independent. So subjects are resampled with replacement,
    and then the splits of each drawn subject; the interval is the central 95 % of 2,000 such means. For a
    single value it has width 0.

    Args:
        values: subject → one value per split; neither may be empty.
        seed: random seed of the resampling.

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
