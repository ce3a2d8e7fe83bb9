"""Many objects at once: the windows of a picture, encoded once, against all probes in one matrix product."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from typing import Protocol

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box
from myvlm.heads.detections import FloatArray, GateScores, sigmoid, within
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.features import (
    AT_MOST,
    Crops,
    PictureFeatures,
    check_encoder_fingerprint,
    features,
    refine_boxes,
    whiten,
)
from myvlm.heads.fitted import check_one_gate, misfit
from myvlm.images import ImageSources, LoadedImage, load_images


class FittedProbe(Protocol):
    """What the gate reads of a head."""

    coef_: FloatArray
    intercept_: float
    threshold_: float
    slope_: float
    refine_margin_: float
    unsure_: float
    tail_location_: float
    tail_scale_: float
    encoder_fingerprint_: FloatArray

    @property
    def gate_key(self) -> Hashable: ...


class ObjectGate:
    """M probes as one M × D matrix: whatever their number, one encoder pass and one matrix product.

    Args:
        encoder: of all of them.
        crops: the windows of all of them.
        heads: fitted.
        before: a gate of the same encoder and windows, whose rows of these heads are taken over.
    """

    _coef: FloatArray
    _unchecked: list[FloatArray]
    _probes: list[FloatArray]

    def __init__(
        self,
        encoder: ImageEncoder,
        crops: Crops,
        heads: Sequence[FittedProbe],
        before: ObjectGate | None = None,
    ) -> None:
        self._encoder, self._crops = encoder, crops
        # The arrays themselves are kept: a head that is fitted again, or has another probe, has another one.
        self._probes = [head.coef_ for head in heads]
        known = {} if before is None else {id(probe): row for row, probe in enumerate(before._probes)}
        rows = np.array([known.get(id(probe), -1) for probe in self._probes])
        new = np.flatnonzero(rows < 0).tolist()
        lengths = {len(self._probes[row]) for row in new} | ({before._coef.shape[1]} if before else set())
        if len(lengths) != 1:
            raise misfit("object", f"lengths {sorted(lengths)}", f"the one feature length of {encoder.id}")
        if before is None:
            self._coef = np.stack(self._probes)
        else:
            self._coef = before._coef[rows]
            for row in new:
                self._coef[row] = self._probes[row]
        kept_and_checked = before is not None and not before._unchecked
        self._unchecked = [
            heads[row].encoder_fingerprint_ for row in (new if kept_and_checked else range(len(heads)))
        ]
        self._intercept = np.array([head.intercept_ for head in heads], dtype=np.float32)
        self._threshold = np.array([head.threshold_ for head in heads])
        self._refine_margin = np.array([head.refine_margin_ for head in heads])
        self._slope = np.array([head.slope_ for head in heads])
        self._unsure = np.array([head.unsure_ for head in heads])
        self._tail_location = np.array([head.tail_location_ for head in heads])
        self._tail_scale = np.array([head.tail_scale_ for head in heads])

    def renewed(self, heads: Sequence[FittedProbe]) -> ObjectGate:
        """The gate of these heads: the rows of those that are in this one are copied, not made again.

        Raises:
            NotFittedError, InputError: see `ObjectHead.gate`.
            ConceptFileError: their features are of another length.
        """
        have = set(map(id, self._probes))
        new = [head for head in heads if id(getattr(head, "coef_", None)) not in have]
        check_one_gate(new, (id(self._encoder), self._crops))
        return ObjectGate(self._encoder, self._crops, heads, self)

    def false_names(self) -> npt.NDArray[np.float64]:
        """M: how often each head is expected to see its object in a picture without it; 0 where unknown."""
        above = (self._threshold - self._tail_location) / np.where(
            self._tail_scale > 0, self._tail_scale, 1.0
        )
        return np.where(self._tail_scale > 0, np.exp(-np.maximum(above, 0.0)), 0.0)

    def held_to(self, false_names: float) -> ObjectGate:
        """The same heads, all of which are expected to name so many at most in a picture of none of them.

        The laxest are made stricter, until it is no more; none is made laxer.
        """
        most = highest_share(self.false_names(), false_names)
        stricter = copy(self)
        if most < 1:
            least = self._tail_location - self._tail_scale * np.log(most)
            stricter._threshold = np.where(
                self._tail_scale > 0, np.maximum(self._threshold, least), self._threshold
            )
        return stricter

    def encode(self, images: ImageSources) -> None:
        """See the windows of N pictures in one pass; the last pictures are remembered."""
        features(self._encoder, load_images(images), self._crops)

    def score(self, images: ImageSources) -> GateScores:
        """N pictures → N × M probabilities, presence and boxes; no boxes where only whole pictures count."""
        raw, boxes = self.raw(images)
        above = raw.astype(np.float64) - self._threshold
        likely = sigmoid(self._slope * above)
        return GateScores(likely.astype(np.float32), above >= 0, boxes, within(likely, self._unsure))

    def raw(self, images: ImageSources) -> tuple[FloatArray, FloatArray]:
        """N × M raw scores, each of a picture's best window, and N × M × 4 boxes of those windows."""
        self._check_weights()
        loaded = load_images(images)
        pictures = features(self._encoder, loaded, self._crops)
        stacked = np.concatenate([picture.features for picture in pictures])
        scores = whiten(self._encoder, stacked) @ self._coef.T + self._intercept
        ends = np.cumsum([len(picture.features) for picture in pictures])[:-1]
        best = [_best(own, picture) for own, picture in zip(np.split(scores, ends), pictures, strict=True)]
        raw, boxes = np.stack([score for score, _ in best]), np.stack([box for _, box in best])
        if self._crops == "none" or self._crops == 1:
            boxes[:] = np.nan
        else:
            self._look_closer(loaded, raw, boxes)
        return raw, boxes

    def likely(self, photos: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
        """N photos of which R rows of features are left, R × D as probes read them → N × M probabilities."""
        starts = np.cumsum([0, *(len(rows) for rows in photos)])[:-1]
        scores = np.concatenate(photos) @ self._coef.T + self._intercept
        best = np.maximum.reduceat(scores, starts, axis=0)
        return sigmoid(self._slope * (best.astype(np.float64) - self._threshold))

    def _look_closer(self, images: Sequence[LoadedImage], raw: FloatArray, boxes: FloatArray) -> None:
        """Raise scores, and move boxes, to the best variation of windows from `reach` below the threshold on.

        A window that several heads like is looked at once, and of a picture only the three most liked.
        """
        above = raw - self._threshold
        near = (above >= -self._refine_margin) & (self._refine_margin > 0)
        liked: list[tuple[int, Box, list[int]]] = []
        for picture in np.flatnonzero(near.any(axis=1)).tolist():
            heads_by_box: dict[Box, list[int]] = {}
            for head in sorted(
                np.flatnonzero(near[picture]).tolist(), key=lambda head: -above[picture, head]
            ):
                left, top, right, bottom = boxes[picture, head].tolist()
                heads_by_box.setdefault((left, top, right, bottom), []).append(head)
            liked += [(picture, box, heads) for box, heads in list(heads_by_box.items())[:AT_MOST]]
        looks = refine_boxes(self._encoder, [images[i] for i, _, _ in liked], [box for _, box, _ in liked])
        for (picture, _, heads), look in zip(liked, looks, strict=True):
            scores = whiten(self._encoder, look.features) @ self._coef[heads].T + self._intercept[heads]
            for head, score, box in zip(heads, *_best(scores, look), strict=True):
                if score > raw[picture, head]:
                    raw[picture, head], boxes[picture, head] = score, box

    def _check_weights(self) -> None:
        if self._unchecked:
            check_encoder_fingerprint(self._encoder, self._unchecked)
            self._unchecked.clear()  # of all gates that were made of this one


def highest_share(own: npt.NDArray[np.float64], total: float) -> float:
    """The most that each may have of what all ask for, so that together they have no more than the total.

    >>> highest_share(np.array([0.1, 0.5, 0.9]), 0.9), highest_share(np.array([0.1, 0.2]), 0.5)
    (0.4, 1.0)
    """
    asked = np.sort(own)
    before = np.concatenate([[0.0], np.cumsum(asked)])
    if before[-1] <= total:
        return 1.0
    shares = (total - before[:-1]) / np.arange(len(asked), 0, -1)
    return float(shares[shares <= asked][0])


def _best(scores: FloatArray, picture: PictureFeatures) -> tuple[FloatArray, FloatArray]:
    """C × M scores of a picture's windows → for each head the best score and its box."""
    winner = scores.argmax(axis=0)
    boxes = np.asarray(picture.boxes, dtype=np.float32)
    return scores[winner, np.arange(scores.shape[1])], boxes[winner]
