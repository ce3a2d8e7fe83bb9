"""What heads say of pictures: a score, a detection, the scores of many heads, the detections of one picture.

A detection is made when it is asked for: of ten thousand concepts few are in a picture.
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
"""Probabilities nearer to 0.5 than this are unsure: from 0.25 to 0.75, where one answer in four or more would
be wrong. It is stored with each head, in its calibration; heads of files that lack it are never unsure."""


def verdict_of(present: bool, unsure: bool) -> Verdict:
    """The one word for both.

    >>> verdict_of(True, False), verdict_of(True, True)
    ('present', 'unsure')
    """
    return "unsure" if unsure else "present" if present else "absent"


def sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logistic function, without overflow at either end."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), dtype=np.float64)


def within(probabilities: npt.NDArray[Any], margin: float | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which probabilities lie less than the margin from 0.5; none do where it is 0.

    >>> within(np.array([0.3, 0.75, 0.5]), UNSURE).tolist()
    [True, False, True]
    """
    return np.asarray(np.abs(probabilities - 0.5) < margin)


@dataclass(frozen=True)
class HeadScore:
    """What one head says of one picture.

    Attributes:
        probability: calibrated, 0.5 at the head's threshold.
        present: whether the score reaches the threshold, so that the concept counts as seen.
        box: left, top, right, bottom in pixels of the picture, where the concept is most likely, present or
            not; None where the head cannot say.
        unsure: whether the probability is too near 0.5 to rely on.
    """

    probability: float
    present: bool
    box: Box | None
    unsure: bool = False

    @property
    def verdict(self) -> Verdict:
        """One of "present", "absent" and "unsure"; what is `present` is named, unsure or not."""
        return verdict_of(self.present, self.unsure)


@dataclass(frozen=True)
class _Identified:
    """The first field of a `Detection`, in a base of its own: fields come in the order of the bases."""

    identifier: str


@dataclass(frozen=True)
class Detection(HeadScore, _Identified):
    """What is known of one concept in one picture: the head's score, and whose it is.

    Attributes:
        identifier: of the concept.
        probability, present, unsure: as in `HeadScore`.
        box: as there, but None where the concept is absent.

    >>> Detection("sks", 0.98, True, (10.0, 20.0, 110.0, 120.0)).box[2]
    110.0
    >>> Detection("sks", 0.55, True, None, unsure=True).verdict
    'unsure'
    """


Locate: TypeAlias = Callable[[int], FloatArray]
"""The number of a picture → M × 4, where each head finds its object."""


class GateScores:
    """What M heads say of N pictures.

    Args:
        probabilities: N × M float32, calibrated.
        present: N × M bool.
        boxes: N × M × 4 float32, left, top, right, bottom in pixels, NaN where a head gives none; or how
            those of a picture are found, once they are asked for.
        unsure: N × M bool, or None of heads that are never unsure.

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
        """N × M × 4."""
        found = [self.boxes_of(picture) for picture in range(len(self.present))]
        return np.stack(found) if found else np.empty((*self.present.shape, 4), np.float32)

    def boxes_of(self, picture: int) -> FloatArray:
        """M × 4 of one picture, found once."""
        if picture not in self._boxes:
            self._boxes[picture] = self._locate(picture)
        return self._boxes[picture]

    def locate_seen(self) -> None:
        """Find all that is seen now, and let go of the pictures; nothing else has a box then."""
        nowhere = np.full((self.present.shape[1], 4), np.nan, np.float32)
        for picture in np.flatnonzero(self.present.any(axis=1)).tolist():
            self.boxes_of(picture)
        self._locate = lambda picture: nowhere

    def __reduce__(self) -> tuple[Any, ...]:
        # How boxes are found holds pictures and an encoder, which stay here.
        return GateScores, (self.probabilities, self.present, self.boxes, self.unsure)

    def at(self, picture: int, head: int, *, located: bool = True) -> HeadScore:
        """The score of one head on one picture; without its box where it shall not be located."""
        box = self.boxes_of(picture)[head] if located else np.full(4, np.nan, np.float32)
        return HeadScore(
            float(self.probabilities[picture, head]),
            bool(self.present[picture, head]),
            None if np.isnan(box).any() else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            self.unsure is not None and bool(self.unsure[picture, head]),
        )


class Detections(Sequence[Detection]):
    """One detection a concept, in the library's order; equal to any sequence of the same detections.

    Args:
        identifiers: M of them.
        scores: of N pictures and M concepts.
        picture: which of the N.

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
        """Those of concepts that count as seen."""
        return [self[place] for place in self.places]

    @property
    def seen(self) -> list[str]:
        """Identifiers of concepts that count as seen; nobody asks where they are."""
        return [self._identifiers[place] for place in self.places]

    def box_of(self, identifier: str) -> Box | None:
        """Where a concept is that counts as seen; None where it does not, or its head cannot say."""
        there = (place for place in self.places if self._identifiers[place] == identifier)
        return next((self[place].box for place in there), None)

    def locate_seen(self) -> None:
        """Find where all those seen are now, in pictures that came with this one too, and let go of these."""
        self._scores.locate_seen()

    @property
    def places(self) -> list[int]:
        """Where among all those of concepts that count as seen stand."""
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
        # where something is not, is of no use to anyone
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
    """The scores of several gates on the same pictures, put into the columns that each names.

    Args:
        width: M, all columns.
        parts: for each gate the columns of its heads, and its scores.
        pictures: N.
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
