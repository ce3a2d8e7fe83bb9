"""Many people at once: by their faces; by their looks, never more than unsure, where no face is seen."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from myvlm.boxes import Box, overlap
from myvlm.heads.detections import UNSURE, GateScores
from myvlm.heads.faces.encoders import FaceEncoder, find_faces
from myvlm.heads.faces.gate import FaceGate
from myvlm.heads.objects.gate import ObjectGate
from myvlm.images import LoadedImage

ASIDE, ABOVE, BELOW = 1.0, 0.5, 5.0
"""How far head and body reach from a face, in its width and height: a person is some seven heads tall."""

SHARED = 0.25
"""The part of the smaller one that a look's box and a face's body share, from which on they may be one:
better no proposal than one of somebody whose face says otherwise."""
ALMOST = 0.499
"""The most that a look may claim: it is absent, and unsure."""


class PersonGate:
    """M people: their faces in one pass, and their looks in another.

    Args:
        encoder: of the faces.
        faces: the gate of the M faces.
        looks: the gate of the M looks, in the same order.
    """

    def __init__(self, encoder: FaceEncoder, faces: FaceGate, looks: ObjectGate) -> None:
        self._encoder, self._faces, self._looks = encoder, faces, looks

    def held_to(self, false_names: float) -> PersonGate:
        """The same people, whose faces are held to it: looks name nobody."""
        held = copy(self)
        held._faces = self._faces.held_to(false_names)
        return held

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """See faces and windows of N pictures; the last pictures are remembered."""
        self._faces.encode(images)
        self._looks.encode(images)

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """N pictures → N × M probabilities, presence and boxes: of the face, or of the look that proposes."""
        faces, looks = self._faces.score(images), self._looks.score(images)
        seen = find_faces(self._encoder, images)
        probabilities, boxes = faces.probabilities.copy(), faces.boxes.copy()
        assert faces.unsure is not None
        unsure = faces.unsure.copy()
        for picture, person in np.argwhere(looks.present & ~faces.present).tolist():
            box = looks.boxes_of(picture)[person]
            # the face above says better who it is than the coat
            bodies = [around(face, images[picture].image.size) for face in seen[picture].boxes]
            if any(overlap(body, tuple(box.tolist())) >= SHARED for body in bodies):
                continue
            share = 2 * float(looks.probabilities[picture, person]) - 1
            claimed = 0.5 - UNSURE + share * (ALMOST - 0.5 + UNSURE)
            if claimed > probabilities[picture, person]:
                probabilities[picture, person], boxes[picture, person] = claimed, box
                unsure[picture, person] = True
        return GateScores(probabilities, faces.present, boxes, unsure)


def around(face: Box, size: tuple[int, int]) -> Box:
    """Head and body to a face, inside a picture of that width and height.

    >>> around((40.0, 20.0, 60.0, 40.0), (200, 300))
    (20.0, 10.0, 80.0, 140.0)
    """
    left, top, right, bottom = face
    wide, tall = right - left, bottom - top
    return (
        max(left - ASIDE * wide, 0.0),
        max(top - ABOVE * tall, 0.0),
        min(right + ASIDE * wide, float(size[0])),
        min(bottom + BELOW * tall, float(size[1])),
    )
