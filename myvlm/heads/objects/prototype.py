"""Fitting of object heads without negatives: the mean of the photos' features, as a prototype.

With three photos and no negatives, the decision boundary of a regression is arbitrary. The mean of the
photos' features, whitened by everyday photographs, needs no negatives: its cosine is on one scale for all
objects, and only the threshold remains to be set (as for prototypes of few-shot classes, arXiv 1703.05175).
It needs no encoder pass except for the photos' own windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from myvlm.heads.calibration import Calibration, Tail
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder, unit_length
from myvlm.heads.features import Crops, count_large_windows, features
from myvlm.heads.objects.everyday import EDITION, everyday
from myvlm.heads.objects.fit import LearnedProbe, LinearProbe, rows_to_keep
from myvlm.heads.objects.localize import GENERIC, choose_windows, text_direction
from myvlm.heads.vision_models import PatchEncoder
from myvlm.images import LoadedImage

# How these were chosen, on ten subjects of real photos: benchmarks/RESULTS.md.
PLACE, PLACE_OF_ONE = 0.62, 0.25
"""Position of the threshold between everyday photographs (0) and left-out photos (1), and, if there is only
one photo, between everyday photographs and that photo itself, whose score no other photo comes near."""
SURE_OF_ONE = 0.5
"""Position from which, with one photo, a picture is not unsure: other objects of the same category rarely
score so high."""
PLACE_OF_WEIGHED, SURE_OF_WEIGHED = 0.4, 0.65
"""Both positions where all large windows of a single photo count (`_weighted_sum`): scores lie closer."""
STEEPNESS = 14.0
"""Slope of the log-odds, times the distance from everyday photographs to left-out photos."""
MIN_SPAN = 2.0
"""Least value of that distance, in standard deviations of the scores of everyday windows, for photos that do
not agree."""


def learn_prototype(
    encoder: ImageEncoder,
    photos: Sequence[LoadedImage],
    *,
    category: str | None,
    crops: Crops,
    false_alarm_rate: float,
) -> LearnedProbe:
    """Fit a prototype of one object; see `ObjectHead` for the arguments."""
    known = everyday(encoder)
    read = known.whitening
    encoded = features(encoder, photos, crops)
    text = text_direction(encoder, category)
    chosen = choose_windows(encoded, known.windows, text)
    shown, usual = [read(one.features) for one in encoded], read(known.windows)
    # in a single photo, only the category's text could tell which window shows the object
    whole_only = len(photos) == 1 and text is None
    weighed = whole_only and _is_vision_only(encoder)
    if weighed:
        each = _weighted_sum(shown[0][: count_large_windows(encoded[0].boxes)])
    else:
        windows = [0 if whole_only else window for window in chosen]
        each = np.stack(
            [unit_length(rows[0] + rows[window]) for rows, window in zip(shown, windows, strict=True)]
        )
    probe = _prototype(each)
    scores = probe.windows(usual)
    mean, deviation = float(scores.mean()), float(scores.std())
    ceiling = float(np.quantile(scores, 1 - false_alarm_rate, method="higher"))
    positives = _left_out(shown, each)
    typical = float(np.median(positives))
    span = max(typical - ceiling, MIN_SPAN * deviation)
    unlike = known.tail(float(np.mean([len(one.boxes) for one in encoded])))
    tail = Tail(mean + deviation * unlike.location, deviation * unlike.scale)
    several = len(photos) > 1  # the score of a single photo by itself does not predict that of others
    place_of_one, sure = (PLACE_OF_WEIGHED, SURE_OF_WEIGHED) if weighed else (PLACE_OF_ONE, SURE_OF_ONE)
    calibration = Calibration(
        threshold=ceiling + (PLACE if several else place_of_one) * span,
        slope=STEEPNESS / span,
        ceiling=ceiling,
        tail=tail,
        typical=typical if several else 0.0,
        sure=0.0 if several else ceiling + sure * span,
    )
    figures = {
        "photos": len(photos),
        "negative_pictures": 0,
        "left_out_found": float((positives >= calibration.threshold).mean()),
        "left_out_false_alarms": float((scores >= calibration.threshold).mean()),
        "left_out_scores": [round(float(score), 4) for score in positives],
        "highest_negative_score": round(float(scores.max()), 4),
    }
    boxes = [one.boxes[0 if whole_only else window] for one, window in zip(encoded, chosen, strict=True)]
    kept = rows_to_keep(probe, shown, usual)
    return LearnedProbe(probe, calibration, 0.0, boxes, figures, [], *kept, everyday=EDITION)


def _is_vision_only(encoder: ImageEncoder) -> bool:
    """Whether it is a vision transformer that reads no text: `_weighted_sum` was measured on these."""
    return isinstance(encoder, PatchEncoder) and encoder.encode_text(GENERIC) is None


def _weighted_sum(rows: FloatArray) -> FloatArray:
    """C × D windows of a single photo → 1 × D: their sum, each weighted by its cosine with their mean.

    The class token of a single picture also describes what is in it by chance, which differs from window to
    window. A window with a negative cosine counts 0.
    """
    likeness = rows @ unit_length(rows.mean(axis=0))
    return unit_length(np.maximum(likeness, 0) @ rows)[None]


def _prototype(each: FloatArray) -> LinearProbe:
    """P × D photos → a probe that scores a window by its cosine with their mean."""
    return LinearProbe(unit_length(each.mean(axis=0)), 0.0)


def _left_out(shown: Sequence[FloatArray], each: FloatArray) -> npt.NDArray[np.float64]:
    """One score per photo, of its best window, by the prototype of the others; a single photo by its own."""
    count = len(each)
    if count == 1:
        return np.array([_prototype(each).picture(shown[0])])
    probes = [_prototype(np.delete(each, photo, axis=0)) for photo in range(count)]
    return np.array([probe.picture(rows) for probe, rows in zip(probes, shown, strict=True)])
