"""The crop that an image processor passes on: where its first and last pixels come from."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor

from myvlm.backbones.boxes import kept_part

SIDE = 28


def ramp(width: int, height: int) -> Image.Image:
    """A picture whose red and green channels are twice the column and row of each pixel."""
    across = np.broadcast_to(2 * np.arange(width), (height, width))
    down = np.broadcast_to(2 * np.arange(height)[:, None], (height, width))
    return Image.fromarray(np.stack([across, down, across * 0], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("shortest", [SIDE, 40, 20])  # cropped, from a larger picture, padded with black
@pytest.mark.parametrize("size", [(70, 30), (30, 64), (40, 40), (31, 90), (101, 47)])
def test_it_is_where_the_processor_cuts(size: tuple[int, int], shortest: int) -> None:
    processor = CLIPImageProcessor(
        size={"shortest_edge": shortest},
        crop_size={"height": SIDE, "width": SIDE},
        resample=2,
        do_normalize=False,
        do_rescale=False,
    )
    red, green, _ = processor(ramp(*size), return_tensors="pt")["pixel_values"][0].float().numpy() / 2
    left, top, right, bottom = kept_part(processor, size)
    places = (np.arange(SIDE) + 0.5) / SIDE
    for found, first, last, length in (
        (red[SIDE // 2], left, right, size[0]),
        (green[:, SIDE // 2], top, bottom, size[1]),
    ):
        expected = first + places * (last - first) - 0.5
        inside = (expected > 1) & (expected < length - 2)  # edges have no neighbours to interpolate
        assert inside.sum() >= SIDE // 2
        assert abs((found - expected)[inside].mean()) < 0.1


def test_all_of_it_where_nothing_is_cut_out() -> None:
    assert kept_part(CLIPImageProcessor(do_center_crop=False), (70, 30)) == (0, 0, 70, 30)
