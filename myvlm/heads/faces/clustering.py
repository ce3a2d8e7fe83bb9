"""Finding the person to learn: the one whose face is common to the training photos.

Photos of Anna show her friends too. Faces are grouped into people by average-linkage clustering, in which two
faces of one photo are never one person.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.faces.encoders import Faces
from myvlm.images import LoadedImage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Person:
    """One person in the photos: index of a photo → index of the person's face in it."""

    faces: dict[int, int]

    def __len__(self) -> int:
        return len(self.faces)


def common_person(photos: Sequence[LoadedImage], found: Sequence[Faces], threshold: float) -> Person:
    """Find the person in most of the photos, who must be in more than half of those that show a face.

    Photos without a face, or without that person, are ignored with a warning that names them.

    Args:
        photos: the photos, whose names are used in messages.
        found: the faces of each photo.
        threshold: mean distance up to which groups of faces are merged into one person.

    Raises:
        InputError: no photo shows a face, no face is common to them, or two people are equally common.
    """
    names = [photo.name for photo in photos]
    seen = [photo for photo, faces in enumerate(found) if len(faces)]
    if not seen:
        raise InputError(
            "There is no face in any of the photos.",
            got=", ".join(names),
            expected="photos in which the face is seen from the front, at least 20 pixels wide",
            fix="choose other photos, or learn the person as an object: kind='object'",
        )
    people = sorted(_cluster_faces(found, threshold), key=len, reverse=True)
    best = people[0]
    rivals = [one for one in people[1:] if len(one) == len(best)]
    if len(best) <= len(seen) / 2:
        raise InputError(
            "No face is common to the photos.",
            got="; ".join(f"{names[i]}: {len(found[i])} faces" for i in seen),
            expected="the same person in all of them",
            fix="remove photos of other people; very old photos and turned heads may not be recognized",
        )
    if rivals:
        boxes = ", ".join(_box_text(one, found, names) for one in [best, *rivals])
        raise InputError(
            f"{1 + len(rivals)} people are in the photos equally often: which one do you mean?",
            got=boxes,
            expected="one person who is in more of the photos than anyone else",
            fix="add a photo of that person alone, or crop the photos to the face",
        )
    for photo, name in enumerate(names):
        if photo not in best.faces:
            without = "no face was found" if photo not in seen else "the person was not found"
            _log.warning("%s in %s: the photo is skipped", without, name)
    return best


def bystanders(found: Sequence[Faces], person: Person) -> FloatArray:
    """B × D: descriptors of the other faces in the photos that show the person; they are other people."""
    rows = [np.delete(found[photo].descriptors, face, axis=0) for photo, face in person.faces.items()]
    return np.concatenate(rows)


def distances(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A × D and B × D descriptors → A × B Euclidean distances, by one matrix product.

    >>> distances(np.eye(2), np.eye(2)).round(3).tolist()
    [[0.0, 1.414], [1.414, 0.0]]
    """
    first, second = first.astype(np.float64), second.astype(np.float64)  # a² + b² − 2ab cancels in float32
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _cluster_faces(found: Sequence[Faces], threshold: float) -> list[Person]:
    """Merge the two nearest groups of faces that share no photo, as long as their mean distance allows."""
    groups = [[(photo, face)] for photo, faces in enumerate(found) for face in range(len(faces))]
    rows = np.concatenate([faces.descriptors for faces in found if len(faces)])
    apart = distances(rows, rows)
    at = [[index] for index in range(len(groups))]
    while True:
        nearest: tuple[float, int, int] | None = None
        for one in range(len(groups)):
            for other in range(one):
                if {photo for photo, _ in groups[one]} & {photo for photo, _ in groups[other]}:
                    continue
                mean = float(apart[np.ix_(at[one], at[other])].mean())
                if mean <= threshold and (nearest is None or mean < nearest[0]):
                    nearest = (mean, one, other)
        if nearest is None:
            return [Person(dict(group)) for group in groups]
        _, one, other = nearest
        groups[other] += groups.pop(one)
        at[other] += at.pop(one)


def _box_text(person: Person, found: Sequence[Faces], names: Sequence[str]) -> str:
    photo, face = next(iter(person.faces.items()))
    box = ", ".join(f"{edge:.0f}" for edge in found[photo].boxes[face])
    return f"the face at ({box}) of {names[photo]}"
