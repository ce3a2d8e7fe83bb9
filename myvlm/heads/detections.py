"""The detections of one picture, each made when it is asked for: of ten thousand concepts few are in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from myvlm.heads.base import Detection, FloatArray, GateScores


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
        return [self[int(index)] for index in np.flatnonzero(self._scores.present[self._picture])]

    def __len__(self) -> int:
        return len(self._identifiers)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> list[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | list[Detection]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        score = self._scores.at(self._picture, range(len(self))[index])
        if not score.present:  # where something is not, is of no use to anyone
            score = replace(score, box=None)
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
    boxes: npt.NDArray[Any] = np.empty((pictures, width, 4), dtype=np.float32)
    for columns, scores in parts:
        probabilities[:, columns], present[:, columns] = scores.probabilities, scores.present
        boxes[:, columns] = scores.boxes
        if scores.unsure is not None:
            unsure[:, columns] = scores.unsure
    return GateScores(probabilities, present, boxes, unsure)
