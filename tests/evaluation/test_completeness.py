"""Completeness: the drawn sample, the count, and how often the interval contains the truth."""

from __future__ import annotations

import numpy as np
import pytest

from myvlm.errors import InputError
from myvlm.evaluation.completeness import STRATA, AlbumSample, completeness, draw_sample
from myvlm.heads import HeadScore


def _score(probability: float) -> HeadScore:
    return HeadScore(probability, probability >= 0.5, None, abs(probability - 0.5) < 0.25)


def test_parts_are_what_the_head_says_and_more_is_drawn_of_what_is_large_and_doubtful() -> None:
    scores = [_score(0.95)] * 50 + [_score(0.5)] * 40 + [_score(0.01)] * 2000
    sample = draw_sample(scores, labels=100)
    assert sample.sizes == (50, 40, 2000)
    counts = np.bincount(list(sample.drawn.values()))
    assert counts.sum() == 100
    assert counts.min() == 10
    assert counts[2] > counts[1] > counts[0] - 1
    assert all(STRATA[part] == ("seen", "unsure", "not seen")[part] for part in sample.drawn.values())
    assert all((photo >= 90) == (part == 2) for photo, part in sample.drawn.items())


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    scores = [_score(0.95)] * 50 + [_score(0.01)] * 500
    first, again, other = (draw_sample(scores, labels=40, seed=seed) for seed in (1, 1, 2))
    assert list(first.drawn.items()) == list(again.drawn.items())
    assert set(first.drawn) != set(other.drawn)


def test_an_album_that_was_looked_through_is_known() -> None:
    sample = draw_sample([_score(0.9)] * 6 + [_score(0.1)] * 8, labels=100)
    assert len(sample.drawn) == 14
    found = completeness(sample, {photo: photo < 5 or photo == 9 for photo in sample.drawn})
    assert (found.found, found.total, found.low, found.high) == (5, 6, 6, 6)
    assert found.recall == pytest.approx(5 / 6)
    assert str(found) == "5 of about 6 photos, 95 % interval 6 to 6"
    assert found.of("Bo") == "5 of about 6 photos of Bo, 95 % interval 6 to 6"


def test_more_labels_narrow_the_interval_and_half_of_them_are_a_sample_too() -> None:
    rng = np.random.default_rng(0)
    truths = rng.random(3000) < 0.1
    scores = [_score(0.9 if truth else 0.02) for truth in truths]
    few, many = (draw_sample(scores, labels=labels) for labels in (60, 400))
    widths = []
    for sample in (few, many):
        found = completeness(sample, {photo: bool(truths[photo]) for photo in sample.drawn})
        assert found.low <= truths.sum() <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3
    half = dict.fromkeys(list(many.drawn)[:200], False)
    labels = {photo: bool(truths[photo]) for photo in half}
    found = completeness(many, labels)
    assert found.labelled == 200
    assert found.low <= truths.sum() <= found.high


def test_labels_that_are_not_of_the_sample_are_refused() -> None:
    sample = AlbumSample((5, 0, 5), {0: 0, 7: 2})
    with pytest.raises(InputError, match=r"photo 3, which was not drawn"):
        completeness(sample, {0: True, 3: True})
    with pytest.raises(InputError, match=r"no labels for the photos where it is not seen"):
        completeness(sample, {0: True})
    for scores, labels in (([], 10), ([_score(0.5)], 0)):
        with pytest.raises(InputError, match="No sample can be drawn"):
            draw_sample(scores, labels=labels)


def test_nothing_of_it_anywhere() -> None:
    sample = draw_sample([_score(0.1)] * 300, labels=60)
    found = completeness(sample, dict.fromkeys(sample.drawn, False))
    assert (found.found, found.total, found.low, found.recall) == (0, 0, 0, 1.0)
    assert 1 <= found.high < 30


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_95_of_100_albums() -> None:
    from correcting import coverage

    found = coverage(2000, seed=0)
    assert 0.93 <= found["completeness_coverage"] <= 0.97  # type: ignore[operator]
