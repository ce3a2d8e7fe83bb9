"""Any picture becomes an RGB picture of known size: every mode and orientation, from memory, file and
address."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from myvlm.errors import MyVLMError
from myvlm.images import load_images
from tests.support.errors import check_said

MODES = (
    "1",
    "L",
    "P",
    "PA",
    "LA",
    "La",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16B",
    "I;16L",
)
ORIENTATION = 0x0112
FORMATS = {
    "PNG": ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I", "F", "I;16"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "RGB"),
}

sides = st.integers(1, 40)
seeds = st.integers(0, 2**16)


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode in ("F", "I"):
        return Image.fromarray(values[..., 0].astype(np.float32 if mode == "F" else np.int32))
    if mode.startswith("I;16"):
        image = Image.new(mode, size)
        image.frombytes(values[..., :2].tobytes())
        return image
    try:
        return Image.fromarray(values, "RGBA").convert(mode)
    except ValueError:  # Pillow converts to some modes only through others
        image = Image.new(mode, size)
        image.frombytes(values[..., : len(image.getbands())].tobytes())
        return image


def check(image: Image.Image, size: tuple[int, int]) -> None:
    [loaded] = load_images(image)
    assert (loaded.image.mode, loaded.image.size) == ("RGB", size)
    assert len(loaded.digest) == 16


@given(st.sampled_from(MODES), sides, sides, seeds, st.integers(0, 10))
def test_any_mode_any_turn(mode: str, width: int, height: int, seed: int, turn: int) -> None:
    image = picture(mode, (width, height), seed)
    before = image.tobytes()
    image.getexif()[ORIENTATION] = turn
    check(image, (height, width) if turn in (5, 6, 7, 8) else (width, height))
    assert image.tobytes() == before  # the caller's picture is unchanged


@given(
    st.sampled_from([(name, mode) for name, modes in FORMATS.items() for mode in modes]),
    sides,
    sides,
    seeds,
    st.integers(0, 10),
)
def test_any_file_any_turn(kind: tuple[str, str], width: int, height: int, seed: int, turn: int) -> None:
    format, mode = kind
    image, buffer, exif = picture(mode, (width, height), seed), io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = turn
    image.save(buffer, format, **({"exif": exif} if format in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
    turned = turn in (5, 6, 7, 8) and format in ("PNG", "JPEG", "WEBP", "TIFF")
    data = "data:image/x;base64," + base64.b64encode(buffer.getvalue()).decode()
    [loaded] = load_images(data)
    assert loaded.image.mode == "RGB"
    assert loaded.image.size == ((height, width) if turned else (width, height))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, for damaged tags
@given(
    st.sampled_from(sorted(FORMATS)),
    seeds,
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.none() | st.integers(0, 4000),
)
def test_a_damaged_file_is_a_picture_or_an_error_of_ours(
    format: str, seed: int, flips: list[tuple[int, int]], cut: int | None
) -> None:
    buffer = io.BytesIO()
    picture("RGB", (24, 18), seed).save(buffer, format)
    data = bytearray(buffer.getvalue())
    for place, value in flips:
        data[place % len(data)] = value
    address = "data:image/x;base64," + base64.b64encode(bytes(data[:cut])).decode()
    try:
        [loaded] = load_images(address)
    except MyVLMError as error:
        check_said(error)
    else:
        assert loaded.image.mode == "RGB"


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: b.decode("latin1")))
def test_any_text_is_a_picture_or_an_error_of_ours(text: str) -> None:
    try:
        load_images(text)
    except MyVLMError as error:
        check_said(error)


@given(st.sampled_from([np.uint8, np.float32, bool, np.int64]), st.lists(st.integers(0, 5), max_size=5))
def test_any_array_is_a_picture_or_an_error_of_ours(kind: type, shape: list[int]) -> None:
    array = np.zeros(shape, kind)
    try:
        [loaded] = load_images(array)
    except MyVLMError as error:
        check_said(error)
    else:
        assert (loaded.image.height, loaded.image.width, 3) == tuple(shape)
