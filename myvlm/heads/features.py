"""Windows of a picture and their features, cached by the picture's pixels.

A small object covers few pixels of a whole picture but most of some window; the window that scores best is
the box. A head scores the windows of a grid and then refines: it moves and zooms the best one, since an
object that lies across two windows looks like a different object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.errors import ConceptFileError, InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.images import LoadedImage
from myvlm.runtime.process import ForkSafeLock

Crops: TypeAlias = Literal["auto", "none"] | int

SCALES = (1.0, 1 / 2, 1 / 3)
"""Sides of the windows, relative to the shorter side of the picture."""

STRIDES = (1 / 2, 2 / 3, 3 / 4, 1.0)
"""Steps from window to window, relative to the window's side; the first whose grid fits the limit is used."""

AUTO_LIMIT = 48
SMALLEST_SIDE = 16

ZOOMS = (0.75, 1.0)
SHIFTS = (-0.2, 0.0, 0.2)
"""Sides and shifts of the variations of a window, relative to it: 18 variations, fewer at an edge."""

WORKING_SIDE = 1152
"""Before it is cropped, a picture is halved as long as its shorter side stays at least this long: three times
the largest usual input of an encoder."""

CACHED_PICTURES = 64
CROPS_AT_ONCE = 256
MAX_REFINED_WINDOWS = 3
"""Most windows of one picture that a gate refines, whatever the number of its heads: 54 crops."""
CROPS_A_PICTURE = AUTO_LIMIT + MAX_REFINED_WINDOWS * len(ZOOMS) * len(SHIFTS) ** 2
MIN_COSINE = 0.98
"""Least cosine between two encodings of one picture by the same weights."""

Result = TypeVar("Result")
Variant = TypeVar("Variant", bound=Hashable)


def windows(width: int, height: int, crops: Crops = "auto") -> list[Box]:
    """List the windows of a picture: the whole picture first, then larger before smaller, row by row.

    Args:
        width, height: size of the picture, in pixels.
        crops: "none" for the whole picture only; a number for at most so many windows, the whole picture
            included; "auto" for at most 48, which is 35 for a square picture and 46 for a 3:2 photo.

    Raises:
        InputError: `crops` is not one of these.

    >>> windows(60, 60, "none")
    [(0.0, 0.0, 60.0, 60.0)]
    >>> windows(60, 40, 4)
    [(0.0, 0.0, 60.0, 40.0), (0.0, 0.0, 40.0, 40.0), (20.0, 0.0, 60.0, 40.0)]
    >>> len(windows(300, 300)), len(windows(300, 200))
    (35, 46)
    """
    limit = _limit(crops)
    boxes: list[Box] = [(0.0, 0.0, float(width), float(height))]
    for scale in SCALES:
        side = int(min(width, height) * scale)
        if side == max(width, height):
            continue  # a square picture is its own largest window
        if side < SMALLEST_SIDE:
            break
        grid = _densest_grid(width, height, side, limit - len(boxes))
        if not grid:
            break
        boxes += grid
    return boxes


def count_large_windows(boxes: Sequence[Box]) -> int:
    """Number of large windows, which come first in `windows`: at least half as wide as the shorter side.

    >>> count_large_windows(windows(300, 300)), count_large_windows(windows(300, 200))
    (10, 18)
    """
    _, _, width, height = boxes[0]
    least = int(min(width, height) * SCALES[1])
    return sum(box[2] - box[0] >= least for box in boxes)


def _limit(crops: Crops) -> int:
    if crops == "none":
        return 1
    if crops == "auto":
        return AUTO_LIMIT
    if isinstance(crops, bool) or not isinstance(crops, int) or crops < 1:
        raise InputError(
            "`crops` is the number of windows examined per picture.",
            got=repr(crops),
            expected='"auto", "none" or a positive integer',
            fix='leave it at "auto"',
        )
    return crops


def _densest_grid(width: int, height: int, side: int, room: int) -> list[Box]:
    """Evenly spaced squares that cover the picture, with the most overlap that `room` windows allow."""
    for stride in STRIDES:
        lefts = _positions(width - side, side * stride)
        tops = _positions(height - side, side * stride)
        if len(lefts) * len(tops) <= room:
            return [_square(left, top, side) for top in tops for left in lefts]
    return []


def _positions(slack: int, step: float) -> list[int]:
    """Evenly spaced starts from 0 to `slack`, about `step` apart."""
    steps = ceil(slack / step - 0.1)  # a side rounded to whole pixels must not add a row of windows
    return [round(slack * index / steps) for index in range(steps + 1)] if steps > 0 else [0]


def _square(left: int, top: int, side: int) -> Box:
    return (float(left), float(top), float(left + side), float(top + side))


def variations(box: Box, size: tuple[int, int]) -> list[Box]:
    """List distinct shifted and zoomed versions of a window, inside a picture of that width and height.

    >>> len(variations((30.0, 30.0, 60.0, 60.0), (96, 96))), len(variations((0.0, 0.0, 96.0, 96.0), (96, 96)))
    (18, 10)
    """
    varied = [
        _variation(box, zoom, across, down, size) for zoom in ZOOMS for across in SHIFTS for down in SHIFTS
    ]
    return list(dict.fromkeys(varied))


def _variation(box: Box, zoom: float, across: float, down: float, size: tuple[int, int]) -> Box:
    """Zoom a box about its centre, shift it by fractions of its sides, and push it back into the picture."""
    edges = []
    for low, high, aside, end in ((box[0], box[2], across, size[0]), (box[1], box[3], down, size[1])):
        side = (high - low) * zoom
        start = (low + high - side) / 2 + aside * (high - low)
        start = min(max(start, 0.0), end - side)
        edges.append((start, start + side))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


_caches: WeakSet[PictureCache[Any, Any]] = WeakSet()


class PictureCache(Generic[Variant, Result]):
    """Least-recently-used cache of results for pictures, one per encoder; freed with the encoder.

    A result belongs to a picture and a variant, such as a box.

    Args:
        pictures: how many results are kept per encoder.
        digest: returns the key of a picture.
    """

    def __init__(self, pictures: int, digest: Callable[[LoadedImage], bytes] = attrgetter("digest")) -> None:
        self.pictures, self.digest = pictures, digest
        self._by_encoder: WeakKeyDictionary[Any, OrderedDict[tuple[bytes, Variant], Result]] = (
            WeakKeyDictionary()
        )
        self._lock = ForkSafeLock()
        _caches.add(self)

    def get_or_compute(
        self,
        encoder: object,
        images: Sequence[LoadedImage],
        variants: Sequence[Variant],
        compute: Callable[[list[tuple[LoadedImage, Variant]]], Sequence[Result]],
    ) -> list[Result]:
        """Return the result for each picture and variant; `compute` computes those that are not cached."""
        keys = [(self.digest(one), variant) for one, variant in zip(images, variants, strict=True)]
        with self._lock:
            remembered = self._by_encoder.setdefault(encoder, OrderedDict())
            found = {key: remembered[key] for key in keys if key in remembered}
        missing = {key: (one, key[1]) for key, one in zip(keys, images, strict=True) if key not in found}
        if missing:
            found |= dict(zip(missing, compute(list(missing.values())), strict=True))
        with self._lock:
            for key in keys:
                remembered[key] = found[key]
                remembered.move_to_end(key)
            while len(remembered) > self.pictures:
                remembered.popitem(last=False)
        return [found[key] for key in keys]

    def cached(
        self, encoder: object, image: LoadedImage, variants: Sequence[Variant]
    ) -> dict[Variant, Result]:
        """Return the cached results of a picture for these variants."""
        with self._lock:
            remembered = self._by_encoder.get(encoder) or OrderedDict()
            keys = [(self.digest(image), variant) for variant in variants]
            return {key[1]: remembered[key] for key in keys if key in remembered}

    def clear(self) -> None:
        """Delete all results."""
        with self._lock:
            self._by_encoder.clear()


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """Windows of one picture: C `boxes` in its pixels, and their `features`, C × D, each of length 1."""

    boxes: tuple[Box, ...]
    features: FloatArray


def _working_factor(photo: LoadedImage) -> int:
    """Power of two by which the sides of a picture are reduced before it is cropped."""
    factor: int = 2 ** int(log2(max(min(photo.image.size) / WORKING_SIDE, 1)))
    return factor


_feature_cache: PictureCache[Box, FloatArray] = PictureCache(
    CACHED_PICTURES * CROPS_A_PICTURE,
    lambda photo: photo.digest_reduced(_working_factor(photo)),  # crops are made from the reduced picture
)


def features(
    encoder: ImageEncoder, images: Sequence[LoadedImage], crops: Crops = "auto"
) -> list[PictureFeatures]:
    """Encode the windows of each picture; features of the last 64 pictures are cached by their pixels."""
    return encode_boxes(encoder, images, [windows(*photo.image.size, crops) for photo in images])


def refine_boxes(
    encoder: ImageEncoder, images: Sequence[LoadedImage], boxes: Sequence[Box]
) -> list[PictureFeatures]:
    """Encode the variations of one window of each picture, all in one pass; the last ones are cached."""
    varied = [variations(box, photo.image.size) for photo, box in zip(images, boxes, strict=True)]
    return encode_boxes(encoder, images, varied)


def encode_boxes(
    encoder: ImageEncoder, images: Sequence[LoadedImage], boxes: Sequence[Sequence[Box]]
) -> list[PictureFeatures]:
    """Encode parts of each picture. Those not cached are encoded in full batches across pictures.

    Args:
        encoder: the image encoder.
        images: the pictures.
        boxes: for each picture at least one box, in its pixels.
    """
    pairs = [(photo, box) for photo, own in zip(images, boxes, strict=True) for box in own]
    rows = _feature_cache.get_or_compute(
        encoder,
        [photo for photo, _ in pairs],
        [box for _, box in pairs],
        lambda new: _encode_parts(encoder, new),
    )
    ends = np.cumsum([len(own) for own in boxes]).tolist()
    stacked = [np.stack(rows[end - len(own) : end]) for own, end in zip(boxes, ends, strict=True)]
    return [PictureFeatures(tuple(own), part) for own, part in zip(boxes, stacked, strict=True)]


def cached_parts(encoder: ImageEncoder, photo: LoadedImage, boxes: Sequence[Box]) -> PictureFeatures:
    """Return the boxes whose features are cached, with the features; nothing is encoded."""
    cached = _feature_cache.cached(encoder, photo, boxes)
    return PictureFeatures(tuple(cached), np.array(list(cached.values()), dtype=np.float32))


def cache_parts(encoder: ImageEncoder, photo: LoadedImage, parts: PictureFeatures) -> None:
    """Put features of parts of a picture, encoded earlier, into the cache."""
    rows = dict(zip(parts.boxes, parts.features, strict=True))
    _feature_cache.get_or_compute(
        encoder, [photo] * len(rows), list(rows), lambda new: [rows[box] for _, box in new]
    )


def forget_pictures() -> None:
    """Clear all caches of pictures, those of faces too: for measurements, or for privacy."""
    for cache in list(_caches):
        cache.clear()


def whiten(encoder: ImageEncoder, rows: FloatArray) -> FloatArray:
    """Apply the encoder's whitening, if it has one, to N × D features."""
    whitening = encoder.whitening()
    return rows if whitening is None else whitening(rows)


def _encode_parts(encoder: ImageEncoder, parts: Sequence[tuple[LoadedImage, Box]]) -> list[FloatArray]:
    """One row per part; `CROPS_AT_ONCE` at a time, since all crops together may take gigabytes."""
    rows: list[FloatArray] = []
    for start in range(0, len(parts), CROPS_AT_ONCE):
        crops = [
            crop
            for photo, box in parts[start : start + CROPS_AT_ONCE]
            for crop in crop_boxes(photo, [box], encoder)
        ]
        rows += list(np.array(encoder.encode(crops), dtype=np.float32))
    return rows


def crop_boxes(photo: LoadedImage, boxes: Sequence[Box], encoder: ImageEncoder) -> list[Image.Image]:
    """Crop a picture to each of the boxes; a very large picture is reduced first.

    If the encoder states the side of its input in pixels (`input_side`), a large piece is cropped from a
    reduced copy, in which the piece has 1.5 to 3 times that side. The copies are shared, so that a large
    picture is not reduced once per piece.
    """
    working = _working_factor(photo)
    photo.reduced(working)  # smaller copies are made from this one
    side = getattr(encoder, "input_side", None)
    crops = []
    for box in boxes:
        factor = working
        while side and min(box[2] - box[0], box[3] - box[1]) > 3 * side * factor:
            factor *= 2
        left, top, right, bottom = (round(edge / factor) for edge in box)
        crops.append(photo.reduced(factor).crop((left, top, right, bottom)))
    return crops


def encoder_fingerprint(encoder: ImageEncoder) -> FloatArray:
    """D: whitened features of the drawn picture, which identify the encoder's weights; cached as usual."""
    drawn: FloatArray = features(encoder, [LoadedImage(drawn_picture(), "the drawn picture")], "none")[
        0
    ].features
    whitened: FloatArray = whiten(encoder, drawn)[0]
    return whitened


def check_encoder_fingerprint(encoder: ImageEncoder, kept: Sequence[FloatArray]) -> None:
    """Raise ConceptFileError unless the encoder's fingerprint matches that of every head (`kept`)."""
    now = encoder_fingerprint(encoder)
    sizes = {len(one) for one in kept}
    alike = float((np.stack(kept) @ now).min()) if sizes == {len(now)} else None
    if alike is None or alike < MIN_COSINE:
        raise ConceptFileError(
            f"A head was learned with other weights of {encoder.id} than those loaded now.",
            got=f"feature lengths {sorted(sizes)}"
            if alike is None
            else f"a cosine similarity of {alike:.3f}",
            expected=f"feature length {len(now)}" if alike is None else f"at least {MIN_COSINE}",
            fix="load the weights it was learned with, or learn the concept again",
        )


def same_weights(fingerprint: FloatArray, other: FloatArray) -> bool:
    """Whether two fingerprints belong to the same weights of an encoder."""
    return fingerprint.shape == other.shape and float(fingerprint @ other) >= MIN_COSINE


def drawn_picture() -> Image.Image:
    """Draw a ramp, a disc and a chequerboard, in integer arithmetic so that it is the same everywhere."""
    down, across = np.mgrid[0:96, 0:96]
    red = (across * 255) // 95
    green = np.where((across - 30) ** 2 + (down - 60) ** 2 < 400, 220, 40)
    blue = np.where((across // 12 + down // 12) % 2 == 0, 200, 60)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))
