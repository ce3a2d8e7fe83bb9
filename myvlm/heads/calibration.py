"""From raw scores to a threshold and a probability, by photos that were left out.

The threshold answers "how often may it cry wolf"; the probability is Platt's logistic scaling
(Platt 1999, with his soft targets), tied to 0.5 at the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.heads.detections import sigmoid

BETWEEN = 1 / 3
"""Where the threshold goes in a gap between negatives and positives: nearer the many negatives, whose end is
known, than the few left-out photos, whose spread is not."""
# How the next were chosen, on tinyworld alone: benchmarks/RESULTS.md, "How the heads' constants were chosen".
BETWEEN_WHITENED = {1: 0.6, 2: 0.8}
"""The same for whitened features, by the number of photos, between the negatives and the *median* photo: one
photo's own views are nearer to it than the next photo will be."""
BETWEEN_WHITENED_MANY = 0.83
"""The same for three photos and more."""

NEGATIVES_SHIFT = 0.3
"""How far given negatives move the threshold, times how far their nearness is from `NEUTRAL_NEARNESS`."""
NEUTRAL_NEARNESS = 0.7
"""Of the three nearest negatives, on the way from everyday pictures (0) to the median photo (1): nearer ones
push the threshold up, farther ones let it down."""
NEGATIVES_FOR_FULL_SHIFT = 8
"""Negatives, harder than everyday pictures, from which on it moves in full: one says little."""

WHITENED_SLOPE = 35.0
"""The slope of whitened features, times that way: the few left-out scores of one head cannot tell it."""

ENOUGH = 20
"""Fewer negatives than this say nothing of a rate; if they overlap with the positives, both err alike."""


TAIL = 0.2
"""The part of pictures without the concept whose scores are the tail; a tenth gives the same scale."""
DOUBT = 20
"""Scores of a library's own photos that weigh as much as what was expected without any. How it was chosen:
benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Tail:
    """How high pictures without the concept score: as a normal distribution of that mean and deviation.

    It is fitted to the highest of them, and holds for these alone: far out an exponential tail expects many
    times as many, which real photos do not show. A scale of 0: nothing is known.
    """

    location: float = 0.0
    scale: float = 0.0

    def raised(self, times: float) -> Tail:
        """Of the highest of so many times as many windows, where it is reached once in a hundred pictures.

        >>> round(Tail(0.0, 1.0).raised(2.0).location, 2)
        0.26
        """
        from scipy.special import ndtri

        hundredth = float(ndtri(0.01))
        rise = 0.01 / _normal_density(hundredth) * float(np.log(times))
        return Tail(self.location + self.scale * rise, self.scale)


@dataclass(frozen=True)
class Calibration:
    """`probability = 1 / (1 + exp(−slope · (score − threshold)))`; present from the threshold on.

    `ceiling` is what pictures without the concept reach, but for the false alarm rate; `tail` says how often
    they reach what lies above. `typical` is the score of a left-out photo, where that says how another photo
    will score; else 0. `sure` is the score that other things of the same category hardly reach, where that is
    above the threshold; else 0.
    """

    threshold: float
    slope: float
    ceiling: float = 0.0
    tail: Tail = Tail()
    typical: float = 0.0
    sure: float = 0.0

    def probability(self, scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Raw scores of any shape → probabilities of that shape.

        >>> Calibration(threshold=2.0, slope=1.0).probability(np.array([2.0])).tolist()
        [0.5]
        """
        return sigmoid(self.slope * (np.asarray(scores, dtype=np.float64) - self.threshold))


def calibrate(
    positives: npt.NDArray[Any],
    negatives: npt.NDArray[Any],
    false_alarm_rate: float,
    between: float = BETWEEN,
    anchor: float | None = None,
) -> Calibration:
    """Threshold and slope from left-out scores, one a picture.

    Args:
        positives: P scores of left-out photos that hold the concept.
        negatives: N scores of left-out pictures that do not.
        false_alarm_rate: the part of pictures without the concept that may be called present.
        between: where the threshold goes in a gap between the two, from 0 (at the negatives) to 1.
        anchor: the score that stands for the photos in this; the lowest of them if None.

    >>> found = calibrate(np.array([4.0, 5.0]), np.array([-2.0, -1.0, 1.0]), 0.01)
    >>> round(found.threshold, 3)
    2.0
    """
    ceiling = float(np.quantile(negatives, 1 - false_alarm_rate, method="higher"))
    lowest = float(np.min(positives)) if anchor is None else anchor
    # nextafter: "present" is ≥ threshold, and the negative that sits on the quantile must stay below it
    above = float(np.nextafter(np.float32(ceiling), np.float32(np.inf)))
    if above >= lowest and len(negatives) < ENOUGH:
        threshold = float(np.median(positives) + np.median(negatives)) / 2
    else:
        threshold = above + between * max(lowest - above, 0.0)
    return Calibration(threshold, _slope(positives - threshold, negatives - threshold), ceiling)


def calibrate_whitened(
    positives: npt.NDArray[Any],
    everyday: npt.NDArray[Any],
    given: npt.NDArray[Any],
    false_alarm_rate: float,
    photos: int,
) -> Calibration:
    """The same for whitened features, whose spread is known beforehand: only the place is learned.

    Args:
        positives: P scores of left-out photos; their median is one end of the way.
        everyday: N ≥ 1 scores of left-out pictures of the bank; their ceiling is the other.
        given: scores of left-out negatives that the user gave, or none.
        false_alarm_rate: the part of everyday pictures that may be called present.
        photos: how many there are; see `BETWEEN_WHITENED`.

    >>> photo, everyday, nothing = np.array([1.0, 1.0]), np.array([0.0] * 99), np.array([])
    >>> round(calibrate_whitened(photo, everyday, nothing, 0.01, 4).threshold, 3)
    0.83
    >>> round(calibrate_whitened(photo, everyday, np.full(20, 0.33), 0.01, 4).threshold, 3)
    0.719
    """
    place = BETWEEN_WHITENED.get(photos, BETWEEN_WHITENED_MANY)
    anchor = float(np.median(positives))
    found = calibrate(positives, everyday, false_alarm_rate, place, anchor)
    way = anchor - found.ceiling
    if way <= 0:
        return found  # the bank shows the thing, or the photos do not agree: nothing is known of its scale
    threshold = found.threshold
    nearness = (given - found.ceiling) / way
    if hard := int((nearness > 0).sum()):
        top = float(np.clip(np.sort(nearness)[-3:].mean(), 0.0, 1.0))
        threshold += (
            min(hard / NEGATIVES_FOR_FULL_SHIFT, 1.0) * NEGATIVES_SHIFT * (top - NEUTRAL_NEARNESS) * way
        )
    return Calibration(threshold, WHITENED_SLOPE / way, found.ceiling)


def fit_tail(scores: npt.NDArray[Any]) -> Tail:
    """From one score a picture without the concept; nothing is known from fewer than twenty.

    >>> found = fit_tail(np.random.default_rng(0).normal(5.0, 2.0, 10_000))
    >>> round(found.location, 1), round(found.scale, 1)
    (5.1, 1.9)
    """
    from scipy.special import ndtri

    if len(scores) < ENOUGH:
        return Tail()
    start = float(np.quantile(scores, 1 - TAIL))
    scale = float(np.mean(scores[scores >= start] - start)) / _excess()
    return Tail(start + scale * float(ndtri(TAIL)), scale)


def fit_tail_by_quantiles(scores: npt.NDArray[Any], above: float = TAIL) -> Tail:
    """The same by two quantiles, which a few twins among the pictures do not move.

    Args:
        above: the part of the scores above the lower one; above the upper one are 0.05.

    >>> found = fit_tail_by_quantiles(np.random.default_rng(0).normal(5.0, 2.0, 10_000))
    >>> round(found.location), round(found.scale)
    (5, 2)
    """
    from scipy.special import ndtri

    start, end = np.quantile(scores, [1 - above, 0.95])
    scale = float(end - start) / float(ndtri(above) - ndtri(0.05))
    return Tail(float(start) + scale * float(ndtri(above)), scale)


def tail_in_a_library(met: npt.NDArray[Any]) -> Tail:
    """What becomes of all tails of a library, in which the standard normal distribution stays as it is.

    Args:
        met: K scores of the library's heads on photos of its other concepts, in deviations of each head's own
            tail from its location. Of few the tails are moved little, of none they stay.

    >>> tail_in_a_library(np.array([]))
    Tail(location=0.0, scale=1.0)
    >>> met = np.random.default_rng(0).normal(1.0, 0.5, 180)  # 20 are nine times as few
    >>> found = tail_in_a_library(met)
    >>> round(found.location, 1), round(found.scale, 1)
    (0.9, 0.5)
    """
    if not len(met):
        return Tail(0.0, 1.0)
    found, sure = fit_tail_by_quantiles(met, above=0.5), len(met) / (len(met) + DOUBT)
    return Tail(sure * found.location, 1 - sure + sure * found.scale)


def _excess() -> float:
    """How far the highest of a standard normal distribution, those of `TAIL`, are above where they begin."""
    from scipy.special import ndtri

    start = -float(ndtri(TAIL))
    return _normal_density(start) / TAIL - start


def _normal_density(deviations: float) -> float:
    return float(np.exp(-(deviations**2) / 2) / np.sqrt(2 * np.pi))


def _slope(positives: npt.NDArray[Any], negatives: npt.NDArray[Any]) -> float:
    """The slope of least cross-entropy with both classes weighted alike; a search along one line."""
    scale = max(float(np.median(np.abs(np.concatenate([positives, negatives])))), 1e-6)
    slopes = np.geomspace(0.05, 50.0, 400) / scale
    high = (len(positives) + 1) / (len(positives) + 2)
    low = 1 / (len(negatives) + 2)
    loss = _cross_entropy(np.outer(slopes, positives), high) + _cross_entropy(
        np.outer(slopes, negatives), low
    )
    return float(slopes[int(loss.argmin())])


def _cross_entropy(logits: npt.NDArray[Any], target: float) -> npt.NDArray[np.float64]:
    each = np.logaddexp(0.0, logits) - target * logits
    return np.asarray(each.mean(axis=1), dtype=np.float64)
