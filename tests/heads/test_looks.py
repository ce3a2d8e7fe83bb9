"""A gate encodes large windows first, and small ones only where they may change the result."""

from __future__ import annotations

import gc
import pickle
from copy import copy
from weakref import ref

import numpy as np
import pytest
from PIL import Image

from myvlm.concepts.library import ConceptLibrary
from myvlm.heads import ObjectHead
from myvlm.heads.features import count_large_windows, crop_boxes, forget_pictures, windows
from myvlm.heads.objects import gate as object_gate
from myvlm.images import LoadedImage, load_images
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scenes

COLOURS = ("red", "lime", "blue")


@pytest.fixture(scope="module")
def heads() -> list[ObjectHead]:
    encoder = ColourEncoder(bank=everyday_bank())
    return [ObjectHead(encoder).fit(scenes(10 * i, 3, colour)) for i, colour in enumerate(COLOURS)]


def calls(gate: object_gate.ObjectGate) -> list[int]:
    """The number of crops in each further pass of the encoder; clears the caches except for the
    fingerprint."""
    gate.score(load_images(Image.new("RGB", (9, 9))))
    made: list[int] = gate._encoder.calls  # type: ignore[attr-defined]
    forget_pictures()
    made.clear()
    return made


def scene_of(colour: str, side: int, place: int = 100) -> Image.Image:
    picture = scenes(4000, 1, None)[0]
    picture.paste(colour, (place, place, place + side, place + side))
    third = side // 3
    picture.paste("white", (place + third, place + third, place + 2 * third, place + 2 * third))
    return picture


def test_a_head_that_is_sure_by_the_large_windows_looks_no_further_until_asked_where(
    heads: list[ObjectHead],
) -> None:
    easy, picture = copy(heads[0]), load_images(scene_of("red", 80, 40))
    easy.threshold_ -= 100.0
    gate = ObjectHead.gate([easy])
    made = calls(gate)
    scores = gate.score(picture)
    assert scores.present.all()
    assert made == [10]
    boxes = scores.boxes
    assert made[1] == 25, "the small windows, none of the large ones again"
    raw, exact = gate.raw(picture)
    assert np.array_equal(boxes, exact)
    assert float(raw[0, 0]) >= easy.threshold_


def test_what_is_far_from_everything_is_not_looked_at(
    heads: list[ObjectHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, empty = ObjectHead.gate(heads[:1]), load_images(Image.new("RGB", (160, 160), "gray"))
    made = calls(gate)
    monkeypatch.setattr(object_gate, "SEARCH_MARGIN", 0.0)
    assert not gate.score(empty).present.any()
    assert made == [10]
    monkeypatch.setattr(object_gate, "SEARCH_MARGIN", 1e9)
    assert not gate.score(empty).present.any()
    assert 9 <= made[1] <= 25, "small windows alone: the large ones are remembered"


def test_a_small_thing_is_found_where_the_large_windows_alone_do_not(heads: list[ObjectHead]) -> None:
    gate = ObjectHead.gate(heads[:1])
    found = 0
    for place in (3, 41, 60, 97, 118):
        [photo] = load_images(scene_of("red", 30, place))
        boxes = windows(160, 160)
        large = gate._window_scores(
            object_gate.encode_boxes(heads[0].encoder, [photo], [boxes[: count_large_windows(boxes)]])  # type: ignore[arg-type]
        )[0]
        scores = gate.score([photo])
        assert scores.present[0, 0] == (gate.raw([photo])[0][0, 0] >= heads[0].threshold_)
        found += bool(scores.present[0, 0] and large.max() < heads[0].threshold_)
    assert found


def test_what_a_head_looks_at_is_its_own_affair(heads: list[ObjectHead]) -> None:
    small = [scene_of(colour, 34, 15 + 30 * i) for i, colour in enumerate(COLOURS)]
    pictures = load_images([*scenes(5000, 3, None), *small])
    alone = [ObjectHead.gate([head]).score(pictures).probabilities[:, 0] for head in heads]
    forget_pictures()
    together = ObjectHead.gate(heads).score(pictures)
    np.testing.assert_allclose(together.probabilities, np.stack(alone, axis=1), atol=1e-5)


def test_what_is_located_later_can_be_sent_and_lets_go_of_its_pictures(heads: list[ObjectHead]) -> None:
    photos = [LoadedImage(scene_of("red", 80, 20 + 10 * i), str(i)) for i in range(2)]
    photos.append(LoadedImage(Image.new("RGB", (160, 160), "gray"), "none"))
    gate = ObjectHead.gate(heads)
    scores, expected = gate.score(photos), gate.raw(photos)[1]
    again = pickle.loads(pickle.dumps(gate.score(photos)))
    assert np.array_equal(again.boxes, expected)
    held = [ref(photo) for photo in photos]
    del photos
    gc.collect()
    assert all(one() is not None for one in held)
    scores.compute_present_boxes()
    gc.collect()
    assert all(one() is None for one in held)
    assert np.array_equal(scores.boxes[:2], expected[:2])
    assert np.isnan(scores.boxes[2]).all(), "nothing is seen in it"


def test_who_is_there_is_known_without_asking_where(heads: list[ObjectHead]) -> None:
    library = ConceptLibrary()
    assert library.recognise(scenes(1, 1))[0].seen == []


def test_of_a_large_photo_pieces_are_cut_as_small_as_the_encoder_looks() -> None:
    photo = LoadedImage(Image.radial_gradient("L").resize((4000, 3000)).convert("RGB"), "large")
    encoder = ColourEncoder()
    boxes = [(0.0, 0.0, 4000.0, 3000.0), (1000.0, 500.0, 2500.0, 2000.0), (100.0, 100.0, 190.0, 190.0)]
    as_before = crop_boxes(photo, boxes, encoder)
    assert [piece.size for piece in as_before[:2]] == [(2000, 1500), (750, 750)]
    encoder.input_side = 96  # type: ignore[attr-defined]
    pieces = crop_boxes(photo, boxes, encoder)
    assert all(144 <= min(piece.size) <= 288 for piece in pieces[:2])
    assert pieces[2].size == as_before[2].size, "one that is small is cut at the size that it has"
    for small, large in zip(pieces, as_before, strict=True):
        far = np.asarray(small, float) - np.asarray(large.resize(small.size), float)
        assert np.abs(far).mean() < 2
