"""Learning shrinks large photos to twice the model's resolution, unless the model sees every pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from myvlm.images import LoadedImage
from myvlm.learning.dataset import LONG_SIDE, reduced_for_model


class Processor:
    """Uses at most this many pixels of a picture."""

    def __init__(self, most: int) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.most = most

    def image_processor(self, images: list[Image.Image], return_tensors: str) -> dict[str, Any]:
        [image] = images
        self.sizes.append(image.size)
        return {"pixel_values": torch.zeros(1, 3, min(self.most, image.width * image.height))}


def photo(*size: int) -> LoadedImage:
    return LoadedImage(Image.new("RGB", size, "red"), "photo")


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000)])
def test_a_tower_of_224_pixels_is_given_twice_as_many_a_side(size: tuple[int, int]) -> None:
    processor = Processor(224 * 224)
    seen = reduced_for_model(processor, photo(*size))
    assert min(seen.size) == 448
    assert max(seen.size) == pytest.approx(448 * 4 / 3, abs=1)
    reduced_for_model(processor, photo(*size))
    assert len(processor.sizes) == 1, "asked once for a size"
    assert max(processor.sizes[0]) == LONG_SIDE


def test_what_sees_every_pixel_is_given_every_pixel() -> None:
    large = photo(4000, 3000)
    assert reduced_for_model(Processor(10**8), large) is large.image
    assert reduced_for_model(Processor(10**8), large, long_side=LONG_SIDE).size == (1536, 1152)
    assert reduced_for_model(Processor(900**2), large) is large.image, "tiles: half of it would be missed"
    small = photo(640, 480)
    assert reduced_for_model(Processor(1), small) is small.image


def test_a_processor_that_does_not_say_is_given_every_pixel() -> None:
    large = photo(3200, 1600)
    assert reduced_for_model(type("Silent", (), {})(), large) is large.image
