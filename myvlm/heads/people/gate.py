"""Gate of person heads: recognizes faces, and proposes people by appearance where no face is visible."""

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
"""How far head and body extend from a face, in its widths and heights: a person is some seven heads tall."""

MIN_BODY_OVERLAP = 0.25
"""Overlap of a proposed box with the body below a face, as a fraction of the smaller one, from which they may
be one person. The face then decides: no proposal is better than one that the face contradicts."""
MAX_PROPOSAL_PROBABILITY = 0.499
"""Highest probability by appearance alone: it is absent and unsure."""


class PersonGate:
    """Scores M people: their faces in one pass, and their appearance in another.

    Args:
        encoder: the face encoder.
        faces: the gate of the M face heads.
        looks: the gate of the M appearance heads, in the same order.
    """

    def __init__(self, encoder: FaceEncoder, faces: FaceGate, looks: ObjectGate) -> None:
        self._encoder, self._faces, self._looks = encoder, faces, looks

    def held_to(self, false_names: float) -> PersonGate:
        """Limit the face gate to a rate of false detections; appearance alone makes nobody present."""
        held = copy(self)
        held._faces = self._faces.held_to(false_names)
        return held

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """Encode the faces and windows of N pictures and cache their features."""
        self._faces.encode(images)
        self._looks.encode(images)

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """Score N pictures → N × M probabilities, presence and boxes, of the face or of the proposed body."""
        faces, looks = self._faces.score(images), self._looks.score(images)
        seen = find_faces(self._encoder, images)
        probabilities, boxes = faces.probabilities.copy(), faces.boxes.copy()
        assert faces.unsure is not None
        unsure = faces.unsure.copy()
        for picture, person in np.argwhere(looks.present & ~faces.present).tolist():
            box = looks.boxes_of(picture)[person]
            # a face above this body identifies the person better than the clothes do
            bodies = [body_box(face, images[picture].image.size) for face in seen[picture].boxes]
            if any(overlap(body, tuple(box.tolist())) >= MIN_BODY_OVERLAP for body in bodies):
                continue
            share = 2 * float(looks.probabilities[picture, person]) - 1
            proposed = 0.5 - UNSURE + share * (MAX_PROPOSAL_PROBABILITY - 0.5 + UNSURE)
            if proposed > probabilities[picture, person]:
                probabilities[picture, person], boxes[picture, person] = proposed, box
                unsure[picture, person] = True
        return GateScores(probabilities, faces.present, boxes, unsure)


def body_box(face: Box, size: tuple[int, int]) -> Box:
    """Box of the head and body that belong to a face, inside a picture of that width and height.

    >>> body_box((40.0, 20.0, 60.0, 40.0), (200, 300))
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
