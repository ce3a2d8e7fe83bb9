"""Counting false names: which figure belongs to which library, and an interval over pictures."""

from __future__ import annotations

import false_names
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.special import ndtri

from myvlm.images import LoadedImage


def reached_by(share: float) -> npt.NDArray[np.float64]:
    return np.array(1.0 - 2.0 * ndtri(share))


def picture(number: int) -> LoadedImage:
    return LoadedImage(Image.new("RGB", (1, 1), (number // 256, number % 256, 0)), str(number))


def test_scores_drawn_as_the_tail_says_are_counted_as_stated() -> None:
    rng = np.random.default_rng(0)
    counted = false_names.Counted(200)
    for number in range(3000):
        scores = rng.normal(1.0, 2.0, 10)
        counted.add(picture(number), scores, reached_by, np.arange(10) > 0)
    ratio, low, high = counted.over_stated()
    assert ratio == pytest.approx(1.0, abs=0.12)
    assert low < 1.0 < high
    assert high - low < 0.3


def test_a_head_whose_thing_is_shown_does_not_count_and_pictures_are_what_is_drawn() -> None:
    counted = false_names.Counted(100)
    shown = np.array([False, True])
    for _ in range(5):  # the same picture in five libraries counts as one picture
        counted.add(picture(1), np.array([99.0, 0.0]), reached_by, shown)
        counted.add(picture(2), np.array([99.0, 99.0]), reached_by, shown)
    ratio, low, high = counted.over_stated()
    assert ratio == pytest.approx(10.0), "every second picture named, of 0.05 stated of the one head"
    assert (low, high) == pytest.approx((0.0, 20.0))
    other = false_names.Counted(100)
    other.add(picture(3), np.array([0.0, 0.0]), reached_by, np.array([True, True]))
    pooled, *_ = counted.with_(other).over_stated()
    assert pooled == pytest.approx(5 / 0.6), "five libraries' two pictures, and one of one library"
    figures = false_names.counted_figures({"siblings_100": counted})
    assert figures == {"siblings_100": 10.0, "siblings_100_low": 0.0, "siblings_100_high": 20.0}
