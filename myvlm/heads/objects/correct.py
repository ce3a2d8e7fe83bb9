"""Corrections of object heads: the smallest change of a probe that satisfies a user's corrections.

A few corrected pictures are too few to fit a new probe. Instead, the probe nearest to the original one that
satisfies the corrections and keeps all photos is computed (as an SVM is adapted to a new domain, Yang et al.
2007): a quadratic program of some dozens of rows, a few milliseconds. How much the change lowers the scores
of unseen photos is estimated by leaving out each training photo in turn, and all photos are required to score
higher by that much. The next look-alike differs in other ways, so the threshold is raised too, as far as the
scores of left-out photos allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box, iou
from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.features import Crops, features, refine_boxes, whiten
from myvlm.heads.objects.everyday import everyday
from myvlm.heads.objects.fit import LinearProbe, rows_to_keep
from myvlm.images import LoadedImage

# How these were chosen, on ten subjects of real photos: benchmarks/RESULTS.md, `benchmarks/correcting.py`.
SURE = 0.8
"""Log-odds that a corrected picture has to reach on its side of the threshold: a probability of 0.69, or of
0.31. If it is larger, fewer look-alikes pass after a correction, but also fewer new photos of the object."""
APART = 4.0
"""The same for the photos of another concept: a probability of 0.02. Many more pictures of it will follow."""
SOFTNESS = 1e-2
"""Softness of corrections and of kept negatives in the quadratic program; 0.003 to 0.01 are equally good."""
YIELDING = 1e-1
"""Softness of the photos' margin for unseen photos: at 0.07 a picture very similar to a photo cannot be
corrected."""
HARD = 1e-7
"""Softness of the photos: they have to be kept."""
ROOM = 0.16
"""How far below the lowest left-out photo the threshold has to stay after one false alarm, as a cosine (the
score of a mean of photos): new photos score lower than left-out ones by up to this."""
SHARE = 0.6
"""How far two or more false alarms may raise it: a fraction of the distance to the lowest left-out photo."""

HARDEST, ROUNDS = 4, 4
"""Windows of a corrected picture that are added per round of hard-negative mining, and number of rounds."""
MIN_IOU = 0.3
"""Intersection over union with a box from which a window counts as showing its content."""

Constraint: TypeAlias = "tuple[FloatArray, float, npt.NDArray[np.float64], float]"
"""Rows, n × D; whether they show the object, 1 or -1; how far on that side of the threshold each has to be,
n; and how softly that is demanded."""


def nearest_probe(
    start: LinearProbe, threshold: float, slope: float, examples: Examples, *, reach: float
) -> LinearProbe:
    """Find the probe nearest to `start` that satisfies the corrections.

    Args:
        start: the probe before any correction.
        threshold, slope: its calibration, which does not change.
        examples: photos, which must stay present, negatives, which should stay absent, and the corrections.
        reach: how far below the threshold the score of a photo may be if refining raises it above. Such a
            photo is required to reach the threshold without refining, which might move its box elsewhere.
    """
    margin = SURE / slope
    wanted = []
    for correction, own in zip(examples.corrections, examples.rows, strict=True):
        least = np.full(len(own), APART / slope if correction.of_concept else margin)
        wanted.append((own, 1.0 if correction.present else -1.0, least, SOFTNESS))
    if all((_targets(start, threshold, one) <= 0).all() for one in wanted):
        return start  # keeping the photos, below, would raise the scores of other pictures too
    photos = best_rows(start, examples.photos)
    found = start.windows(photos).astype(np.float64) - threshold
    near = found >= -reach
    photos, found = photos[near], np.maximum(found[near], 0.0)
    absent = threshold - start.windows(examples.others).astype(np.float64)
    others, absent = examples.others[absent > 0], absent[absent > 0]
    middle = (examples.others if len(examples.others) else photos).mean(axis=0)

    def step(shown: npt.NDArray[np.bool_], rise: float) -> npt.NDArray[np.float64]:
        """Change of the coefficients, D, if only the photos in `shown` are kept.

        The scores of these photos are to rise by `rise`, softly.
        """
        constraints = [
            (photos[shown], 1.0, np.minimum(found[shown], margin), HARD),
            (photos[shown], 1.0, found[shown] + rise, YIELDING),
            (others, -1.0, np.minimum(absent, margin), SOFTNESS),
            *wanted,
        ]
        table = [sign * (rows - middle) for rows, sign, _, _ in constraints]
        targets = [_targets(start, threshold, one) for one in constraints]
        softness = [np.full(len(rows), soft) for rows, _, _, soft in constraints]
        return smallest_step(np.concatenate(table), np.concatenate(targets), np.concatenate(softness))

    all_photos = np.ones(len(photos), dtype=bool)
    change = step(all_photos, _loss_of_unseen_photos(step, photos - middle))
    return LinearProbe((start.coef + change).astype(np.float32), float(start.intercept - change @ middle))


def _targets(start: LinearProbe, threshold: float, constraint: Constraint) -> npt.NDArray[np.float64]:
    """How far the scores of n rows have to move in the direction of their sign; at most 0 if not at all."""
    rows, sign, least, _ = constraint
    return np.asarray(least - sign * (start.windows(rows).astype(np.float64) - threshold))


def raised_threshold(
    start: LinearProbe, threshold: float, left_out: Sequence[float], examples: Examples
) -> float:
    """Raise the threshold after false alarms: other look-alikes differ otherwise, but score no higher.

    It is raised to the highest false alarm, as far as that leaves `ROOM` below the photos. With two or more
    false alarms it is raised to the second highest at least, as far as `SHARE` allows: one may be an
    exception, two are not.

    Args:
        start, threshold: the probe, a mean of photos, and its threshold before any correction.
        left_out: score of each photo by the mean of the others; with fewer than two the threshold stays.
        examples: holds the corrections. A photo that was missed counts as a left-out photo.

    >>> probe, photos = LinearProbe(np.array([1.0], np.float32), 0.0), np.ones((2, 1, 1), np.float16)
    >>> known = Examples.of(photos, photos[0], start={}, threshold=0.5)
    >>> alarm = CorrectedPicture(picture="cup.jpg", digest="1", present=False)
    >>> told = known.with_correction(alarm, np.array([[0.7]], np.float16))
    >>> round(raised_threshold(probe, 0.5, [0.9, 1.0], told), 2)
    0.7
    >>> round(raised_threshold(probe, 0.5, [0.8, 1.0], told), 2)
    0.64
    """
    alarms: list[float] = []
    lowest = list(left_out)
    for said, rows in zip(examples.corrections, examples.rows, strict=True):
        if not said.of_concept:
            (lowest if said.present else alarms).append(float(start.windows(rows).max()))
    if len(left_out) < 2 or not alarms:
        return threshold
    first, *others = sorted(alarms, reverse=True)
    gap = min(lowest) - threshold
    raised = min(first - threshold, gap - ROOM)
    if others:
        raised = max(raised, min(others[0] - threshold, SHARE * gap))
    return threshold + max(raised, 0.0)


def _loss_of_unseen_photos(
    step: Callable[[npt.NDArray[np.bool_], float], npt.NDArray[np.float64]], photos: FloatArray
) -> float:
    """Estimate how much a correction lowers the score of an unseen photo: the most of all left-out photos."""
    count = len(photos)
    if count < 2:
        return 0.0
    left_out = np.eye(count, dtype=bool)
    return max(0.0, *(-float(photos[one] @ step(~left_out[one], 0.0)) for one in range(count)))


class Corrected(Protocol):
    """What this module needs of the head that is corrected."""

    coef_: FloatArray
    intercept_: float
    threshold_: float
    slope_: float
    refine_margin_: float
    everyday_: int
    crops: Crops

    def refitted(self, examples: Examples) -> Self: ...


def rows_to_learn_from(
    head: Corrected,
    encoder: ImageEncoder,
    photo: LoadedImage,
    correction: CorrectedPicture,
    examples: Examples,
) -> npt.NDArray[np.float16]:
    """Select the windows of a corrected picture that a head learns from, n × D.

    If the picture shows the object, this is the window that scores highest. If it does not, these are hard
    negatives: the windows that score highest with the head's start state, with its present state, and, in
    rounds, with the head as it would be after the correction.
    """
    [seen] = features(encoder, [photo], head.crops)
    in_box = _windows_in_box(seen.boxes, correction.box, photo)
    rows = _whiten(head, encoder, seen.features[in_box])
    start = head.refitted(examples.only([]))
    if correction.present:
        return rows[[_probe(head).windows(rows).argmax()]].astype(np.float16)
    kept = np.concatenate([_hardest(_probe(one), rows) for one in (start, head)])
    for _ in range(ROUNDS):
        kept = np.unique(kept.astype(np.float16), axis=0)
        refitted_head = head.refitted(examples.with_correction(correction, kept))
        still = _hardest(_probe(refitted_head), rows, refitted_head.threshold_)
        best = int(_probe(refitted_head).windows(rows).argmax())
        if not len(still) and correction.box is None and refitted_head.refine_margin_ > 0:
            [look] = refine_boxes(encoder, [photo], [seen.boxes[best]])
            still = _hardest(
                _probe(refitted_head), _whiten(head, encoder, look.features), refitted_head.threshold_
            )
        if not len(still):
            break
        kept = np.concatenate([kept, still])
    return kept.astype(np.float16)


def examples_from_photos(
    head: Corrected, encoder: ImageEncoder, photos: Sequence[LoadedImage], others: Sequence[LoadedImage]
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Recreate the examples of a head whose file does not hold them: features of photos and of negatives."""
    probe = _probe(head)
    looked = [_whiten(head, encoder, one.features) for one in features(encoder, photos, head.crops)]
    given = [one.features for one in features(encoder, others, head.crops)] if others else []
    bank = encoder.bank()
    usual = everyday(encoder).windows if bank is None else bank.reshape(-1, bank.shape[-1])
    unlike = _whiten(head, encoder, np.concatenate([*given, usual]))
    return rows_to_keep(probe, looked, unlike)


def _hardest(probe: LinearProbe, rows: FloatArray, least: float = -np.inf) -> FloatArray:
    """The `HARDEST` rows that score highest, among those that reach `least`."""
    scores = probe.windows(rows)
    highest = np.argsort(-scores, kind="stable")[:HARDEST]
    return rows[highest[scores[highest] >= least]]


def _windows_in_box(boxes: Sequence[Box], box: Box | None, photo: LoadedImage) -> list[int]:
    """Indices of the windows that show the content of the box, by `MIN_IOU`, or else of the most similar.

    Without a box, all windows.
    """
    if box is None:
        return list(range(len(boxes)))
    left, top, right, bottom = box
    width, height = photo.image.size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"The box is not a part of {photo.name}.",
            got=f"box {box}",
            expected=f"left < right up to {width} and top < bottom up to {height}, in pixels",
            fix="pass left, top, right, bottom in pixels of the picture, rotated as its EXIF tag says",
        )
    alike = [iou(one, box) for one in boxes]
    return [number for number, one in enumerate(alike) if one >= min(MIN_IOU, max(alike))]


def _whiten(head: Corrected, encoder: ImageEncoder, rows: FloatArray) -> FloatArray:
    """Whiten features as the head's probe expects them."""
    return everyday(encoder).whitening(rows) if head.everyday_ else whiten(encoder, rows)


def _probe(head: Corrected) -> LinearProbe:
    return LinearProbe(head.coef_, head.intercept_)


def smallest_step(
    table: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], softness: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The shortest vector d for which `table @ d ≥ targets`, where rows may fall short by their softness.

    Solves the dual of the quadratic program with a squared penalty on what is missing, which is weaker for a
    larger softness. The dual has n nonnegative variables and is solved exactly by an active-set method.

    Args:
        table: n × D.
        targets, softness: n.

    >>> rows, targets = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])
    >>> smallest_step(rows, targets, np.full(2, 1e-9)).round(3).tolist()
    [2.0, 0.0]
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    root = cholesky(table @ table.T + np.diag(softness), lower=True)
    weights, _ = nnls(root.T, solve_triangular(root, targets, lower=True))
    return np.asarray(weights @ table, dtype=np.float64)


def best_rows(probe: LinearProbe, photos: FloatArray) -> FloatArray:
    """N × R × D photos → N × D: the row of each photo that scores highest."""
    best = np.stack([probe.windows(rows).argmax() for rows in photos])
    return photos[np.arange(len(photos)), best]
