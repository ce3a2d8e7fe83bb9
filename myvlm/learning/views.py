"""Views: augmented versions of a training photo, drawn once and encoded once."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from PIL import Image
from torchvision.transforms.v2 import functional as transforms

BRIGHTNESS = 0.6
ROTATION = 45.0
LONG_SIDE = 1536
"""Pixels that the longer side of an augmented view has at most.

The towers of a fixed size see 224 to 896, LLaVA-NeXT up to 1,008, LLaVA-OneVision as many tokens as of 1,152
by 1,152, Idefics3 1,536, Mistral 3 1,540. InternVL makes up to 1,792 by 1,344 of a photo, and Qwen takes up
to 12 megapixels as they are: they see all of it in the first view, which is the photo itself.
"""


class Change(NamedTuple):
    """What makes a view of a photo: mirrored or not, brightness as a factor, rotation in degrees."""

    flip: bool
    brightness: float
    degrees: float


def make_views(photo: Image.Image, count: int, *, augment: bool, seed: int) -> list[Image.Image]:
    """`count` views of a photo; the first is the photo itself, and without `augment` the only one.

    Flip, brightness 1 ± 0.6 and rotation ± 45° as in §4 of arXiv 2403.14599. What a rotation uncovers is
    filled with the picture's edge. All but the first are at most `LONG_SIDE` long: at 12 megapixels a view
    takes a second.

    >>> [view.size for view in make_views(Image.new("RGB", (40, 30)), 3, augment=True, seed=0)]
    [(40, 30), (40, 30), (40, 30)]
    """
    if not augment or count == 1:
        return [photo]
    small = _shrunk(photo)
    return [photo, *(_changed(small, change) for change in _changes(count - 1, seed))]


def held_out_view(photo: Image.Image, count: int, *, augment: bool, seed: int) -> Image.Image:
    """The view that would come after the `count` of `make_views`; without `augment` the photo itself."""
    return _changed(_shrunk(photo), _changes(count, seed)[-1]) if augment else photo


def _changes(count: int, seed: int) -> list[Change]:
    random = Random(f"views {seed}")
    darkest, brightest = 1 - BRIGHTNESS, 1 + BRIGHTNESS
    return [
        Change(random.random() < 0.5, random.uniform(darkest, brightest), random.uniform(-ROTATION, ROTATION))
        for _ in range(count)
    ]


def _shrunk(photo: Image.Image) -> Image.Image:
    small = photo.copy()
    small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)  # leaves one that is no larger as it is
    return small


def _changed(photo: Image.Image, change: Change) -> Image.Image:
    view = transforms.horizontal_flip(photo) if change.flip else photo
    return _rotated(transforms.adjust_brightness(view, change.brightness), change.degrees)


def _rotated(view: Image.Image, degrees: float) -> Image.Image:
    width, height = view.size
    margin = math.ceil(0.25 * max(width, height))
    padded = transforms.pad(view, [margin, margin], padding_mode="edge")
    turned = transforms.rotate(padded, degrees, transforms.InterpolationMode.BILINEAR)
    cropped: Image.Image = transforms.center_crop(turned, [height, width])
    return cropped
