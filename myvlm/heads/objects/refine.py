"""A closer look: the window that a head likes, moved and zoomed, so that what it shows is seen squarely.

The windows of a picture lie on a coarse grid, and an object that sits across two of them looks like another
one. So the best window is varied, and the best of its variations is what the head says of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.heads.cache import PictureCache
from myvlm.heads.encoders import CACHED_PICTURES, CROPS_AT_ONCE, ImageEncoder, PictureFeatures, cut
from myvlm.images import LoadedImage

ZOOMS = (0.75, 1.0)
ASIDE = (-0.2, 0.0, 0.2)
"""Sides of the variations and how far they are moved, relative to the window: 18 of them, less at an edge."""

AT_MOST = 3
"""Windows of one picture that a gate looks at closer, whatever the number of its heads: 54 crops."""

_cache: PictureCache[Box, PictureFeatures] = PictureCache(AT_MOST * CACHED_PICTURES)


def variations(box: Box, size: tuple[int, int]) -> list[Box]:
    """The window moved and zoomed, inside a picture of that width and height; each once.

    >>> len(variations((30.0, 30.0, 60.0, 60.0), (96, 96))), len(variations((0.0, 0.0, 96.0, 96.0), (96, 96)))
    (18, 10)
    """
    varied = [_inside(box, zoom, across, down, size) for zoom in ZOOMS for across in ASIDE for down in ASIDE]
    return list(dict.fromkeys(varied))


def refine_boxes(
    encoder: ImageEncoder, images: Sequence[LoadedImage], boxes: Sequence[Box]
) -> list[PictureFeatures]:
    """The variations of one window of each picture, all encoded in one pass; the last are remembered."""
    return _cache.look_up(encoder, images, boxes, lambda new: _encode(encoder, new))


def _encode(encoder: ImageEncoder, new: Sequence[tuple[Image.Image, Box]]) -> list[PictureFeatures]:
    varied = [variations(box, image.size) for image, box in new]
    step = max(1, CROPS_AT_ONCE // (len(ZOOMS) * len(ASIDE) ** 2))
    seen: list[PictureFeatures] = []
    for start in range(0, len(new), step):
        group = range(start, min(start + step, len(new)))
        rows = encoder.encode([crop for i in group for crop in cut(new[i][0], varied[i])])
        ends = np.cumsum([len(varied[i]) for i in group])[:-1]
        seen += [
            PictureFeatures(tuple(varied[i]), own) for i, own in zip(group, np.split(rows, ends), strict=True)
        ]
    return seen


def _inside(box: Box, zoom: float, across: float, down: float, size: tuple[int, int]) -> Box:
    """The box zoomed about its middle, moved by parts of its sides, and pushed back into the picture."""
    edges = []
    for low, high, aside, end in ((box[0], box[2], across, size[0]), (box[1], box[3], down, size[1])):
        side = (high - low) * zoom
        start = (low + high - side) / 2 + aside * (high - low)
        start = min(max(start, 0.0), end - side)
        edges.append((start, start + side))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]
