"""Results of heads: one score, one detection, the scores of many heads, the detections of one picture.

Detections are created lazily, because of ten thousand concepts only a few are in a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box

FloatArray: TypeAlias = npt.NDArray[np.float32]
Verdict: TypeAlias = Literal["present", "unsure", "absent"]

UNSURE = 0.25
"""A probability closer to 0.5 than this is unsure: between 0.25 and 0.75 at least one answer in four is
wrong. It is stored in each head's calibration; heads from files that lack it are never unsure."""


def verdict_of(present: bool, unsure: bool) -> Verdict:
    """Combine the two flags into one word.

    >>> verdict_of(True, False), verdict_of(True, True)
    ('present', 'unsure')
    """
    return "unsure" if unsure else "present" if present else "absent"


def sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logistic function, without overflow at either end."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), dtype=np.float64)


def near_half(probabilities: npt.NDArray[Any], margin: float | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each probability is closer to 0.5 than the margin; never where the margin is 0.

    >>> near_half(np.array([0.3, 0.75, 0.5]), UNSURE).tolist()
    [True, False, True]
    """
    return np.asarray(np.abs(probabilities - 0.5) < margin)


@dataclass(frozen=True)
class HeadScore:
    """Score of one head on one picture.

    Attributes:
        probability: calibrated probability that the concept is present, 0.5 at the head's threshold.
        present: whether the score reaches the threshold.
        box: left, top, right, bottom in pixels: where the concept most likely is, whether or not it is
            present; None if the head gives no box.
        unsure: whether the probability is too close to 0.5 to rely on.
    """

    probability: float
    present: bool
    box: Box | None
    unsure: bool = False

    @property
    def verdict(self) -> Verdict:
        """One of "present", "absent" and "unsure". A `present` concept is used in replies even if unsure."""
        return verdict_of(self.present, self.unsure)


@dataclass(frozen=True)
class _Identified:
    """The first field of a `Detection`, in a base class of its own: dataclass fields are ordered by base."""

    identifier: str


@dataclass(frozen=True)
class Detection(HeadScore, _Identified):
    """Result for one concept in one picture: the score of its head, with the concept's identifier.

    Attributes:
        identifier: the concept's identifier.
        probability, present, unsure: as in `HeadScore`.
        box: as in `HeadScore`, but None where the concept is absent.

    >>> Detection("sks", 0.98, True, (10.0, 20.0, 110.0, 120.0)).box[2]
    110.0
    >>> Detection("sks", 0.55, True, None, unsure=True).verdict
    'unsure'
    """


Locate: TypeAlias = Callable[[int], FloatArray]
"""Index of a picture → M × 4 boxes, one for each head."""


class GateScores:
    """Scores of M heads on N pictures.

    Args:
        probabilities: N × M float32, calibrated.
        present: N × M bool.
        boxes: N × M × 4 float32, left, top, right, bottom in pixels, NaN where a head gives none; or a
            function that computes the boxes of one picture when they are first needed.
        unsure: N × M bool, or None for heads that are never unsure.

    >>> scores = GateScores(np.ones((1, 1)), np.ones((1, 1), bool), lambda picture: np.ones((1, 4)))
    >>> scores.at(0, 0).box
    (1.0, 1.0, 1.0, 1.0)
    """

    def __init__(
        self,
        probabilities: FloatArray,
        present: npt.NDArray[np.bool_],
        boxes: FloatArray | Locate,
        unsure: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.probabilities, self.present, self.unsure = probabilities, present, unsure
        self._locate = boxes if callable(boxes) else boxes.__getitem__
        self._boxes: dict[int, FloatArray] = {}

    @property
    def boxes(self) -> FloatArray:
        """N × M × 4 float32, NaN where a head gives no box."""
        found = [self.boxes_of(picture) for picture in range(len(self.present))]
        return np.stack(found) if found else np.empty((*self.present.shape, 4), np.float32)

    def boxes_of(self, picture: int) -> FloatArray:
        """Boxes of one picture, M × 4; computed once."""
        if picture not in self._boxes:
            self._boxes[picture] = self._locate(picture)
        return self._boxes[picture]

    def compute_present_boxes(self) -> None:
        """Compute the boxes of every picture in which a concept is present, then release the pictures.

        From then on, boxes that were not computed are NaN.
        """
        nowhere = np.full((self.present.shape[1], 4), np.nan, np.float32)
        for picture in np.flatnonzero(self.present.any(axis=1)).tolist():
            self.boxes_of(picture)
        self._locate = lambda picture: nowhere

    def __reduce__(self) -> tuple[Any, ...]:
        # `_locate` refers to pictures and an encoder, which are not pickled: boxes are computed now
        return GateScores, (self.probabilities, self.present, self.boxes, self.unsure)

    def at(self, picture: int, head: int, *, located: bool = True) -> HeadScore:
        """Score of one head on one picture; without a box, and without computing it, unless `located`."""
        box = self.boxes_of(picture)[head] if located else np.full(4, np.nan, np.float32)
        return HeadScore(
            float(self.probabilities[picture, head]),
            bool(self.present[picture, head]),
            None if np.isnan(box).any() else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            self.unsure is not None and bool(self.unsure[picture, head]),
        )


class Detections(Sequence[Detection]):
    """The detections of one picture: one for each concept, present or absent, in the library's order.

    Compares equal to any sequence of the same detections.

    Args:
        identifiers: identifiers of the M concepts.
        scores: scores of the M concepts on N pictures.
        picture: index of the picture among the N.

    >>> nothing = merge(0, [], pictures=1)
    >>> Detections((), nothing) == ()
    True
    """

    def __init__(self, identifiers: Sequence[str], scores: GateScores, picture: int = 0) -> None:
        self._identifiers = identifiers
        self._scores = scores
        self._picture = picture

    @property
    def present(self) -> list[Detection]:
        """Detections of the concepts that are present."""
        return [self[place] for place in self.present_indices]

    @property
    def seen(self) -> list[str]:
        """Identifiers of the concepts that are present; no box is computed."""
        return [self._identifiers[place] for place in self.present_indices]

    def box_of(self, identifier: str) -> Box | None:
        """Box of a concept that is present; None if it is absent or its head gives no box."""
        there = (place for place in self.present_indices if self._identifiers[place] == identifier)
        return next((self[place].box for place in there), None)

    def compute_present_boxes(self) -> None:
        """Compute the boxes of all present concepts now, and release the pictures.

        This includes the pictures that were scored in one call with this one.
        """
        self._scores.compute_present_boxes()

    @property
    def present_indices(self) -> list[int]:
        """Indices of the concepts that are present."""
        return [int(index) for index in np.flatnonzero(self._scores.present[self._picture])]

    def __len__(self) -> int:
        return len(self._identifiers)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> list[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | list[Detection]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        # no box is computed for an absent concept: nobody needs it
        score = self._scores.at(
            self._picture, place, located=bool(self._scores.present[self._picture, place])
        )
        return Detection(self._identifiers[index], **vars(score))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Detections({list(self)!r})"


def merge(width: int, parts: Sequence[tuple[npt.NDArray[np.int64], GateScores]], pictures: int) -> GateScores:
    """Merge the scores of several gates on the same pictures into one table of M columns.

    Args:
        width: M, the number of heads of all gates.
        parts: for each gate, the columns of its heads and its scores.
        pictures: N, the number of pictures.
    """
    probabilities: FloatArray = np.empty((pictures, width), dtype=np.float32)
    present, unsure = np.empty((pictures, width), dtype=bool), np.zeros((pictures, width), dtype=bool)
    for columns, scores in parts:
        probabilities[:, columns], present[:, columns] = scores.probabilities, scores.present
        if scores.unsure is not None:
            unsure[:, columns] = scores.unsure

    def boxes_of(picture: int) -> FloatArray:
        boxes: FloatArray = np.empty((width, 4), dtype=np.float32)
        for columns, scores in parts:
            boxes[columns] = scores.boxes_of(picture)
        return boxes

    return GateScores(probabilities, present, boxes_of, unsure)
