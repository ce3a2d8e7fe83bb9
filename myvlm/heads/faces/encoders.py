"""Face encoders: what finds the faces of a picture and describes each by a point of one space."""

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
"""Faces are looked for in a picture whose longer side is at most this, and described from the whole one."""
SMALLEST_FACE = 20
"""In pixels of the picture that is searched."""


DETAIL_SIDE, COARSE_SIDE = 96, 24
"""Pixels of a face in which its detail is looked for, and of its copy that has none."""
FLAT = 4.0
"""Grey levels of deviation below which a patch does not show whether it is sharp."""


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one picture.

    Attributes:
        boxes: of F faces, in the picture's pixels.
        descriptors: F × D float32.
        detail: of each face what part of its variation is finer than 24 pixels across can show, see
            `detail_of`; encoders need not say it.
    """

    boxes: tuple[Box, ...]
    descriptors: FloatArray
    detail: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)


class FaceEncoder(Protocol):
    """Finds faces and describes each by a point; those of one person lie near each other.

    Attributes:
        threshold: up to this Euclidean distance two descriptors count as one person's.
        threshold_source: where that number comes from, in a sentence.

    It may also have `strangers`, mean and standard deviation of the distance between two strangers' faces,
    or, of descriptors of length 1, `threshold_error`, the part of such pairs nearer than the threshold. By
    them heads are stricter where many people are known (`limit_for`); without, as strict as other encoders'.
    """

    threshold: float
    threshold_source: str

    @property
    def id(self) -> str:
        """The name under which `get_face_encoder` finds it again; it is written into concept files."""
        ...

    def faces(self, images: Sequence[Image.Image]) -> Sequence[Faces]:
        """All faces of each picture; descriptors 0 × D where there is none."""
        ...

    def describe(self, faces: Sequence[Image.Image]) -> FloatArray:
        """F aligned faces, square pictures of any size → F × D float32."""
        ...


_cache: PictureCache[None, Faces] = PictureCache(CACHED_PICTURES)


def find_faces(encoder: FaceEncoder, images: Sequence[LoadedImage]) -> list[Faces]:
    """The faces of each picture; the last 64 pictures are remembered by their pixels, in memory only."""

    def found(new: Sequence[tuple[LoadedImage, None]]) -> list[Faces]:
        pictures = [photo.image for photo, _ in new]
        return [
            replace(faces, detail=tuple(detail_of(picture, box) for box in faces.boxes))
            for picture, faces in zip(pictures, encoder.faces(pictures), strict=True)
        ]

    return _cache.look_up(encoder, images, [None] * len(images), found)


def detail_of(image: Image.Image, box: Box) -> float:
    """How much of a face is lost with all that is finer than 24 pixels across: little if small or blurred.

    It is 1 where that cannot be told, of a patch of one colour.

    >>> rough, smooth = Image.effect_noise((96, 96), 64), Image.radial_gradient("L")
    >>> detail_of(rough, (0, 0, 96, 96)) > 0.5, detail_of(smooth, (0, 0, 256, 256)) < 0.1
    (True, True)
    """
    left, top, right, bottom = (round(edge) for edge in box)
    face = image.crop((left, top, max(right, left + 1), max(bottom, top + 1))).convert("L")
    fine = face.resize((DETAIL_SIDE, DETAIL_SIDE), Image.Resampling.BICUBIC)
    coarse = fine.resize((COARSE_SIDE, COARSE_SIDE), Image.Resampling.LANCZOS)
    deviation = float(np.asarray(fine).std())
    if deviation < FLAT:
        return 1.0
    rest = np.asarray(fine, np.float32) - np.asarray(coarse.resize(fine.size, Image.Resampling.BICUBIC))
    return float(rest.std()) / deviation


def reduced(image: Image.Image) -> tuple[Image.Image, float]:
    """The picture as it is searched, and how many of its pixels one of those stands for."""
    factor = max(1.0, max(image.size) / WORKING_SIDE)
    if factor == 1:
        return image, factor
    size = (max(round(image.width / factor), 1), max(round(image.height / factor), 1))
    return image.resize(size, reducing_gap=2.0), factor


def inside(box: Any, size: tuple[int, int]) -> Box | None:
    """A box cut to the picture; None if little is left of it."""
    left, top = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
    right, bottom = min(float(box[2]), float(size[0])), min(float(box[3]), float(size[1]))
    return (left, top, right, bottom) if right - left >= 2 and bottom - top >= 2 else None
