"""Gate of face heads: one distance matrix of all faces and keys, and each face assigned to one person."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import numpy as np
import numpy.typing as npt

from myvlm.errors import ConceptFileError
from myvlm.heads.detections import FloatArray, GateScores, near_half, sigmoid
from myvlm.heads.faces.clustering import distances
from myvlm.heads.faces.encoders import FaceEncoder, Faces, find_faces
from myvlm.heads.faces.threshold import STRANGERS, nearer_by_blur
from myvlm.heads.features import drawn_picture
from myvlm.images import LoadedImage

MAX_DRIFT = 0.1
"""Largest distance, in thresholds, between descriptors of one picture by the same weights on two devices."""

Doubles = npt.NDArray[np.float64]


class KnownPerson(Protocol):
    """Attributes of a fitted `FaceHead` that the gate reads."""

    keys_: FloatArray
    strangers_: FloatArray
    slope_: float
    unsure_: float
    encoder_fingerprint_: FloatArray

    def threshold_among(self, people: int, encoder: FaceEncoder, strangers: float = ...) -> float: ...


class FaceGate:
    """Scores M people by one matrix of all their keys; the more people, the stricter the thresholds.

    Args:
        encoder: the face encoder of all heads.
        heads: fitted heads.

    Raises:
        ConceptFileError: the lengths of their descriptors differ.
    """

    def __init__(self, encoder: FaceEncoder, heads: Sequence[KnownPerson]) -> None:
        self._encoder, self._heads = encoder, heads
        sizes = {head.keys_.shape[1] for head in heads}
        if len(sizes) != 1:
            raise ConceptFileError(
                "The face descriptors of these people come from different encoders.",
                got=f"descriptors of lengths {sorted(sizes)}",
                expected=f"the length of {encoder.id}",
                fix="use unaltered copies of the concept folders, or learn them again",
            )
        self._keys = np.concatenate([head.keys_ for head in heads])
        self._fingerprints = np.stack([head.encoder_fingerprint_ for head in heads])
        self._checked = False
        self._starts = np.cumsum([0] + [len(head.keys_) for head in heads])[:-1]
        # Faces that users said are not the person: few, and of few people.
        self._strangers = np.concatenate([head.strangers_ for head in heads])
        self._stranger_of = np.repeat(np.arange(len(heads)), [len(head.strangers_) for head in heads])
        self._threshold = np.array([head.threshold_among(len(heads), encoder) for head in heads])
        self._slope = np.array([head.slope_ for head in heads])
        self._unsure = np.array([head.unsure_ for head in heads])

    def held_to(self, false_names: float) -> FaceGate:
        """Return a gate of the same people, limited to a rate of false detections.

        Thresholds that the user gave, and published ones, stay.

        Args:
            false_names: expected fraction of strangers' faces that may be taken for any of the people.
        """
        held, rate = copy(self), min(false_names, STRANGERS)
        held._threshold = np.array(
            [head.threshold_among(len(self._heads), self._encoder, rate) for head in self._heads]
        )
        return held

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """Detect and encode the faces of N pictures in one pass and cache them."""
        find_faces(self._encoder, images)

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """Score N pictures → N × M probabilities, presence and boxes of faces; boxes are NaN without a face.

        Raises:
            ConceptFileError: the keys were learned with other weights of the encoder.
        """
        pictures = find_faces(self._encoder, images)
        if not self._checked and any(map(len, pictures)):
            self._check_weights()
        count = (len(pictures), len(self._threshold))
        probabilities = np.zeros(count)
        boxes = np.full((*count, 4), np.nan, dtype=np.float32)
        for index, faces in enumerate(pictures):
            if len(faces):
                probabilities[index], chosen = self._match_people(faces)
                boxes[index] = np.asarray(faces.boxes, dtype=np.float32)[chosen]
        present = probabilities >= 0.5
        return GateScores(
            probabilities.astype(np.float32), present, boxes, near_half(probabilities, self._unsure)
        )

    def likely(self, photos: Sequence[FloatArray]) -> Doubles:
        """Score the kept face descriptors of N photos, R × D each → N × M probabilities."""
        best = np.stack([self._logits(faces, ()).max(axis=0) for faces in photos])
        return sigmoid(np.maximum(best, -700.0))

    def _logits(self, descriptors: FloatArray, detail: Sequence[float]) -> Doubles:
        """F × M logits: 0 or more if a face is within a person's threshold and not nearer to a stranger.

        The threshold is stricter for a small or blurred face (`nearer_by_blur`), if `detail` is given.
        """
        nearest = np.minimum.reduceat(distances(descriptors, self._keys), self._starts, axis=1)
        margin = -nearest - self._threshold
        if detail:
            margin = margin - nearer_by_blur(self._encoder, detail)[:, None]
        if len(self._strangers):
            rivals = distances(descriptors, self._strangers)
            for person in np.unique(self._stranger_of).tolist():
                rival = rivals[:, self._stranger_of == person].min(axis=1)
                margin[:, person] = np.minimum(margin[:, person], rival - nearest[:, person])
        return np.asarray(self._slope * margin, dtype=np.float64)

    def _check_weights(self) -> None:
        now = face_encoder_fingerprint(self._encoder)
        same_length = self._keys.shape[1] == len(now)
        apart = float(np.linalg.norm(self._fingerprints - now, axis=1).max()) if same_length else None
        if apart is None or apart > MAX_DRIFT * self._encoder.threshold:
            raise ConceptFileError(
                f"A head was learned with other weights of {self._encoder.id} than those loaded now.",
                got=f"keys of length {self._keys.shape[1]}"
                if apart is None
                else f"a distance of {apart:.3f}",
                expected=f"length {len(now)}" if apart is None else "the same descriptor of one picture",
                fix="load the weights it was learned with, or learn the concept again",
            )
        self._checked = True

    def _match_people(self, faces: Faces) -> tuple[Doubles, npt.NDArray[np.int64]]:
        """For each person the probability, and the index of the face that it refers to."""
        logits = self._logits(faces.descriptors, faces.detail)
        chosen = logits.argmax(axis=0)
        best = logits.max(axis=0)
        claimants = np.flatnonzero(best >= 0)  # only these people need a face assigned to them
        assigned = _assign(logits[:, claimants])
        free = np.setdiff1d(np.arange(len(faces)), assigned)
        for person, face in zip(claimants, assigned, strict=True):
            if face >= 0:
                best[person], chosen[person] = logits[face, person], face
            else:  # every face that might be this person's was assigned to others
                best[person] = logits[free, person].max() if len(free) else -np.inf
        return sigmoid(np.maximum(best, -700.0)), chosen


def face_encoder_fingerprint(encoder: FaceEncoder) -> FloatArray:
    """D: descriptor of the drawn picture, which identifies the encoder's weights."""
    described: FloatArray = encoder.describe([drawn_picture()])[0]
    return described


def _assign(logits: Doubles) -> npt.NDArray[np.int64]:
    """F × P logits → for each person the index of a face, or −1; maximizes the sum of the assigned logits.

    No face is assigned twice, and none with a logit below 0.

    >>> _assign(np.array([[5.0, 4.0], [-9.0, 3.0]])).tolist()
    [0, 1]
    >>> _assign(np.array([[5.0, 4.0]])).tolist()
    [0, -1]
    """
    from scipy.optimize import linear_sum_assignment

    assigned = np.full(logits.shape[1], -1, dtype=np.int64)
    # + 1: of equal sums the one with more people is preferred, and a logit of exactly 0 counts
    faces, people = linear_sum_assignment(np.where(logits >= 0, logits + 1, 0), maximize=True)
    granted = logits[faces, people] >= 0
    assigned[people[granted]] = faces[granted]
    return assigned
