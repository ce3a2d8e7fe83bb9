"""How an object is learned where no negatives are given: its photos' mean, held against everyday photos.

With three photos and nothing to hold them against, a regression draws its line anywhere. The mean of the
photos' features, as everyday photographs whiten them, needs no line: its cosine is on one scale for all
objects, and only the threshold is left to find (as for prototypes of few-shot classes, arXiv 1703.05175). It
costs no encoder pass beyond the photos' own windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from myvlm.heads.calibration import Calibration, Tail
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder, unit_length
from myvlm.heads.features import Crops, features, first_look
from myvlm.heads.objects.everyday import EDITION, everyday
from myvlm.heads.objects.fit import LearnedProbe, LinearProbe, kept_rows
from myvlm.heads.objects.localize import GENERIC, choose_windows, text_direction
from myvlm.heads.vision_models import PatchEncoder
from myvlm.images import LoadedImage

# How these were chosen, on ten subjects of real photos: benchmarks/RESULTS.md.
PLACE, PLACE_OF_ONE = 0.62, 0.25
"""Where the threshold goes on the way from everyday photographs to left-out photos, and, where there is one
photo only, to that photo itself, which no other will come near."""
SURE_OF_ONE = 0.5
"""How far a picture has to come on that way, where there is one photo, not to be unsure: other things of the
same category hardly come so far."""
PLACE_OF_WEIGHED, SURE_OF_WEIGHED = 0.4, 0.65
"""The same of a photo of which all large windows count (`_weighed`): its scores lie closer together."""
STEEPNESS = 14.0
"""The probability's slope, times that way."""
LEAST_WAY = 2.0
"""The way is at least so long, in deviations of everyday windows: photos that do not agree say nothing."""


def learn_prototype(
    encoder: ImageEncoder,
    photos: Sequence[LoadedImage],
    *,
    category: str | None,
    crops: Crops,
    false_alarm_rate: float,
) -> LearnedProbe:
    """Learn one object; see `ObjectHead` for the arguments."""
    known = everyday(encoder)
    read = known.whitening
    encoded = features(encoder, photos, crops)
    text = text_direction(encoder, category)
    chosen = choose_windows(encoded, known.windows, text)
    shown, usual = [read(one.features) for one in encoded], read(known.windows)
    # which part of a single photo is the object, nothing says but words
    alone = len(photos) == 1 and text is None
    weighed = alone and _gives_class_tokens(encoder)
    if weighed:
        each = _weighed(shown[0][: first_look(encoded[0].boxes)])
    else:
        windows = [0 if alone else window for window in chosen]
        each = np.stack(
            [unit_length(rows[0] + rows[window]) for rows, window in zip(shown, windows, strict=True)]
        )
    probe = _prototype(each)
    scores = probe.windows(usual)
    mean, deviation = float(scores.mean()), float(scores.std())
    ceiling = float(np.quantile(scores, 1 - false_alarm_rate, method="higher"))
    positives = _left_out(shown, each)
    typical = float(np.median(positives))
    way = max(typical - ceiling, LEAST_WAY * deviation)
    unlike = known.tail(float(np.mean([len(one.boxes) for one in encoded])))
    tail = Tail(mean + deviation * unlike.location, deviation * unlike.scale)
    several = len(photos) > 1  # a single photo's own score is no other photo's
    place_of_one, sure = (PLACE_OF_WEIGHED, SURE_OF_WEIGHED) if weighed else (PLACE_OF_ONE, SURE_OF_ONE)
    calibration = Calibration(
        threshold=ceiling + (PLACE if several else place_of_one) * way,
        slope=STEEPNESS / way,
        ceiling=ceiling,
        tail=tail,
        typical=typical if several else 0.0,
        sure=0.0 if several else ceiling + sure * way,
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
    kept = kept_rows(probe, shown, usual)
    return LearnedProbe(probe, calibration, 0.0, boxes, figures, [], *kept, everyday=EDITION)


def _gives_class_tokens(encoder: ImageEncoder) -> bool:
    """Whether it is a transformer that reads no text, the kind on which `_weighed` was measured."""
    return isinstance(encoder, PatchEncoder) and encoder.encode_text(GENERIC) is None


def _weighed(rows: FloatArray) -> FloatArray:
    """C × D windows of a single photo → 1 × D: their sum, each by its cosine with the mean of all.

    The class token of one picture holds much of what is there by chance; that of its parts differs. What is
    unlike the rest counts nothing.
    """
    likeness = rows @ unit_length(rows.mean(axis=0))
    return unit_length(np.maximum(likeness, 0) @ rows)[None]


def _prototype(each: FloatArray) -> LinearProbe:
    """P × D photos → a probe whose score of a window is its part along their mean."""
    return LinearProbe(unit_length(each.mean(axis=0)), 0.0)


def _left_out(shown: Sequence[FloatArray], each: FloatArray) -> npt.NDArray[np.float64]:
    """One score a photo, of its best window, by the prototype of the others; a single photo's by its own."""
    count = len(each)
    if count == 1:
        return np.array([_prototype(each).picture(shown[0])])
    probes = [_prototype(np.delete(each, photo, axis=0)) for photo in range(count)]
    return np.array([probe.picture(rows) for probe, rows in zip(probes, shown, strict=True)])
