"""Face heads on simulated descriptors with the distances measured for dlib/resnet-v1.

Descriptors are drawn around a centre per person, with a number of dimensions that gives the measured spread
of distances between strangers; some photos lie farther from the centre than others. `quantiles` returns the
quantiles that were measured in `shared/faces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from PIL import Image

from myvlm.heads import FaceHead
from myvlm.heads.faces.clustering import distances
from myvlm.heads.faces.dlib import DlibEncoder
from myvlm.heads.faces.encoders import Faces
from myvlm.images import load_images

DIMENSIONS = 50
CENTRE, PHOTO, PHOTO_SPREAD = 0.475, 0.3, 0.2
"""Norm of a centre, median distance of a photo from it, and standard deviation of that distance's log, chosen
so that strangers are 0.796 apart, and two photos of a person 0.427."""
FACES_A_PERSON = 1000


class DrawnDlib:
    """Simulated face encoder: a picture is one pixel; its colour is the number of a face, 1000 per person."""

    id = "drawn/dlib"
    threshold = DlibEncoder.threshold
    strangers = DlibEncoder.strangers
    threshold_source = DlibEncoder.threshold_source

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        rows = [descriptor(number_of(image)) for image in images]
        return [Faces(((0.0, 0.0, 1.0, 1.0),), row[None].astype(np.float32)) for row in rows]

    def describe(self, faces: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([descriptor(7) for _ in faces]).astype(np.float32)


def descriptor(number: int) -> np.ndarray:
    rng = np.random.default_rng([number, 1])
    centre = np.random.default_rng(number // FACES_A_PERSON).normal(size=DIMENSIONS)
    way = PHOTO * np.exp(PHOTO_SPREAD * np.clip(rng.normal(), -2, 2))  # farther photos cannot be learned from
    return (CENTRE * centre + way * rng.normal(size=DIMENSIONS)) / np.sqrt(DIMENSIONS)


def picture_of(person: int, face: int) -> Image.Image:
    number = FACES_A_PERSON * person + face
    return Image.new("RGB", (1, 1), (number >> 16 & 255, number >> 8 & 255, number & 255))


def number_of(image: Image.Image) -> int:
    red, green, blue = image.getpixel((0, 0))
    return int(red << 16 | green << 8 | blue)


def quantiles(people: int = 200, keys: int = 4) -> dict[str, float]:
    """Some quantiles of the simulated distances, with the names of `shared/faces/dlib_distances.json`."""
    own = [[descriptor(FACES_A_PERSON * one + face) for face in range(keys + 1)] for one in range(people)]
    rows = np.array(own)
    new = [distances(one[keys:], one[:keys]).min() for one in rows]
    apart = [
        distances(rows[one, keys:], rows[other, :keys]).min() for one, other in permutations(range(people), 2)
    ]
    pairs = distances(rows[:, 0], rows[:, 0])[np.triu_indices(people, 1)]
    same = [distances(one, one)[np.triu_indices(keys + 1, 1)] for one in rows]
    return {
        "same_person_any_pair 0.5": float(np.median(same)),
        "same_person_new_photo_to_nearest_of_4_keys 0.95": float(np.quantile(new, 0.95)),
        "strangers_any_pair 0.01": float(np.quantile(pairs, 0.01)),
        "strangers_to_nearest_of_one_persons_4_keys 0.001": float(np.quantile(apart, 0.001)),
    }


def dlib_faces(people: int, keys: int = 4, tests: int = 10, others: int = 500) -> dict[str, float]:
    """The default head in a library of `people` people, tested on their other photos and on strangers."""
    encoder = DrawnDlib()
    heads = [FaceHead(encoder).fit([picture_of(one, face) for face in range(keys)]) for one in range(people)]
    gate = FaceHead.gate(heads)
    shown = [picture_of(one, 500 + face) for one in range(people) for face in range(tests)]
    strangers = [picture_of(people + one, 0) for one in range(others)]
    present = gate.score(load_images(shown)).present
    right = present[np.arange(len(shown)), np.repeat(np.arange(people), tests)]
    named = gate.score(load_images(strangers)).present.any(axis=1)
    found = {"right": right, "wrong": present.any(axis=1) & ~right, "strangers": named}
    return {f"dlib_{name}_{people}": round(float(values.mean()), 4) for name, values in found.items()}
