"""Views: augmented versions of a training photo, drawn once and encoded once."""

from __future__ import annotations

import math
from random import Random

from PIL import Image
from torchvision.transforms.v2 import functional as transforms

BRIGHTNESS = 0.6
ROTATION = 45.0


def make_views(photo: Image.Image, count: int, *, augment: bool, seed: int) -> list[Image.Image]:
    """`count` views of a photo; the first is the photo itself, and without `augment` the only one.

    Flip, brightness 1 ± 0.6 and rotation ± 45° as in §4 of arXiv 2403.14599. What a rotation uncovers is
    filled with the picture's edge.

    >>> [view.size for view in make_views(Image.new("RGB", (40, 30)), 3, augment=True, seed=0)]
    [(40, 30), (40, 30), (40, 30)]
    """
    random = Random(f"views {seed}")
    return [photo, *(_augmented(photo, random) for _ in range(count - 1 if augment else 0))]


def _augmented(photo: Image.Image, random: Random) -> Image.Image:
    view = photo
    if random.random() < 0.5:
        view = transforms.horizontal_flip(view)
    view = transforms.adjust_brightness(view, random.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))
    return _rotated(view, random.uniform(-ROTATION, ROTATION))


def _rotated(view: Image.Image, degrees: float) -> Image.Image:
    width, height = view.size
    margin = math.ceil(0.25 * max(width, height))
    padded = transforms.pad(view, [margin, margin], padding_mode="edge")
    turned = transforms.rotate(padded, degrees, transforms.InterpolationMode.BILINEAR)
    cropped: Image.Image = transforms.center_crop(turned, [height, width])
    return cropped
