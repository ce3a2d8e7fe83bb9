"""Corrections of face heads: finding the face of a photo that a correction is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from myvlm.boxes import Box, overlap
from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.examples import CorrectedPicture
from myvlm.heads.faces.clustering import distances
from myvlm.heads.faces.encoders import FaceEncoder, find_faces
from myvlm.images import LoadedImage

MIN_BOX_OVERLAP = 0.5
"""Overlap of a face and a box, as a fraction of the smaller one, from which it is the face in the box."""
CLEAR_DISTANCE_RATIO = 0.85
"""Without a box, a face that the head missed is taken as the one that is meant only if its distance to the
keys is at most this fraction of the next face's."""


def descriptor_of_corrected_face(
    encoder: FaceEncoder, photo: LoadedImage, correction: CorrectedPicture, keys: FloatArray
) -> FloatArray:
    """Descriptor, 1 × D, of the face in the box; without a box, of the face most similar to the person.

    Raises:
        InputError: there is no face, none is in the box, or it is not clear which face is meant.
    """
    [faces] = find_faces(encoder, [photo])
    if not len(faces):
        raise _no_face(f"in {photo.name}", "no face found")
    if correction.box is not None:
        shared = [overlap(box, correction.box) for box in faces.boxes]
        if max(shared) < MIN_BOX_OVERLAP:
            raise _no_face(
                f"in that part of {photo.name}",
                f"box {correction.box}, faces at {_listed_boxes(faces.boxes)}",
            )
        return faces.descriptors[[int(np.argmax(shared))]]
    nearest = distances(faces.descriptors, keys).min(axis=1)
    first, *rest = nearest.argsort().tolist()
    # a false alarm is about the nearest face; which face was missed is less clear
    if correction.present and rest and nearest[first] > CLEAR_DISTANCE_RATIO * nearest[rest[0]]:
        raise InputError(
            f"There are {len(faces)} faces in {photo.name}: which one do you mean?",
            got=f"faces at {_listed_boxes(faces.boxes)}, equally similar to the person",
            expected="the box of one face",
            fix="pass box=(left, top, right, bottom), in pixels",
        )
    return faces.descriptors[[first]]


def _no_face(where: str, got: str) -> InputError:
    return InputError(
        f"There is no face {where}.",
        got=got,
        expected="a face seen from the front, at least 20 pixels wide",
        fix="pass a box around the face, or correct another photo",
    )


def _listed_boxes(boxes: Sequence[Box]) -> str:
    return ", ".join("(" + ", ".join(f"{edge:.0f}" for edge in box) + ")" for box in boxes)
