"""Boxes in the picture as seen and regions in the stored one: all EXIF orientations against pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.album.regions import Region, read_stored, same_shape
from myvlm.images import load_images
from tests.support.exif import UNTURNED, save_turned


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_box_of_what_is_seen_is_where_it_is_stored(turn: int, kind: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 300))
    box = (40.0, 60.0, 120.0, 90.0)
    picture.paste((255, 255, 255), tuple(map(int, box)))
    save_turned(picture, file := tmp_path / f"one.{kind}", turn)
    [seen] = load_images(file)
    assert seen.image.size == picture.size  # as the rest of the library sees it
    assert np.abs(np.asarray(seen.image).astype(int) - np.asarray(picture)).mean() < 1

    stored = read_stored(file)
    assert stored.turn == turn
    assert stored.displayed_size == picture.size
    undone = picture if UNTURNED[turn] is None else picture.transpose(Image.Transpose(UNTURNED[turn]))
    down, across = np.nonzero(np.asarray(undone.convert("L")))
    width, height = undone.size
    assert stored.size == undone.size
    region = stored.region("sks", box)
    left, top, right, bottom = region.box
    edges = (left * width, top * height, right * width, bottom * height)
    assert edges == pytest.approx((across.min(), down.min(), across.max() + 1, down.max() + 1), abs=0.01)
    assert stored.box(region) == pytest.approx(box, abs=0.01)


def test_what_hangs_over_the_edge_is_cut_off(tmp_path: Path) -> None:
    save_turned(Image.new("RGB", (100, 50)), file := tmp_path / "one.png", 1)
    assert read_stored(file).region("sks", (-10, 10, 50, 90)) == Region("sks", 0.25, 0.6, 0.5, 0.8)


def test_damaged_and_odd_exif_is_no_turn(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 30))
    for number, block in enumerate((b"Exif\0\0MM\0*\0\0\0\x08\0\x02garbage", b"Exif\0\0nothing")):
        picture.save(file := tmp_path / f"{number}.jpg", exif=block)
        assert (read_stored(file).turn, read_stored(file).size) == (1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 9
    picture.save(file := tmp_path / "nine.jpg", exif=exif)
    assert read_stored(file).turn == 1


def test_when_it_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:07:14 09:30:00"
    Image.new("RGB", (40, 30)).save(file := tmp_path / "one.jpg", exif=exif)
    assert read_stored(file).taken == "2024:07:14 09:30:00"


def test_shapes() -> None:
    assert same_shape((4032, 3024), (403, 302))
    assert not same_shape((400, 300), (400, 0))
    assert not same_shape((400, 300), (300, 300))
