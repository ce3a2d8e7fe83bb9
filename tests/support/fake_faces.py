"""A face encoder that reads faces from coloured squares, with descriptors of a published spread.

In a black picture each coloured square is a face. Its red channel is the person, around whose centre the
descriptor is drawn; its green channel is the number of the draw. So photos of several people are easy to
make.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from myvlm.heads.faces.encoders import Faces
from myvlm.heads.faces.facenet import FacenetEncoder

SIDE = 20
DIM = 64
SAME, OTHER = 0.83, 1.40
"""Mean distance of two faces of one person, and of two people; see `benchmarks/heads.py`."""


def descriptor(person: int, draw: int) -> npt.NDArray[np.float32]:
    """A face of a person: about `SAME` from their other faces and `OTHER` from faces of anyone else."""
    centre = np.random.default_rng(person).normal(size=DIM)
    own = np.random.default_rng([person, draw]).normal(size=DIM)
    spread = SAME / np.sqrt(2 * DIM)
    apart = np.sqrt(OTHER**2 - SAME**2) / np.sqrt(2 * DIM)
    return np.asarray(apart * centre + spread * own, dtype=np.float32)


class FakeFaces:
    """A fake encoder with facenet's threshold, which fits these distances."""

    threshold = FacenetEncoder.threshold
    threshold_source = "the test says so"

    def __init__(self, id: str = "fake/faces") -> None:
        self.id = id
        self.calls: list[int] = []

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        self.calls.append(len(images))
        return [self._faces_of(np.asarray(image)) for image in images]

    def describe(self, faces: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        return np.stack([descriptor(0, int(np.asarray(face).sum()) % 1000) for face in faces])

    def _faces_of(self, pixels: npt.NDArray[np.uint8]) -> Faces:
        boxes, rows = [], []
        for top in range(0, pixels.shape[0] - SIDE + 1, SIDE):
            for left in range(0, pixels.shape[1] - SIDE + 1, SIDE):
                person, draw, _ = (int(level) for level in pixels[top + SIDE // 2, left + SIDE // 2])
                if person:
                    boxes.append((float(left), float(top), float(left + SIDE), float(top + SIDE)))
                    rows.append(descriptor(person, draw))
        return Faces(tuple(boxes), np.stack(rows) if rows else np.empty((0, DIM), np.float32))


def photo(*people: int, draw: int = 0, width: int = 5) -> Image.Image:
    """A photo of these people side by side; 0 leaves a gap, and `draw` numbers the photo."""
    image = Image.new("RGB", (SIDE * max(width, len(people)), SIDE))
    for place, person in enumerate(people):
        if person:
            image.paste((person, draw, 0), (place * SIDE, 0, (place + 1) * SIDE, SIDE))
    return image


def photos(*people: int, first: int = 1, count: int = 4) -> list[Image.Image]:
    return [photo(*people, draw=draw) for draw in range(first, first + count)]
