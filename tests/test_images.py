"""The only place where pictures are loaded: sources, order, orientation, odd modes, broken files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.errors import ImageError, InputError, MissingFileError
from myvlm.images import LoadedImage, listed, load_images
from tests.support.errors import check_said


def _save(
    path: Path, colour: object = (200, 30, 10), size: tuple[int, int] = (8, 6), **options: object
) -> Path:
    Image.new("RGB", size, colour).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in (10, 2, 1):
        _save(tmp_path / f"{number}.png", (number, 0, 0))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "inner").mkdir()
    return tmp_path


def _reds(loaded: list[LoadedImage]) -> list[int]:
    return [one.image.getpixel((0, 0))[0] for one in loaded]


def test_the_bytes_of_a_file_are_the_picture_that_it_holds(photos: Path) -> None:
    data = (photos / "10.png").read_bytes()
    assert _reds(load_images([data, bytearray(data), memoryview(data)])) == [10, 10, 10]
    [one] = load_images(data)
    assert (one.name, one.path) == ("images[0]", None)


def test_folder_pattern_and_list_come_in_natural_order(photos: Path) -> None:
    assert _reds(load_images(photos)) == [1, 2, 10]
    assert _reds(load_images(str(photos / "*.png"))) == [1, 2, 10]
    assert _reds(load_images(str(photos / "*"))) == [1, 2, 10]
    mixed = [photos / "10.png", np.full((2, 2, 3), 7, np.uint8), Image.new("RGB", (1, 1), (9, 0, 0)), photos]
    loaded = load_images(mixed)
    assert _reds(loaded) == [10, 7, 9, 1, 2, 10]
    assert [one.name for one in loaded][:3] == [str(photos / "10.png"), "images[1]", "images[2]"]
    assert loaded[0].path == photos / "10.png"
    assert loaded[1].path is None
    assert {one.image.mode for one in loaded} == {"RGB"}


def test_single_is_one_file_image_or_array_only(photos: Path) -> None:
    one = photos / "1.png"
    singles = [str(one), one, Image.open(one), np.zeros((2, 2, 3), np.uint8), load_images(one)[0]]
    assert [listed(single)[1] for single in singles] == [True] * 5
    assert [listed(many)[1] for many in (photos, str(photos / "1.*"), [one], (one,))] == [False] * 4


def test_a_path_with_pattern_characters_is_a_path_first(tmp_path: Path) -> None:
    file = _save(tmp_path / "mug[1].png")
    assert load_images(str(file))[0].path == file


def test_exif_turn(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter clockwise to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    [turned] = load_images(tmp_path / "turned.png")
    assert turned.image.size == (2, 4)
    assert turned.image.getpixel((1, 0)) == (255, 255, 255)
    assert turned.image.info == {}


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert load_images(tmp_path / "a.png")[0].image.size == (8, 6)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_images(tmp_path / "a.gif")[0].image.getpixel((0, 0)) == (255, 0, 0)


def test_transparent_becomes_white_and_half_transparent_blends(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image.putpixel((2, 0), (0, 0, 255, 255))
    image.save(tmp_path / "a.png")
    [seen] = load_images(tmp_path / "a.png")
    assert [seen.image.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (255, 127, 127), (0, 0, 255)]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_images(tmp_path / "p.png")[0].image.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = load_images(tmp_path / "a.jpg")[0].image.getpixel((5, 5))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_keep_their_shades(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / f"a.{kind}")
    [seen] = load_images(tmp_path / f"a.{kind}")
    assert [seen.image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_float_grey() -> None:
    [seen] = load_images(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)))
    assert [seen.image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_the_callers_image_is_not_touched() -> None:
    mine = Image.new("RGB", (4, 4), "red")
    load_images(mine)[0].image.putpixel((0, 0), (0, 0, 0))
    assert mine.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\x89PNG\r\n\x1a\n" + b"\x00" * 30])
def test_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fake.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"fake\.jpg cannot be read as a picture(.|\n)*got: +[0-9]+ bytes"):
        load_images(tmp_path / "fake.jpg")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_truncated_is_named(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = tmp_path / f"whole.{kind}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{kind}"):
        load_images([whole, cut])


@pytest.mark.parametrize("limit", [20, 30])  # Pillow warns above the limit and raises above twice of it
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    file = _save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"bomb\.png is too large(.|\n)*MAX_IMAGE_PIXELS"):
        load_images(file)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*gone\.jpg") as caught:
        load_images(tmp_path / "gone.jpg")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(MissingFileError, match=r"contains no pictures(.|\n)*no files"):
        load_images(tmp_path)
    with pytest.raises(MissingFileError, match=r"pattern .*\*\.jpg contains no pictures"):
        load_images(str(tmp_path / "*.jpg"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(MissingFileError, match=r"a\.txt"):
        load_images(tmp_path)
    (tmp_path / "2024").mkdir()
    with pytest.raises(MissingFileError, match=r"a\.txt, 2024/(.|\n)*such as .*2024 if they are in there"):
        load_images(tmp_path)
    with pytest.raises(InputError, match="no photos"):
        load_images([])
    with pytest.raises(InputError, match=r"https://x/y\.jpg"):
        load_images("https://x/y.jpg")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_pictures(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=rf"images\[1\](.|\n)*\({array.shape[0]}, {array.shape[1]}"):
        load_images([np.zeros((1, 1, 3), np.uint8), array])


def test_batches_and_strangers() -> None:
    with pytest.raises(ImageError, match=r"list\(array\)"):
        load_images(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="int"):
        load_images([3])  # type: ignore[list-item]
    for kind in (bytes, bytearray, memoryview):
        with pytest.raises(ImageError, match=r"(?s)images\[0\].*4 bytes.*a complete JPEG"):
            load_images(kind(b"\x89PNG"))
    with pytest.raises(InputError, match=r"(?s)got: +BytesIO\n.*file\.read\(\)"):
        load_images(io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="0 by 5"):
        load_images(Image.new("RGB", (0, 5)))


def test_an_empty_path_is_not_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "here.png")
    monkeypatch.chdir(tmp_path)
    assert load_images(".")[0].name == "here.png"
    with pytest.raises(InputError, match="path of a photo is empty"):
        load_images("")


@pytest.mark.parametrize("call", ["iterdir", "exists", "open"])
def test_what_may_not_be_read_is_said_so(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "1.png")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image if call == "open" else Path, call, denied)
    with pytest.raises(ImageError, match=r"(?s)no permission to read .*check its owner"):
        load_images(tmp_path if call == "iterdir" else tmp_path / "1.png")


def test_a_picture_is_reduced_once() -> None:
    photo = LoadedImage(Image.new("RGB", (400, 300), "teal"), "a")
    assert photo.reduced(1) is photo.image
    assert photo.reduced(2.5).size == (160, 120)
    assert photo.reduced(2.5) is photo.reduced(2.5)


def test_a_picture_is_reduced_to_the_same_whether_at_once_or_by_halves() -> None:
    drawn = Image.radial_gradient("L").resize((1201, 900)).convert("RGB")
    at_once, by_halves = LoadedImage(drawn, "a"), LoadedImage(drawn, "b")
    by_halves.reduced(2)
    for factor in (4, 5.3):
        one, other = (np.asarray(photo.reduced(factor), float) for photo in (at_once, by_halves))
        assert one.shape == other.shape
        assert one.std() > 0
        assert np.abs(one - other).max() <= 4


def test_a_reduced_picture_is_known_by_its_size_and_by_what_is_left_of_it() -> None:
    ramp = np.arange(400 * 300 * 3, dtype=np.uint32).reshape(300, 400, 3).astype(np.uint8)
    other = ramp.copy()
    other[:, ::2], other[:, 1::2] = ramp[:, 1::2], ramp[:, ::2]  # swaps neighbouring columns
    first, second, cut = (LoadedImage(Image.fromarray(one), "a") for one in (ramp, other, ramp[:, :399]))
    assert first.digest != second.digest
    assert first.digest_reduced(2) == second.digest_reduced(2) != cut.digest_reduced(2)
    assert first.digest_reduced(1) == first.digest
    assert first.digest_reduced(2) != first.digest_reduced(4)


def test_a_digest_is_of_size_and_pixels() -> None:
    tall, wide, dark = (
        LoadedImage(Image.new("RGB", size, colour), "a") for size, colour in
        (((1, 2), "red"), ((2, 1), "red"), ((1, 2), "black"))
    )  # fmt: skip
    assert tall.digest == LoadedImage(tall.image.copy(), "b").digest
    assert len({tall.digest, wide.digest, dark.digest}) == 3


@pytest.mark.parametrize("size", [(1, 1001), (40_000, 1)])
def test_pictures_as_thin_as_a_thread_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    """Resized by the shorter side, a file of 85 bytes took gigabytes."""
    image = Image.new("1", size)
    image.save(tmp_path / "thin.png")
    for given in (image, np.zeros((size[1], size[0], 3), np.uint8), tmp_path / "thin.png"):
        with pytest.raises(ImageError, match="too narrow") as raised:
            load_images(given)
        check_said(raised.value)
    assert load_images(Image.new("RGB", (1, 1000)))


def test_a_pixel_that_is_infinite_does_not_darken_the_others() -> None:
    [loaded] = load_images(Image.fromarray(np.array([[0, 1], [np.inf, 0.5]], np.float32)))
    assert np.asarray(loaded.image)[..., 0].tolist() == [[0, 255], [255, 128]]
