"""Present, absent or unsure: what a probability near the threshold is worth."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Verdict: TypeAlias = Literal["present", "unsure", "absent"]

UNSURE = 0.25
"""Probabilities nearer to 0.5 than this are unsure: from 0.25 to 0.75, where one answer in four or more would
be wrong. It is stored with each head, in its calibration; heads of files that lack it are never unsure."""


def verdict_of(present: bool, unsure: bool) -> Verdict:
    """The one word for both.

    >>> verdict_of(True, False), verdict_of(True, True)
    ('present', 'unsure')
    """
    return "unsure" if unsure else "present" if present else "absent"


def within(probabilities: npt.NDArray[Any], margin: float | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which probabilities lie less than the margin from 0.5; none do where it is 0.

    >>> within(np.array([0.3, 0.75, 0.5]), UNSURE).tolist()
    [True, False, True]
    """
    return np.asarray(np.abs(probabilities - 0.5) < margin)
