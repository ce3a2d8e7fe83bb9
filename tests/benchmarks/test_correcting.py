"""`benchmarks/correcting.py`: how it counts corrections, and the albums it makes."""

from __future__ import annotations

import numpy as np
import pytest
from correcting import Tally, album, correct_in_turn, coverage, real_photos

from myvlm.heads import ObjectHead
from myvlm.heads.encoders import register_encoder
from myvlm.images import load_images
from tests.support.fake_encoder import ColourEncoder, scenes

ENCODER = ColourEncoder("fake/correcting-benchmark")
register_encoder(ENCODER.id, lambda device: ENCODER)
LOOK_ALIKE = (255, 60, 60)


def test_corrections_are_counted_by_heads_that_cried_wolf() -> None:
    own, alike = load_images(scenes(50, 6)), load_images(scenes(500, 40, LOOK_ALIKE))
    tally = Tally()
    for seed in (0, 20, 40, 60):
        taught = load_images(scenes(seed, 1))
        head = ObjectHead(ENCODER.id).fit(taught)
        head.threshold_ -= 0.1  # causes false alarms
        assert head.examples_ is not None
        head.examples_.meta.threshold = head.threshold_
        correct_in_turn(tally, head, taught, own, alike[:20], alike[20:])
    figures = tally.figures("x")
    assert figures["x_corrections"] == len(tally.seconds) >= 1
    assert figures["x_taught_photos_lost"] == 0
    assert figures["x_held"] == 1
    before, after = figures["x_false_alarms_0"], figures["x_false_alarms_5"]
    assert before is not None
    assert after is not None
    assert after <= before
    passing = figures["x_pass_5"]
    assert passing is not None
    assert 0 < passing <= after / before + 1e-3, "of those that passed before; others may pass since"
    quiet, nothing, taught = Tally(), load_images(scenes(700, 2, None)), load_images(scenes(0, 1))
    correct_in_turn(quiet, ObjectHead(ENCODER.id).fit(taught), taught, own, nothing, nothing)
    assert quiet.figures("x")["x_recall_kept"] is None
    assert quiet.figures("x")["x_recall_kept_of_all_heads"] == 1


def test_what_cannot_be_measured_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MYVLM_PHOTOS", raising=False)
    figures = real_photos(2)
    assert len(figures) > 20
    assert set(figures.values()) <= {None, 0.0}


def test_albums_are_of_many_kinds_and_a_few_of_them_are_quick() -> None:
    rng = np.random.default_rng(0)
    albums = [album(rng) for _ in range(30)]
    sizes, shares = [len(truths) for truths, _ in albums], [truths.mean() for truths, _ in albums]
    assert min(sizes) < 500 < 2000 < max(sizes)
    assert min(shares) < 0.1 < 0.3 < max(shares)
    found = coverage(30)
    assert found["completeness_coverage"] is not None
    assert 0.8 <= found["completeness_coverage"] <= 1
