"""Pictures as cameras, scanners and the web make them: decoded correctly or reported as broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.boxes import overlap
from myvlm.errors import ImageError, NotFittedError
from myvlm.heads import FaceHead, ObjectHead
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scene, scenes
from tests.support.fake_faces import FakeFaces, photo, photos

PICTURE, TRUE = scene(1001)
WITHOUT = scene(5001, colour=None)[0]


@pytest.fixture(scope="module")
def head() -> ObjectHead:
    return ObjectHead(ColourEncoder(bank=everyday_bank())).fit(scenes(0, 4))


def cmyk(image: Image.Image, place: Path) -> Path:
    ink = 255 - np.asarray(image)
    pixels = np.concatenate([ink, np.zeros((*ink.shape[:2], 1), np.uint8)], axis=-1)
    Image.fromarray(pixels, "CMYK").save(place / "scan.tif")
    return place / "scan.tif"


def turned(image: Image.Image, place: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # camera held sideways: rotate a quarter clockwise to see it upright
    image.rotate(90, expand=True).save(place / "phone.png", exif=exif)
    return place / "phone.png"


def animated_gif(image: Image.Image, place: Path) -> Path:
    image.quantize(64).save(place / "a.gif", save_all=True, append_images=[WITHOUT.quantize(64)])
    return place / "a.gif"


def animated_webp(image: Image.Image, place: Path) -> Path:
    image.save(place / "a.webp", save_all=True, append_images=[WITHOUT], lossless=True)
    return place / "a.webp"


def animated_png(image: Image.Image, place: Path) -> Path:
    image.save(place / "a.png", save_all=True, append_images=[WITHOUT])
    return place / "a.png"


def transparent(image: Image.Image, place: Path) -> Path:
    image.convert("RGBA").save(place / "cut-out.png")
    return place / "cut-out.png"


def palette(image: Image.Image, place: Path) -> Path:
    image.quantize(64).save(place / "p.png")
    return place / "p.png"


def good_jpeg(image: Image.Image, place: Path) -> Path:
    image.save(place / "photo.jpg", quality=95, subsampling=0)
    return place / "photo.jpg"


KINDS = [cmyk, turned, animated_gif, animated_webp, animated_png, transparent, palette, good_jpeg]


@pytest.mark.parametrize("write", KINDS)
def test_the_object_is_seen_in_every_kind_of_file(
    head: ObjectHead, write: Callable[[Image.Image, Path], Path], tmp_path: Path
) -> None:
    [seen] = head.score(write(PICTURE, tmp_path))
    assert seen.present
    assert seen.box is not None
    assert TRUE is not None
    assert overlap(seen.box, TRUE) > 0.5
    [nothing] = head.score(write(WITHOUT, tmp_path))
    assert not nothing.present


def test_huge_and_tiny_pictures(head: ObjectHead, tmp_path: Path) -> None:
    PICTURE.resize((4000, 4000), Image.Resampling.NEAREST).save(tmp_path / "huge.png")
    [huge] = head.score(tmp_path / "huge.png")
    assert huge.present
    assert huge.box is not None
    assert TRUE is not None
    assert overlap(tuple(edge / 25 for edge in huge.box), TRUE) > 0.5  # type: ignore[arg-type]
    Image.new("RGB", (1, 1), "white").save(tmp_path / "pixel.png")
    [pixel] = head.score(tmp_path / "pixel.png")
    assert not pixel.present
    assert ObjectHead(ColourEncoder()).fit(tmp_path / "pixel.png").score(tmp_path / "pixel.png")[0].present


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_scans_are_learned_and_seen(kind: str, tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(shades).save(tmp_path / f"ramp.{kind}")
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / f"black.{kind}")
    head = ObjectHead(ColourEncoder(bank=everyday_bank(10)), crops="none").fit(tmp_path / f"ramp.{kind}")
    ramp, black = head.score([tmp_path / f"ramp.{kind}", tmp_path / f"black.{kind}"])
    assert ramp.present
    assert not black.present


def broken(kind: str, place: Path) -> Path:
    file = place / "broken.png"
    PICTURE.save(file)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:500])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("I am no picture")
    elif kind == "bomb":
        Image.new("RGB", (400, 400)).save(file)
    return file


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "bomb"])
def test_what_cannot_be_read_is_named_and_teaches_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = broken(kind, tmp_path)
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # more than the other pictures have
    good, other = scenes(0, 2), [photo(22)]
    for head, own in ((ObjectHead(ColourEncoder()), good), (FaceHead(FakeFaces()), photos(11))):
        for photos_given, negatives in (([*own, file], None), (own, [*other, file])):
            with pytest.raises(ImageError, match=r"broken\.png"):
                head.fit(photos_given, negatives)
            with pytest.raises(NotFittedError):
                head.state()
        fitted = head.fit(own)
        before = fitted.state()[1]
        with pytest.raises(ImageError, match=r"broken\.png"):
            fitted.score([own[0], file])
        assert all(np.array_equal(before[name], tensor) for name, tensor in fitted.state()[1].items())
