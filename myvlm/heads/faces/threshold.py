"""How near is near enough, where many people are known?

A threshold is published for one pair of faces. With a hundred people enrolled a stranger's face is held
against some four hundred, and what goes wrong for one pair in three hundred goes wrong for most strangers.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from myvlm.heads.faces.facenet import FaceEncoder

STRANGERS = 0.05
"""The part of strangers' faces that may be taken for somebody in a library as large as was foreseen."""


def limit_for(encoder: FaceEncoder, keys: int) -> tuple[float, str]:
    """The distance up to which a face is somebody's, where a stranger is held against so many keys.

    The published threshold of one pair is the most it can be. It is tightened where the encoder says how
    often that threshold errs (`threshold_error`), which it should say of descriptors of length 1 only.

    Returns:
        The distance, and its source in a sentence.

    >>> from myvlm.heads.faces.facenet import get_face_encoder
    >>> [round(limit_for(get_face_encoder(), keys)[0], 2) for keys in (1, 400)]
    [1.04, 0.92]
    """
    published, source = encoder.threshold, encoder.threshold_source
    error: float | None = getattr(encoder, "threshold_error", None)
    limit = published if error is None else min(published, _quantile(published, error, STRANGERS, keys))
    if limit == published:
        return published, source
    return limit, (
        f"a stranger is taken for one of {keys} keys in {STRANGERS:g} of cases, if distances are "
        f"spread as {error:g} of pairs below {published:g} say (chi distribution about √2); {source}"
    )


@cache
def _quantile(threshold: float, error: float, rate: float, keys: int) -> float:
    """The distance that `rate` of strangers are nearer than to any of the keys.

    Distances of normal points in k dimensions follow a chi distribution; k is such that `error` of pairs of
    strangers, √2 apart on average, are nearer than the threshold.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi

    def beyond(k: float) -> float:
        return float(chi.ppf(error, k) * np.sqrt(2 / k) - threshold)

    k = brentq(beyond, 2, 5000)
    return float(chi.ppf(-np.expm1(np.log1p(-rate) / keys), k) * np.sqrt(2 / k))
