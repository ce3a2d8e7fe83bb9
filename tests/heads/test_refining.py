"""Refining: variations of the best window, encoded in one bounded pass, never lower the score."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from myvlm.heads.features import MAX_REFINED_WINDOWS, refine_boxes, variations
from myvlm.heads.objects.head import ObjectHead
from myvlm.images import load_images
from tests.support.fake_encoder import ColourEncoder, raw_scores


def scene(left: int, top: int, colour: str = "red", side: int = 22) -> Image.Image:
    picture = Image.new("RGB", (96, 96), (120, 130, 140))
    picture.paste(colour, (left, top, left + side, top + side))
    return picture


OTHERS = [scene(7 * i, 60 - 8 * i, colour) for i, colour in enumerate(["blue", "lime", "gold", "cyan"] * 2)]


@pytest.mark.parametrize("box", [(0.0, 0.0, 40.0, 40.0), (30.0, 10.0, 90.0, 50.0), (0.0, 0.0, 96.0, 60.0)])
def test_variations_lie_inside_the_picture_and_hold_the_window_itself(box) -> None:
    varied = variations(box, (96, 60))
    assert box in varied
    assert len(varied) == len(set(varied)) > 5
    edges = np.array(varied)
    assert (edges[:, :2] >= 0).all()
    assert (edges[:, 2] <= 96).all()
    assert (edges[:, 3] <= 60).all()
    assert (edges[:, 2:] > edges[:, :2]).all()


def test_looks_of_many_pictures_take_one_pass_and_are_remembered() -> None:
    encoder, pictures = ColourEncoder(), load_images([scene(10, 10), scene(50, 50)])
    boxes = [(0.0, 0.0, 48.0, 48.0), (48.0, 48.0, 96.0, 96.0)]
    looks = refine_boxes(encoder, pictures, boxes)
    assert encoder.calls == [sum(len(look.boxes) for look in looks)]
    again = refine_boxes(encoder, pictures[:1], boxes[:1])
    assert len(encoder.calls) == 1
    assert np.array_equal(again[0].features, looks[0].features)
    alone = encoder.encode([pictures[1].image.crop((48, 48, 96, 96))])
    at = looks[1].boxes.index(boxes[1])
    np.testing.assert_allclose(looks[1].features[at], alone[0], atol=1e-6)


def test_refining_raises_scores_only_and_only_where_something_is_near() -> None:
    head = ObjectHead(ColourEncoder(), C=10.0).fit([scene(5 * i, 60 - 9 * i) for i in range(4)], OTHERS)
    pictures = [scene(37, 37), scene(13, 29), scene(0, 0, "blue"), Image.new("RGB", (96, 96), "gray")]
    assert head.refine_margin_ > 0
    near = raw_scores(head, pictures)
    reach, head.refine_margin_ = head.refine_margin_, 0.0
    far = raw_scores(head, pictures)
    assert (near >= far).all()
    looked = far >= head.threshold_ - reach
    assert looked[:2].all()
    assert (near[:2] > far[:2]).any()
    assert np.array_equal(near[~looked], far[~looked])


def test_of_one_picture_only_so_many_windows_are_looked_at_whatever_the_number_of_heads() -> None:
    encoder = ColourEncoder()
    colours = ["red", "lime", "blue", "yellow", "magenta", "cyan"]
    heads = [ObjectHead(encoder).fit([scene(5 * i, 60 - 9 * i, c) for i in range(4)]) for c in colours]
    for head in heads:
        head.refine_margin_ = 1e6  # every window is near enough
        head.slope_ = 1e-3  # and no head is certain
    picture = Image.new("RGB", (96, 96), (120, 130, 140))
    for number, colour in enumerate(colours):
        picture.paste(
            colour, (32 * (number % 3), 48 * (number // 3), 32 * (number % 3) + 30, 48 * (number // 3) + 40)
        )
    encoder.calls.clear()
    ObjectHead.gate(heads).score(load_images(picture))
    assert encoder.calls[:2] == [10, 25], "the windows, large and small"
    assert 18 < encoder.calls[2] <= 18 * MAX_REFINED_WINDOWS
    assert len(encoder.calls) == 3


def test_the_reach_is_kept_and_older_heads_have_none() -> None:
    head = ObjectHead(ColourEncoder(), C=10.0).fit([scene(5 * i, 60 - 9 * i) for i in range(4)], OTHERS)
    meta, tensors = head.state()
    assert ObjectHead.from_state(meta, tensors).refine_margin_ == head.refine_margin_ > 0
    del meta.calibration["reach"]
    assert ObjectHead.from_state(meta, tensors).refine_margin_ == 0
    whole = ObjectHead(ColourEncoder(), crops="none", C=10.0).fit(
        [scene(5 * i, 60 - 9 * i) for i in range(4)], OTHERS
    )
    assert whole.refine_margin_ == 0
