"""Views of a photo: random by seed, and their sizes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from myvlm.learning import dataset, make_views
from myvlm.learning.dataset import held_out_view

PHOTO = Image.effect_noise((40, 30), 60).convert("RGB")


def test_views_begin_with_the_photo_and_repeat_by_seed() -> None:
    first, again, other = (make_views(PHOTO, 5, augment=True, seed=s) for s in (1, 1, 2))
    arrays = [np.stack([np.asarray(v) for v in views]) for views in (first, again, other)]
    assert arrays[0].shape == (5, 30, 40, 3)
    assert np.array_equal(arrays[0][0], np.asarray(PHOTO))
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])
    assert len({view.tobytes() for view in first}) == 5
    assert len(make_views(PHOTO, 5, augment=False, seed=1)) == 1


def test_views_are_turned_to_both_sides() -> None:
    """How much lower the edge between a white and a black half is on the right than on the left."""
    edge = Image.new("L", (60, 60), "white")
    edge.paste("black", (0, 30, 60, 60))
    pixels = [
        np.asarray(view.convert("L")) > 100
        for view in make_views(edge.convert("RGB"), 20, augment=True, seed=1)
    ]
    tilts = [int(view[:, -5].sum()) - int(view[:, 5].sum()) for view in pixels]
    assert tilts[0] == 0
    assert sum(tilt > 0 for tilt in tilts) >= 4
    assert sum(tilt < 0 for tilt in tilts) >= 4


def test_views_of_a_large_photo_are_small_and_those_of_a_small_one_as_ever(monkeypatch) -> None:
    large = Image.effect_noise((400, 300), 60).convert("RGB")
    monkeypatch.setattr(dataset, "LONG_SIDE", 40)
    first, *others = make_views(large, 3, augment=True, seed=1)
    assert first is large
    assert [view.size for view in others] == [(40, 30)] * 2
    assert held_out_view(large, 3, augment=True, seed=1).size == (40, 30)
    assert held_out_view(large, 3, augment=False, seed=1) is large
    shrunk = [view.tobytes() for view in make_views(PHOTO, 4, augment=True, seed=1)]
    monkeypatch.setattr(dataset, "LONG_SIDE", 4000)
    assert shrunk == [view.tobytes() for view in make_views(PHOTO, 4, augment=True, seed=1)]
    assert shrunk[-1] == held_out_view(PHOTO, 3, augment=True, seed=1).tobytes()
