"""Gate of object heads: encodes the windows of a picture once and scores all probes in one matrix product."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box
from myvlm.heads.base import check_one_gate
from myvlm.heads.calibration import tail_in_a_library
from myvlm.heads.detections import UNSURE, FloatArray, GateScores, Locate, near_half, sigmoid
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.features import (
    MAX_REFINED_WINDOWS,
    Crops,
    PictureFeatures,
    check_encoder_fingerprint,
    count_large_windows,
    encode_boxes,
    features,
    refine_boxes,
    whiten,
    windows,
)
from myvlm.heads.fitted import misfit
from myvlm.heads.objects.correct import SURE as CORRECTION_MARGIN
from myvlm.heads.objects.everyday import everyday
from myvlm.images import LoadedImage

SEARCHED_WINDOWS = 4
"""How many of the best-scoring large windows a head searches for smaller ones. How this and the next two were
chosen, and what each costs in small objects found: benchmarks/RESULTS.md."""
CERTAIN_LOG_ODDS = 4.0
"""Log-odds from which small windows are not searched: they could only raise a score that is high enough."""
SEARCH_MARGIN = 100.0
"""Log-odds below even down to which the best large window is searched: it may contain a small object."""
SCORES_BY_OTHERS = "scores_by_others"
"""Key in a head's figures of the scores that other heads give its photos, see `ObjectHead.meet`."""
MAX_COMPARED_HEADS = 1000
"""Largest gate whose heads are compared with each other: that takes a few hundredths of a second."""


class FittedProbe(Protocol):
    """Attributes of a fitted `ObjectHead` that the gate reads."""

    coef_: FloatArray
    intercept_: float
    threshold_: float
    slope_: float
    refine_margin_: float
    unsure_: float
    tail_location_: float
    tail_scale_: float
    typical_: float
    sure_: float
    everyday_: int
    figures_: dict[str, Any]
    encoder_fingerprint_: FloatArray

    @property
    def gate_key(self) -> Hashable: ...


class ObjectGate:
    """Scores M object heads, whose probes are the rows of one M × D matrix.

    Whatever the number of heads, each set of windows takes one encoder pass and one matrix product.

    Args:
        encoder: the encoder of all heads.
        crops: which windows are encoded, for all heads.
        heads: fitted heads.
        previous: a gate of the same encoder and windows, whose rows are reused for heads that it contains.
    """

    _coef: FloatArray
    _unchecked: list[FloatArray]
    _probes: list[FloatArray]

    def __init__(
        self,
        encoder: ImageEncoder,
        crops: Crops,
        heads: Sequence[FittedProbe],
        previous: ObjectGate | None = None,
    ) -> None:
        self._encoder, self._crops, self._everyday = encoder, crops, heads[0].everyday_
        # Probes are compared by identity: a head that is fitted again or corrected has another array.
        self._probes = [head.coef_ for head in heads]
        known = {} if previous is None else {id(probe): row for row, probe in enumerate(previous._probes)}
        rows = np.array([known.get(id(probe), -1) for probe in self._probes])
        new = np.flatnonzero(rows < 0).tolist()
        lengths = {len(self._probes[row]) for row in new} | ({previous._coef.shape[1]} if previous else set())
        if len(lengths) != 1:
            raise misfit("object", f"lengths {sorted(lengths)}", f"the one feature length of {encoder.id}")
        if previous is None:
            self._coef = np.stack(self._probes)
        else:
            self._coef = previous._coef[rows]
            for row in new:
                self._coef[row] = self._probes[row]
        kept_and_checked = previous is not None and not previous._unchecked
        self._unchecked = [
            heads[row].encoder_fingerprint_ for row in (new if kept_and_checked else range(len(heads)))
        ]
        self._intercept = np.array([head.intercept_ for head in heads], dtype=np.float32)
        self._threshold = np.array([head.threshold_ for head in heads])
        self._refine_margin = np.array([head.refine_margin_ for head in heads])
        self._slope = np.array([head.slope_ for head in heads])
        self._unsure = np.array([head.unsure_ for head in heads])
        self._tail_scale = np.array([head.tail_scale_ for head in heads])
        library_tail = tail_in_a_library(
            np.array([one for head in heads for one in head.figures_.get(SCORES_BY_OTHERS, ())])
        )
        self._tail_location = (
            np.array([head.tail_location_ for head in heads]) + library_tail.location * self._tail_scale
        )
        self._tail_scale *= library_tail.scale
        self._typical = np.array([head.typical_ for head in heads])
        self._sure = np.array([head.sure_ or -np.inf for head in heads])
        self._corrected = np.array(["corrections" in head.figures_ for head in heads])

    def renewed(self, heads: Sequence[FittedProbe]) -> ObjectGate:
        """Return the gate of these heads, with the rows of heads in this gate copied rather than rebuilt.

        Raises:
            NotFittedError, InputError: see `ObjectHead.gate`.
            ConceptFileError: the heads have features of another length.
        """
        known_probes = set(map(id, self._probes))
        new = [head for head in heads if id(getattr(head, "coef_", None)) not in known_probes]
        check_one_gate(new, (id(self._encoder), self._crops, self._everyday))
        return ObjectGate(self._encoder, self._crops, heads, self)

    def false_names(self) -> npt.NDArray[np.float64]:
        """M expected rates at which each head detects its object in pictures without it; 0 where unknown."""
        from scipy.special import ndtr

        known = self._tail_scale > 0
        above = (self._threshold - self._tail_location) / np.where(known, self._tail_scale, 1.0)
        return np.where(known, ndtr(-above), 0.0)

    def reached_by(self, share: float) -> npt.NDArray[np.float64]:
        """M raw scores that a fraction `share` of pictures without the object is expected to reach; or NaN.

        NaN stands for a head whose tail is not known.
        """
        from scipy.special import ndtri

        reached = self._tail_location - self._tail_scale * ndtri(share)
        return np.where(self._tail_scale > 0, reached, np.nan)

    def held_to(self, false_names: float) -> ObjectGate:
        """Return a gate of the same heads, limited to a rate of false detections.

        First each threshold is raised above the most similar other object (`_separated_thresholds`). Then
        those of the heads with the highest false-detection rates are raised until the rates sum to
        `false_names` at most. No threshold is lowered. That of a corrected head is not raised so far that a
        photo is lost.

        Args:
            false_names: how many heads at most are expected to detect their object in a picture of none.
        """
        stricter = copy(self)
        stricter._threshold = self._separated_thresholds()
        cap = cap_for_total(stricter.false_names(), false_names)
        if cap < 1:
            stricter._threshold = np.fmax(stricter._threshold, self.reached_by(cap))
        # a corrected head was fitted to keep its photos this far above its threshold; 0.9 allows for rounding
        limits = np.where(self._corrected, self._threshold + 0.9 * CORRECTION_MARGIN / self._slope, np.inf)
        stricter._threshold = np.minimum(stricter._threshold, limits)
        return stricter

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """Encode the large windows of N pictures in one pass and cache their features."""
        self._large_windows(images)

    def _separated_thresholds(self) -> npt.NDArray[np.float64]:
        """M thresholds, each raised to the midpoint of its object's photos and the most similar other object.

        An object so similar that it passes the threshold already is ignored: that is left to
        `ConceptLibrary.separate`, since photos may show both objects. A gate of more heads than
        `MAX_COMPARED_HEADS` keeps its thresholds: `held_to` makes them stricter anyway, for their number.
        """
        known = self._typical > 0
        if not known.any() or len(known) > MAX_COMPARED_HEADS:
            return self._threshold
        lengths = np.maximum(np.linalg.norm(self._coef, axis=1), 1e-6)
        alike = (self._coef @ (self._coef / lengths[:, None]).T).astype(np.float64)  # heads × objects
        np.fill_diagonal(alike, -np.inf)
        alike[:, ~known] = -np.inf  # the coefficients of a regression do not point towards its photos
        nearest = np.where(alike < self._threshold[:, None], alike, -np.inf).max(axis=1)
        midway = np.where(known, (nearest + self._typical) / 2, -np.inf)
        return np.asarray(np.maximum(self._threshold, midway))

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """Score N pictures → N × M probabilities and presence; boxes are computed when they are first needed.

        Most windows are small, and few of these are encoded. A head whose large windows score very high or
        very low needs none of them. Any other head searches those inside its best-scoring large windows. Each
        head uses only its own small windows, so its scores do not depend on the other heads.
        """
        self._check_weights()
        if self._crops == "none" or self._crops == 1:
            raw, boxes = self.raw(images)
            return self._scores(raw, boxes)
        return self._scores(self._coarse_scores(images), lambda picture: self.raw([images[picture]])[1][0])

    def _scores(self, raw: FloatArray, boxes: FloatArray | Locate) -> GateScores:
        above = raw.astype(np.float64) - self._threshold
        likely = sigmoid(self._slope * above)
        # other objects of the category reach scores below `sure`: keep these probabilities unsure
        below_sure = (above >= 0) & (raw < self._sure)
        span = np.where(self._sure > self._threshold, self._sure - self._threshold, 1.0)
        likely = np.where(below_sure, 0.5 + UNSURE * above / span, likely)
        return GateScores(likely.astype(np.float32), above >= 0, boxes, near_half(likely, self._unsure))

    def raw(self, images: Sequence[LoadedImage]) -> tuple[FloatArray, FloatArray]:
        """N × M raw scores, each that of the best of all windows, and the N × M × 4 boxes of these windows.

        The boxes are NaN if only whole pictures are encoded.
        """
        self._check_weights()
        pictures = features(self._encoder, images, self._crops)
        best = [
            _best(own, picture) for own, picture in zip(self._window_scores(pictures), pictures, strict=True)
        ]
        raw, boxes = np.stack([score for score, _ in best]), np.stack([box for _, box in best])
        if self._crops == "none" or self._crops == 1:
            boxes[:] = np.nan
        else:
            self._refine(images, raw, boxes)
        return raw, boxes

    def _window_scores(self, pictures: Sequence[PictureFeatures]) -> list[FloatArray]:
        """For each picture, the C × M scores of its windows."""
        stacked = np.concatenate([picture.features for picture in pictures])
        scores = self._whiten(stacked) @ self._coef.T + self._intercept
        return np.split(scores, np.cumsum([len(picture.features) for picture in pictures])[:-1])

    def _coarse_scores(self, images: Sequence[LoadedImage]) -> FloatArray:
        """N × M raw scores from large windows and those small ones that are worth searching."""
        boxes, large = self._large_windows(images)
        scores = self._window_scores(large)
        best = [_best(own, picture) for own, picture in zip(scores, large, strict=True)]
        raw, best_boxes = np.stack([score for score, _ in best]), np.stack([box for _, box in best])
        logits = self._slope * (raw - self._threshold)
        undecided = (logits < CERTAIN_LOG_ODDS) & (logits > -SEARCH_MARGIN)
        searching = [np.flatnonzero(here) for here in undecided]  # few, even of ten thousand heads
        small_windows = [
            _SmallWindows(own, len(first.boxes), score[:, heads])
            for own, first, score, heads in zip(boxes, large, scores, searching, strict=True)
        ]
        searched = [picture for picture, look in enumerate(small_windows) if look.boxes]
        small = encode_boxes(
            self._encoder, [images[i] for i in searched], [small_windows[i].boxes for i in searched]
        )
        for picture, seen, own in zip(
            searched, small, self._window_scores(small) if small else (), strict=True
        ):
            heads = searching[picture]
            better, box = _best(np.where(small_windows[picture].searched_by, own[:, heads], -np.inf), seen)
            higher = better > raw[picture, heads]
            raw[picture, heads[higher]], best_boxes[picture, heads[higher]] = better[higher], box[higher]
        self._refine(images, raw, best_boxes, undecided)
        return raw

    def _large_windows(self, images: Sequence[LoadedImage]) -> tuple[list[list[Box]], list[PictureFeatures]]:
        """All windows of each picture, and the features of the large ones."""
        boxes = [windows(*photo.image.size, self._crops) for photo in images]
        return boxes, encode_boxes(self._encoder, images, [own[: count_large_windows(own)] for own in boxes])

    def likely(self, photos: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
        """Score the kept features of N photos, each R × D and whitened → N × M probabilities."""
        starts = np.cumsum([0, *(len(rows) for rows in photos)])[:-1]
        scores = np.concatenate(photos) @ self._coef.T + self._intercept
        best = np.maximum.reduceat(scores, starts, axis=0)
        return sigmoid(self._slope * (best.astype(np.float64) - self._threshold))

    def _refine(
        self,
        images: Sequence[LoadedImage],
        raw: FloatArray,
        boxes: FloatArray,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Refine best windows in place: move each box, and raise its score, to the best variation.

        Scores below a head's threshold by more than its refine margin stay. Of a picture, only the
        `MAX_REFINED_WINDOWS` windows that score highest are refined. A window that is the best of several
        heads is encoded once.

        Args:
            mask: N × M, which scores to refine; None for all.
        """
        above = raw - self._threshold
        near = (above >= -self._refine_margin) & (self._refine_margin > 0)
        near &= True if mask is None else mask
        to_refine: list[tuple[int, Box, list[int]]] = []
        for picture in np.flatnonzero(near.any(axis=1)).tolist():
            heads_by_box: dict[Box, list[int]] = {}
            for head in sorted(
                np.flatnonzero(near[picture]).tolist(), key=lambda head: -above[picture, head]
            ):
                left, top, right, bottom = boxes[picture, head].tolist()
                heads_by_box.setdefault((left, top, right, bottom), []).append(head)
            to_refine += [
                (picture, box, heads) for box, heads in list(heads_by_box.items())[:MAX_REFINED_WINDOWS]
            ]
        refined = refine_boxes(
            self._encoder, [images[i] for i, _, _ in to_refine], [box for _, box, _ in to_refine]
        )
        for (picture, _, heads), variants in zip(to_refine, refined, strict=True):
            scores = self._whiten(variants.features) @ self._coef[heads].T + self._intercept[heads]
            for head, score, box in zip(heads, *_best(scores, variants), strict=True):
                if score > raw[picture, head]:
                    raw[picture, head], boxes[picture, head] = score, box

    def _whiten(self, rows: FloatArray) -> FloatArray:
        return everyday(self._encoder).whitening(rows) if self._everyday else whiten(self._encoder, rows)

    def _check_weights(self) -> None:
        if unchecked := list(self._unchecked):  # a copy: another thread may clear it meanwhile
            check_encoder_fingerprint(self._encoder, unchecked)
            self._unchecked.clear()  # copies of this gate share the list


class _SmallWindows:
    """The small windows of one picture that lie inside the best-scoring large windows of each head.

    Args:
        boxes: all windows of the picture, the large ones first.
        large: how many are large.
        scores: large × M, scores of the heads that search small windows.

    Attributes:
        boxes: the small windows that any of the heads searches.
        searched_by: boxes × M, whether a head searches a window.
    """

    def __init__(self, boxes: Sequence[Box], large: int, scores: FloatArray) -> None:
        edges = np.asarray(boxes, dtype=np.float32)
        sides = edges[:large, 2] - edges[:large, 0]
        halves = edges[:large][sides == sides.min()]  # larger windows contain nearly all small ones
        half_scores = scores[:large][sides == sides.min()]
        if len(half_scores) > SEARCHED_WINDOWS:
            best = half_scores >= np.partition(half_scores, -SEARCHED_WINDOWS, axis=0)[-SEARCHED_WINDOWS]
        else:
            best = np.ones_like(half_scores, dtype=bool)
        middle = (edges[large:, None, :2] + edges[large:, None, 2:]) / 2
        inside = ((halves[:, :2] <= middle) & (middle <= halves[:, 2:])).all(axis=2)
        searched_by = (inside.astype(np.float32) @ best.astype(np.float32)) > 0
        searched = searched_by.any(axis=1)
        self.boxes = [boxes[large + int(place)] for place in np.flatnonzero(searched)]
        self.searched_by = searched_by[searched]


def cap_for_total(rates: npt.NDArray[np.float64], total: float) -> float:
    """Largest cap on each of `rates` under which they sum to `total` at most; 1 if none is needed.

    >>> cap_for_total(np.array([0.1, 0.5, 0.9]), 0.9), cap_for_total(np.array([0.1, 0.2]), 0.5)
    (0.4, 1.0)
    """
    ordered = np.sort(rates)
    before = np.concatenate([[0.0], np.cumsum(ordered)])
    if before[-1] <= total:
        return 1.0
    caps = (total - before[:-1]) / np.arange(len(ordered), 0, -1)
    return float(caps[caps <= ordered][0])


def _best(scores: FloatArray, picture: PictureFeatures) -> tuple[FloatArray, FloatArray]:
    """C × M scores of a picture's windows → for each head the best score, M, and its box, M × 4."""
    winner = scores.argmax(axis=0)
    boxes = np.asarray(picture.boxes, dtype=np.float32)
    return scores[winner, np.arange(scores.shape[1])], boxes[winner]
