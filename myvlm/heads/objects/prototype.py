"""How an object is learned where no negatives are given: its photos' mean, held against everyday photos.

With three photos and nothing to hold them against, a regression draws its line anywhere. The mean of the
photos' features, off the mean of everyday photographs, needs no line: its cosine is on one scale for all
objects, and only the threshold is left to find (as for prototypes of few-shot classes, arXiv 1703.05175). It
costs no encoder pass beyond the photos' own windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from myvlm.heads.calibration import Calibration, Tail
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.features import Crops, PictureFeatures, features
from myvlm.heads.objects.everyday import everyday_tail, everyday_windows
from myvlm.heads.objects.fit import LearnedProbe, LinearProbe, kept_rows
from myvlm.heads.objects.localize import choose_windows, text_direction
from myvlm.images import LoadedImage

# How these were chosen, on ten subjects of real photos: benchmarks/RESULTS.md.
PLACE, PLACE_OF_ONE = 0.58, 0.25
"""Where the threshold goes on the way from everyday photographs to left-out photos, and, where there is one
photo only, to that photo itself, which no other will come near."""
SURE_OF_ONE = 0.5
"""How far a picture has to come on that way, where there is one photo, not to be unsure: other things of the
same category hardly come so far."""
STEEPNESS = 14.0
"""The probability's slope, times that way."""
LEAST_WAY = 0.05
"""The way is at least so long: photos that do not agree tell nothing of its length."""


def learn_prototype(
    encoder: ImageEncoder,
    photos: Sequence[LoadedImage],
    *,
    category: str | None,
    crops: Crops,
    false_alarm_rate: float,
) -> LearnedProbe:
    """Learn one object; see `ObjectHead` for the arguments."""
    everyday = everyday_windows(encoder)
    middle = everyday.mean(axis=0)
    encoded = features(encoder, photos, crops)
    text = text_direction(encoder, category)
    chosen = choose_windows(encoded, everyday, text)
    # which part of a single photo is the object, nothing says but words
    alone = len(photos) == 1 and text is None
    each = np.stack(
        [_photo_row(one, 0 if alone else window, middle) for one, window in zip(encoded, chosen, strict=True)]
    )
    probe = _prototype(each, middle)
    scores = probe.windows(everyday)
    ceiling = float(np.quantile(scores, 1 - false_alarm_rate, method="higher"))
    positives = _left_out(encoded, each, middle)
    typical = float(np.median(positives))
    way = max(typical - ceiling, LEAST_WAY)
    usual = everyday_tail(encoder, float(np.mean([len(one.boxes) for one in encoded])))
    mean, deviation = float(scores.mean()), float(scores.std())
    tail = Tail(mean + deviation * usual.location, deviation * usual.scale)
    several = len(photos) > 1  # a single photo's own score is no other photo's
    calibration = Calibration(
        threshold=ceiling + (PLACE if several else PLACE_OF_ONE) * way,
        slope=STEEPNESS / way,
        ceiling=ceiling,
        tail=tail,
        typical=typical if several else 0.0,
        sure=0.0 if several else ceiling + SURE_OF_ONE * way,
    )
    figures = {
        "photos": len(photos),
        "negative_pictures": 0,
        "left_out_found": float((positives >= calibration.threshold).mean()),
        "left_out_false_alarms": float((scores >= calibration.threshold).mean()),
        "left_out_scores": [round(float(score), 4) for score in positives],
        "highest_negative_score": round(float(scores.max()), 4),
    }
    boxes = [one.boxes[0 if alone else window] for one, window in zip(encoded, chosen, strict=True)]
    kept = kept_rows(probe, [one.features for one in encoded], everyday)
    return LearnedProbe(probe, calibration, 0.0, boxes, figures, [], *kept)


def _photo_row(photo: PictureFeatures, window: int, middle: FloatArray) -> FloatArray:
    """D, length 1: the whole photo and the window that holds the object, off the everyday mean."""
    whole, part = _unit(photo.features[[0, window]] - middle)
    return _unit(whole + part)


def _prototype(each: FloatArray, middle: FloatArray) -> LinearProbe:
    """P × D photos → a probe whose score of a window is its part along their mean, off the everyday mean."""
    coef = _unit(each.mean(axis=0))
    return LinearProbe(coef, float(-coef @ middle))


def _left_out(
    encoded: Sequence[PictureFeatures], each: FloatArray, middle: FloatArray
) -> npt.NDArray[np.float64]:
    """One score a photo, of its best window, by the prototype of the others; a single photo's by its own."""
    count = len(each)
    if count == 1:
        return np.array([_prototype(each, middle).picture(encoded[0].features)])
    probes = [_prototype(np.delete(each, photo, axis=0), middle) for photo in range(count)]
    return np.array([probe.picture(one.features) for probe, one in zip(probes, encoded, strict=True)])


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6), np.float32)
