"""A probe changed by as little as a user's corrections ask for, and never so that a photo is lost.

A few corrected pictures are too few to learn a probe anew. So the probe is taken that is nearest to the one
that was learned and says what the user said (as an SVM is adapted to a new domain, Yang et al. 2007): a
quadratic programme of some dozens of rows, a few milliseconds. What it would take from photos that nobody has
shown is measured on each of the taught ones, left out in turn, and given back to all of them. Since the next
look-alike differs in something else, the threshold is raised too, as far as left-out photos leave room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box, iou
from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.features import Crops, features, refine_boxes, whiten
from myvlm.heads.objects.everyday import everyday
from myvlm.heads.objects.fit import LinearProbe, kept_rows
from myvlm.images import LoadedImage

# How these were chosen, on ten subjects of real photos: benchmarks/RESULTS.md, `benchmarks/correcting.py`.
SURE = 0.8
"""Logits from the threshold at which a corrected picture is to be: a probability of 0.69, or of 0.31. Farther
away fewer look-alikes pass after a correction, and fewer photos of the object that nobody has shown yet."""
APART = 4.0
"""The same for the photos of another concept: a probability of 0.02. Of that one there will be many more."""
SOFTNESS = 1e-2
"""How much a correction gives way, and how much the photos' surplus does; from 0.003 on as good, to 0.01."""
YIELDING = 1e-1
"""The same for what is given back to photos: at 0.07 a picture that is very like one cannot be corrected."""
HARD = 1e-7
ROOM = 0.16
"""How far below the lowest left-out photo one false alarm may raise the threshold, in scores of a mean, which
are cosines: photos that nobody has shown score lower than left-out ones, up to that."""
SHARE = 0.6
"""How far two or more may: as a part of the way up to the lowest left-out photo."""

HARDEST, ROUNDS = 4, 4
"""Windows of a corrected picture that are taken in a round, and rounds at the most."""
ALIKE = 0.3
"""Intersection over union with a box from which on a window shows what is in it."""


def nearest_probe(
    start: LinearProbe, threshold: float, slope: float, examples: Examples, *, reach: float
) -> LinearProbe:
    """The probe nearest to `start` that says of pictures what the user said of them.

    Args:
        start: the probe before it was corrected.
        threshold, slope: its calibration, which stays.
        examples: photos, which stay found, other pictures, which stay absent, and the corrections.
        reach: how far below the threshold a photo may still be found, by a refined box; then it is asked for
            without one, which might go elsewhere.
    """
    margin = SURE / slope
    photos = best_rows(start, examples.photos)
    found = start.windows(photos).astype(np.float64) - threshold
    near = found >= -reach
    photos, found = photos[near], np.maximum(found[near], 0.0)
    absent = threshold - start.windows(examples.others).astype(np.float64)
    others, absent = examples.others[absent > 0], absent[absent > 0]
    middle = (examples.others if len(examples.others) else photos).mean(axis=0)

    def step(shown: npt.NDArray[np.bool_], surer: float) -> npt.NDArray[np.float64]:
        """By these of the photos, each of which is to score that much higher than now, if that can be."""
        asked = [
            (photos[shown], 1.0, np.minimum(found[shown], margin), HARD),
            (photos[shown], 1.0, found[shown] + surer, YIELDING),
            (others, -1.0, np.minimum(absent, margin), SOFTNESS),
        ]
        for correction, own in zip(examples.corrections, examples.rows, strict=True):
            least = np.full(len(own), APART / slope if correction.of_concept else margin)
            asked.append((own, 1.0 if correction.present else -1.0, least, SOFTNESS))
        table = [sign * (rows - middle) for rows, sign, _, _ in asked]
        wanted = [least - sign * (start.windows(rows) - threshold) for rows, sign, least, _ in asked]
        softness = [np.full(len(rows), soft) for rows, _, _, soft in asked]
        return smallest_step(np.concatenate(table), np.concatenate(wanted), np.concatenate(softness))

    everyone = np.ones(len(photos), dtype=bool)
    change = step(everyone, _lost_unseen(step, photos - middle))
    return LinearProbe((start.coef + change).astype(np.float32), float(start.intercept - change @ middle))


def raised_threshold(
    start: LinearProbe, threshold: float, left_out: Sequence[float], examples: Examples
) -> float:
    """Where the threshold goes after false alarms: other look-alikes differ in other ways, but score no more.

    As high as the highest of them, if that leaves `ROOM` below the photos; or as the second, if there are
    more: one picture may be an exception, two are a rule.

    Args:
        start, threshold: the probe, a mean of photos, and its threshold before it was corrected.
        left_out: the score of each photo by the mean of the others; with less than two nothing is known.
        examples: with the corrections. A photo that was missed counts as one that was left out.

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
    way = min(lowest) - threshold
    raised = min(first - threshold, way - ROOM)
    if others:
        raised = max(raised, min(others[0] - threshold, SHARE * way))
    return threshold + max(raised, 0.0)


def _lost_unseen(
    step: Callable[[npt.NDArray[np.bool_], float], npt.NDArray[np.float64]], photos: FloatArray
) -> float:
    """What a correction takes from photos that nobody has shown: the most that one loses that is left out."""
    count = len(photos)
    if count < 2:
        return 0.0
    left_out = np.eye(count, dtype=bool)
    return max(0.0, *(-float(photos[one] @ step(~left_out[one], 0.0)) for one in range(count)))


class Corrected(Protocol):
    """What is asked of the head that is corrected."""

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
    """n × D: the windows of a picture that a head is to learn from.

    Of a picture that shows the object the window that looks most like it; of another those that are taken for
    it: by the head as it started, as it is now, and as it would be (hard negatives, in rounds).
    """
    [seen] = features(encoder, [photo], head.crops)
    meant = _windows_meant(seen.boxes, correction.box, photo)
    rows = _read(head, encoder, seen.features[meant])
    start = head.refitted(examples.only([]))
    if correction.present:
        return rows[[_probe(head).windows(rows).argmax()]].astype(np.float16)
    kept = np.concatenate([_hardest(_probe(one), rows) for one in (start, head)])
    for _ in range(ROUNDS):
        kept = np.unique(kept.astype(np.float16), axis=0)
        told = head.refitted(examples.with_correction(correction, kept))
        still = _hardest(_probe(told), rows, told.threshold_)
        best = int(_probe(told).windows(rows).argmax())
        if not len(still) and correction.box is None and told.refine_margin_ > 0:
            [look] = refine_boxes(encoder, [photo], [seen.boxes[best]])
            still = _hardest(_probe(told), _read(head, encoder, look.features), told.threshold_)
        if not len(still):
            break
        kept = np.concatenate([kept, still])
    return kept.astype(np.float16)


def remembered(
    head: Corrected, encoder: ImageEncoder, photos: Sequence[LoadedImage], others: Sequence[LoadedImage]
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """What a head is corrected by that was learned when nothing was kept: of its photos, and of the rest."""
    probe = _probe(head)
    looked = [_read(head, encoder, one.features) for one in features(encoder, photos, head.crops)]
    given = [one.features for one in features(encoder, others, head.crops)] if others else []
    bank = encoder.bank()
    usual = everyday(encoder).windows if bank is None else bank.reshape(-1, bank.shape[-1])
    unlike = _read(head, encoder, np.concatenate([*given, usual]))
    return kept_rows(probe, looked, unlike)


def _hardest(probe: LinearProbe, rows: FloatArray, least: float = -np.inf) -> FloatArray:
    """The rows that score highest, of those that reach `least`."""
    scores = probe.windows(rows)
    highest = np.argsort(-scores, kind="stable")[:HARDEST]
    return rows[highest[scores[highest] >= least]]


def _windows_meant(boxes: Sequence[Box], box: Box | None, photo: LoadedImage) -> list[int]:
    """The windows that show what is in the box: those that share half of the smaller one with it."""
    if box is None:
        return list(range(len(boxes)))
    left, top, right, bottom = box
    width, height = photo.image.size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"That is no part of {photo.name}.",
            got=f"box {box}",
            expected=f"left < right up to {width} and top < bottom up to {height}, in pixels",
            fix="give left, top, right, bottom in pixels of the picture, turned as its EXIF tag says",
        )
    alike = [iou(one, box) for one in boxes]
    return [number for number, one in enumerate(alike) if one >= min(ALIKE, max(alike))]


def _read(head: Corrected, encoder: ImageEncoder, rows: FloatArray) -> FloatArray:
    """Features as the head's probe reads them."""
    return everyday(encoder).whitening(rows) if head.everyday_ else whiten(encoder, rows)


def _probe(head: Corrected) -> LinearProbe:
    return LinearProbe(head.coef_, head.intercept_)


def smallest_step(
    table: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], softness: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The shortest D for which `table @ D ≥ wanted`, each of n rows as nearly as its softness lets it.

    By the dual problem, with a squared price of what is missing: n numbers of which none is negative, found
    exactly by an active set.

    >>> rows, wanted = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])
    >>> smallest_step(rows, wanted, np.full(2, 1e-9)).round(3).tolist()
    [2.0, 0.0]
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    root = cholesky(table @ table.T + np.diag(softness), lower=True)
    weights, _ = nnls(root.T, solve_triangular(root, wanted, lower=True))
    return np.asarray(weights @ table, dtype=np.float64)


def best_rows(probe: LinearProbe, photos: FloatArray) -> FloatArray:
    """N × R × D photos → N × D: of each the row that scores highest."""
    best = np.stack([probe.windows(rows).argmax() for rows in photos])
    return photos[np.arange(len(photos)), best]
