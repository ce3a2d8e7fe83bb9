"""Face encoders: they detect the faces of a picture and compute a descriptor of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.heads.detections import FloatArray
from myvlm.heads.features import PictureCache
from myvlm.images import LoadedImage

CACHED_PICTURES = 64
WORKING_SIDE = 1280
"""Longest side of the picture in which faces are detected; descriptors are made from the full picture."""
SMALLEST_FACE = 20
"""Smallest side of a face, in pixels of the picture in which faces are detected."""


DETAIL_SIDE, COARSE_SIDE = 96, 24
"""Sides, in pixels, to which a face is resized to measure its detail: with detail, and without."""
MIN_CONTRAST = 4.0
"""Standard deviation in grey levels below which a patch is too uniform to show whether it is sharp."""


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces detected in one picture.

    Attributes:
        boxes: boxes of F faces, in the picture's pixels.
        descriptors: F × D float32.
        detail: for each face, the fraction of its variation that 24 × 24 pixels cannot represent, see
            `detail_of`; encoders need not set it.
    """

    boxes: tuple[Box, ...]
    descriptors: FloatArray
    detail: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)


class FaceEncoder(Protocol):
    """Detects faces and computes descriptors; those of one person are near each other.

    Attributes:
        threshold: Euclidean distance up to which two descriptors count as one person's.
        threshold_source: a sentence on where that number comes from.

    It may also have `strangers`, mean and standard deviation of the distance between two strangers' faces,
    or, for descriptors of length 1, `threshold_error`, the fraction of such pairs nearer than the threshold.
    From these, heads choose stricter thresholds for larger libraries (`limit_for`); without, typical values
    are used.
    """

    threshold: float
    threshold_source: str

    @property
    def id(self) -> str:
        """The name under which `get_face_encoder` finds it again; it is written into concept files."""
        ...

    def faces(self, images: Sequence[Image.Image]) -> Sequence[Faces]:
        """Detect all faces of each picture; descriptors are 0 × D if there is none."""
        ...

    def describe(self, faces: Sequence[Image.Image]) -> FloatArray:
        """Compute descriptors: F aligned faces, square pictures of any size → F × D float32."""
        ...


_cache: PictureCache[None, Faces] = PictureCache(CACHED_PICTURES)


def find_faces(encoder: FaceEncoder, images: Sequence[LoadedImage]) -> list[Faces]:
    """Find the faces of each picture; those of the last 64 pictures are cached by pixels, in memory only."""

    def found(new: Sequence[tuple[LoadedImage, None]]) -> list[Faces]:
        pictures = [photo.image for photo, _ in new]
        return [
            replace(faces, detail=tuple(detail_of(picture, box) for box in faces.boxes))
            for picture, faces in zip(pictures, encoder.faces(pictures), strict=True)
        ]

    return _cache.get_or_compute(encoder, images, [None] * len(images), found)


def detail_of(image: Image.Image, box: Box) -> float:
    """Fraction of a face's variation that is lost at 24 × 24 pixels: little if the face is small or blurred.

    It is 1 for a patch of nearly one colour, for which it cannot be measured.

    >>> rough, smooth = Image.effect_noise((96, 96), 64), Image.radial_gradient("L")
    >>> detail_of(rough, (0, 0, 96, 96)) > 0.5, detail_of(smooth, (0, 0, 256, 256)) < 0.1
    (True, True)
    """
    left, top, right, bottom = (round(edge) for edge in box)
    face = image.crop((left, top, max(right, left + 1), max(bottom, top + 1))).convert("L")
    fine = face.resize((DETAIL_SIDE, DETAIL_SIDE), Image.Resampling.BICUBIC)
    coarse = fine.resize((COARSE_SIDE, COARSE_SIDE), Image.Resampling.LANCZOS)
    deviation = float(np.asarray(fine).std())
    if deviation < MIN_CONTRAST:
        return 1.0
    rest = np.asarray(fine, np.float32) - np.asarray(coarse.resize(fine.size, Image.Resampling.BICUBIC))
    return float(rest.std()) / deviation


def reduced_for_detection(image: Image.Image) -> tuple[Image.Image, float]:
    """Reduce a picture for the detection of faces; the factor converts its coordinates to the original's."""
    factor = max(1.0, max(image.size) / WORKING_SIDE)
    if factor == 1:
        return image, factor
    size = (max(round(image.width / factor), 1), max(round(image.height / factor), 1))
    return image.resize(size, reducing_gap=2.0), factor


def clip_box(box: Any, size: tuple[int, int]) -> Box | None:
    """Clip a box to the picture; None if less than 2 pixels are left of a side."""
    left, top = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
    right, bottom = min(float(box[2]), float(size[0])), min(float(box[3]), float(size[1]))
    return (left, top, right, bottom) if right - left >= 2 and bottom - top >= 2 else None
