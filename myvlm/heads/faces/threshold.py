"""Distance thresholds for faces, by the number of people in the library.

A published threshold is for one pair of faces. With thirty people of four photos each, a stranger's face is
compared with 120 keys, and an error rate of one pair in two hundred becomes an error for most strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from myvlm.heads.faces.encoders import FaceEncoder

STRANGERS = 0.05
"""Fraction of strangers' faces that may be taken for anybody in the whole library."""

# Measured for dlib/resnet-v1 on public photographs; published values of other encoders are within a tenth.
MEAN_OVER_THRESHOLD = 1.34
"""Mean distance between two strangers over the published threshold: 1.33 for dlib, 1.36 for facenet."""
SPREAD_OVER_MEAN = 0.105
"""Standard deviation of that distance over its mean: 0.107 for dlib, 0.098 for facenet."""
SHARP_DETAIL, BLURRED_NEARER = 0.12, 0.08
"""A face with less detail than the first (`detail_of`; about 30 pixels across) is nearer to everybody, by up
to the second times the mean distance between strangers. How they were measured: benchmarks/RESULTS.md."""
KEYS_POWER = 0.5
"""A person's keys are near each other, so K of them cause as many errors as K to this power independent ones.
With dlib a stranger is within 0.523 of one of four keys in 0.001 of cases and within 0.569 in 0.01, as often
as with 1.4 and 2.5 independent keys."""


def limit_for(
    encoder: FaceEncoder, people: int, keys: int, strangers: float = STRANGERS
) -> tuple[float, str]:
    """Choose the distance up to which a face is recognized, for a library of so many people.

    The result is at most the encoder's published threshold. It is derived from the distribution of distances
    between strangers: the one measured for the encoder (its `strangers`); or the one that its error at the
    threshold implies (its `threshold_error`, for descriptors of length 1); or the typical one for its
    threshold.

    Args:
        encoder: the face encoder.
        people: number of people in the library.
        keys: number of keys per person.
        strangers: fraction of strangers' faces that may be taken for any of the people.

    Returns:
        The distance, and a sentence on its source.

    >>> from myvlm.heads.faces.registry import get_face_encoder
    >>> [round(limit_for(get_face_encoder(), people, 4)[0], 2) for people in (1, 100)]
    [1.04, 0.92]
    >>> [round(limit_for(get_face_encoder("dlib/resnet-v1"), people, 4)[0], 2) for people in (1, 30, 1000)]
    [0.6, 0.53, 0.45]
    """
    published, source = encoder.threshold, encoder.threshold_source
    error: float | None = getattr(encoder, "threshold_error", None)
    measured: tuple[float, float] | None = getattr(encoder, "strangers", None)
    if measured is None and error is not None:
        limit = _chi_quantile(published, error, strangers, people * keys)
        spread = f"so that {error:g} of pairs are below {published:g} (chi distribution about √2)"
    else:
        mean = MEAN_OVER_THRESHOLD * published
        mean, deviation = measured or (mean, SPREAD_OVER_MEAN * mean)
        limit = _normal_quantile(mean, deviation, strangers, people, keys)
        spread = f"about {mean:.3g} with a deviation of {deviation:.2g}" + (
            "" if measured else ", as for other encoders with its threshold"
        )
    if limit >= published:
        return published, source
    return limit, (
        f"a stranger matches one of {people * keys} keys in {strangers:g} of cases, if distances are "
        f"distributed {spread}; {source}"
    )


def nearer_by_blur(encoder: FaceEncoder, detail: Sequence[float]) -> npt.NDArray[np.float64]:
    """How much nearer each of F faces is to strangers because it is small or blurred; 0 for a sharp one.

    >>> from myvlm.heads.faces.registry import get_face_encoder
    >>> nearer_by_blur(get_face_encoder("dlib/resnet-v1"), [0.2, 0.06]).round(3).tolist()
    [0.0, 0.032]
    """
    lacking = np.maximum(1 - np.asarray(detail, dtype=np.float64) / SHARP_DETAIL, 0.0)
    return np.asarray(BLURRED_NEARER * MEAN_OVER_THRESHOLD * encoder.threshold * lacking)


@cache
def _normal_quantile(mean: float, deviation: float, rate: float, people: int, keys: int) -> float:
    """The distance to the nearest of all people that a fraction `rate` of strangers stays below.

    Distances between strangers are assumed to be normally distributed.
    """
    from scipy.stats import norm

    nearer = -np.expm1(np.log1p(-rate) / (people * keys**KEYS_POWER))
    return max(float(mean + deviation * norm.ppf(nearer)), 0.0)


@cache
def _chi_quantile(threshold: float, error: float, rate: float, keys: int) -> float:
    """The distance to the nearest of all keys that a fraction `rate` of strangers stays below.

    Distances between normally distributed points in k dimensions follow a chi distribution. k is chosen such
    that a fraction `error` of pairs of strangers, √2 apart on average, is nearer than the threshold.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi

    def beyond(k: float) -> float:
        return float(chi.ppf(error, k) * np.sqrt(2 / k) - threshold)

    k = brentq(beyond, 2, 5000)
    return float(chi.ppf(-np.expm1(np.log1p(-rate) / keys), k) * np.sqrt(2 / k))
