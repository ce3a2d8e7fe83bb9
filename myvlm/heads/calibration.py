"""Calibration of heads: a threshold and a probability for raw scores, from photos that were left out.

The threshold is set for a false-alarm rate. The probability is Platt's logistic scaling (Platt 1999, with his
soft targets), fixed to 0.5 at the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.heads.detections import sigmoid

BETWEEN = 1 / 3
"""Position of the threshold in a gap between negatives (0) and positives (1). It is nearer to the negatives:
they are many, so their maximum is well known; the left-out photos are few, and their spread is not known."""
# How the next were chosen, on tinyworld alone: benchmarks/RESULTS.md, "How the heads' constants were chosen".
BETWEEN_WHITENED = {1: 0.6, 2: 0.8}
"""Position of the threshold for whitened features, by the number of photos, between the negatives (0) and
the *median* photo (1). It is lower for one photo, whose own views score higher than another photo will."""
BETWEEN_WHITENED_MANY = 0.83
"""Position of the threshold for whitened features and three or more photos."""

NEGATIVES_SHIFT = 0.3
"""Weight with which given negatives move the threshold: it is multiplied by their nearness minus
`NEUTRAL_NEARNESS`, and by the distance from everyday pictures to the median photo."""
NEUTRAL_NEARNESS = 0.7
"""Nearness at which given negatives leave the threshold as it is; nearer ones raise it, others lower it.
Nearness is the mean position of the three nearest, from everyday pictures (0) to the median photo (1)."""
NEGATIVES_FOR_FULL_SHIFT = 8
"""Number of given negatives, harder than everyday pictures, from which the shift is applied in full. With
fewer it is reduced in proportion, because a single negative is weak evidence."""

WHITENED_SLOPE = 35.0
"""Slope for whitened features, times the distance from everyday pictures to the median photo. It is fixed,
because a head has too few left-out scores to estimate it."""

MIN_SCORES_FOR_RATE = 20
"""Fewest scores from which a rate can be estimated. With fewer negatives that overlap with the positives, the
threshold is midway between the two medians."""


TAIL = 0.2
"""Fraction of the pictures without the concept to which the tail is fitted: the highest-scoring ones. A tenth
gives the same scale."""
DOUBT = 20
"""Weight of the tail expected without any measurement, as a number of scores measured in the library. How it
was chosen: benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Tail:
    """Upper tail of the scores of pictures without the concept, as that of a normal distribution.

    It is fitted to the highest scores and is valid only for these. An exponential tail predicts many times
    more scores far out than real photos have.

    Attributes:
        location: mean of the normal distribution.
        scale: its standard deviation; 0 where the tail is not known.
    """

    location: float = 0.0
    scale: float = 0.0

    def raised(self, times: float) -> Tail:
        """Return the tail for pictures that have `times` as many windows, each scored by its best one.

        The tail is shifted so that it is right at the score that one picture in a hundred reaches.

        >>> round(Tail(0.0, 1.0).raised(2.0).location, 2)
        0.26
        """
        from scipy.special import ndtri

        hundredth = float(ndtri(0.01))
        rise = 0.01 / _normal_density(hundredth) * float(np.log(times))
        return Tail(self.location + self.scale * rise, self.scale)


@dataclass(frozen=True)
class Calibration:
    """Calibration of a raw score: `probability = 1 / (1 + exp(−slope · (score − threshold)))`.

    Attributes:
        threshold: raw score from which the concept counts as present.
        slope: slope of the log-odds over the raw score.
        ceiling: score that pictures without the concept exceed only at the false-alarm rate.
        tail: how often pictures without the concept reach scores above that.
        typical: median score of the left-out photos, where it predicts how another photo will score; else 0.
        sure: score that other objects of the same category rarely reach, where it is above the threshold;
            else 0.
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
    """Set threshold and slope from left-out scores, one per picture.

    Args:
        positives: P scores of left-out photos that show the concept.
        negatives: N scores of left-out pictures that do not.
        false_alarm_rate: fraction of pictures without the concept that may be called present.
        between: position of the threshold in a gap between negatives (0) and positives (1).
        anchor: score that represents the positives in this; the lowest positive if None.

    >>> found = calibrate(np.array([4.0, 5.0]), np.array([-2.0, -1.0, 1.0]), 0.01)
    >>> round(found.threshold, 3)
    2.0
    """
    ceiling = float(np.quantile(negatives, 1 - false_alarm_rate, method="higher"))
    lowest = float(np.min(positives)) if anchor is None else anchor
    # nextafter: "present" is ≥ threshold, and the negative that sits on the quantile must stay below it
    above = float(np.nextafter(np.float32(ceiling), np.float32(np.inf)))
    if above >= lowest and len(negatives) < MIN_SCORES_FOR_RATE:
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
    """Set threshold and slope for whitened features; their spread is known, so the slope is not fitted.

    The threshold is placed between the everyday pictures and the median photo, then moved by given negatives.

    Args:
        positives: P scores of left-out photos.
        everyday: N ≥ 1 scores of left-out pictures of the bank.
        given: scores of left-out negatives that the user gave; may be empty.
        false_alarm_rate: fraction of everyday pictures that may be called present.
        photos: number of training photos; see `BETWEEN_WHITENED`.

    >>> photo, everyday, nothing = np.array([1.0, 1.0]), np.array([0.0] * 99), np.array([])
    >>> round(calibrate_whitened(photo, everyday, nothing, 0.01, 4).threshold, 3)
    0.83
    >>> round(calibrate_whitened(photo, everyday, np.full(20, 0.33), 0.01, 4).threshold, 3)
    0.719
    """
    place = BETWEEN_WHITENED.get(photos, BETWEEN_WHITENED_MANY)
    anchor = float(np.median(positives))
    found = calibrate(positives, everyday, false_alarm_rate, place, anchor)
    span = anchor - found.ceiling
    if span <= 0:
        return found  # the bank shows the object, or the photos do not agree: the scale is not known
    threshold = found.threshold
    nearness = (given - found.ceiling) / span
    if hard := int((nearness > 0).sum()):
        top = float(np.clip(np.sort(nearness)[-3:].mean(), 0.0, 1.0))
        threshold += (
            min(hard / NEGATIVES_FOR_FULL_SHIFT, 1.0) * NEGATIVES_SHIFT * (top - NEUTRAL_NEARNESS) * span
        )
    return Calibration(threshold, WHITENED_SLOPE / span, found.ceiling)


def fit_tail(scores: npt.NDArray[Any]) -> Tail:
    """Fit the tail to scores of pictures without the concept, one per picture; unknown if fewer than 20.

    >>> found = fit_tail(np.random.default_rng(0).normal(5.0, 2.0, 10_000))
    >>> round(found.location, 1), round(found.scale, 1)
    (5.1, 1.9)
    """
    from scipy.special import ndtri

    if len(scores) < MIN_SCORES_FOR_RATE:
        return Tail()
    start = float(np.quantile(scores, 1 - TAIL))
    scale = float(np.mean(scores[scores >= start] - start)) / _mean_excess()
    return Tail(start + scale * float(ndtri(TAIL)), scale)


def fit_tail_by_quantiles(scores: npt.NDArray[Any], above: float = TAIL) -> Tail:
    """Fit the tail to two quantiles of the scores, which a few look-alikes among the pictures do not move.

    Args:
        scores: one per picture without the concept.
        above: fraction of the scores above the lower quantile; above the upper one it is 0.05.

    >>> found = fit_tail_by_quantiles(np.random.default_rng(0).normal(5.0, 2.0, 10_000))
    >>> round(found.location), round(found.scale)
    (5, 2)
    """
    from scipy.special import ndtri

    start, end = np.quantile(scores, [1 - above, 0.95])
    scale = float(end - start) / float(ndtri(above) - ndtri(0.05))
    return Tail(float(start) + scale * float(ndtri(above)), scale)


def tail_in_a_library(met: npt.NDArray[Any]) -> Tail:
    """Estimate how the tails of all heads of a library have to be moved and scaled.

    Args:
        met: K scores of the library's heads on photos of its other concepts, each standardized by the
            location and scale of the head's own tail. Few scores move the tails little.

    Returns:
        Shift and factor, both in units of a head's own scale; `Tail(0, 1)` leaves the tails unchanged.

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


def _mean_excess() -> float:
    """Mean excess of a standard normal variable over its upper `TAIL` quantile, given that it exceeds it."""
    from scipy.special import ndtri

    start = -float(ndtri(TAIL))
    return _normal_density(start) / TAIL - start


def _normal_density(deviations: float) -> float:
    return float(np.exp(-(deviations**2) / 2) / np.sqrt(2 * np.pi))


def _slope(positives: npt.NDArray[Any], negatives: npt.NDArray[Any]) -> float:
    """Find the slope of least cross-entropy, with both classes weighted equally, by a search over a grid."""
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
