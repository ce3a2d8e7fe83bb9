"""How an object is learned: windows, views, negatives, a probe, and photos left out to calibrate it.

Every step is one small function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from myvlm.boxes import Box
from myvlm.heads.calibration import Calibration, calibrate, calibrate_whitened, fit_tail
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.features import Crops, PictureFeatures, cut, features, refine_boxes, whiten
from myvlm.heads.objects.localize import choose_windows, text_direction, windows_without
from myvlm.images import LoadedImage

VIEWS = 24
"""Views of each photo's chosen window, the window itself included."""

# How the next were chosen, on tinyworld alone: benchmarks/RESULTS.md, "How the heads' constants were chosen".
PRIOR = 10.0
"""How much wider than in other directions the probe's prior is along the mean of the photos' views: what is
only around the thing in its photos tells it from other pictures too, and the mean does not ask for that."""
PRIOR_FROM = 3
"""Photos from which on there is a prior: the mean of fewer holds what is around the thing as well."""
C_WITH_PRIOR = 0.1
"""The cost of errors against that of leaving the mean."""

KEPT_OF_A_PHOTO, KEPT_OF_OTHERS = 5, 16
"""Windows whose features are kept of each photo, beside the whole, and of all pictures without the object."""

NEGATIVES_AT_FIRST = 1500
MINED_PER_ROUND = 500
MINING_ROUNDS = 2
EVERYDAY_AT_MOST = 4000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear score on a window's features: `features @ coef + intercept`."""

    coef: FloatArray
    intercept: float

    def windows(self, rows: FloatArray) -> FloatArray:
        """C × D features → C scores."""
        return np.asarray(rows @ self.coef + self.intercept, dtype=np.float32)

    def picture(self, rows: FloatArray) -> float:
        """The score of a picture: that of its best window."""
        return float(self.windows(rows).max())


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What there is to learn from.

    Attributes:
        photos: n arrays C × D, the windows of the photos that hold the object.
        views: n arrays V × D, views of each photo's chosen window.
        beside: n arrays, windows of the same photos that miss the object (maybe none).
        pictures: arrays C × D, the windows of each picture without the object, given or from the bank.
        plain: R × D, drawn pictures of nothing; learned from, too easy to calibrate on.
        refined: the variations (V × D) of a photo's window, by the numbers of both; None: boxes are as found.
        prior: how freely the probe may go along the mean of the views, see `PRIOR`; 0: as anywhere.
    """

    photos: list[FloatArray]
    views: list[FloatArray]
    beside: list[FloatArray]
    pictures: list[FloatArray]
    plain: FloatArray
    refined: Callable[[int, int], FloatArray] | None
    prior: float = 0.0

    def left_out(self, photo: int, probe: LinearProbe) -> float:
        """The score that a gate would give the photo: of the best window or of a variation of it."""
        scores = probe.windows(self.photos[photo])
        best = int(scores.argmax())
        if self.refined is None:
            return float(scores[best])
        return max(float(scores[best]), probe.picture(self.refined(photo, best)))


@dataclass(frozen=True, eq=False)
class LearnedProbe:
    """The outcome: the probe, its calibration, how far below the threshold boxes are refined (0: none
    is), the window chosen in each photo, what was measured, the numbers of given negatives in which a probe
    that had not seen them finds the object, what is kept to correct it by (see `TrainingSet`), and the
    edition of the everyday photographs that features are read by (0: by none)."""

    probe: LinearProbe
    calibration: Calibration
    refine_margin: float
    boxes: list[Box]
    figures: dict[str, Any]
    doubtful: list[int]
    photos: npt.NDArray[np.float16]
    others: npt.NDArray[np.float16]
    everyday: int = 0


def learn_probe(
    encoder: ImageEncoder,
    photos: Sequence[LoadedImage],
    others: Sequence[LoadedImage],
    *,
    category: str | None,
    crops: Crops,
    false_alarm_rate: float,
    C: float | None,
    seed: int,
) -> LearnedProbe:
    """Learn one object; see `ObjectHead` for the arguments."""
    prior = PRIOR if encoder.whitening() is not None and len(photos) >= PRIOR_FROM else 0.0
    if C is None:
        C = 10.0 if encoder.whitening() is None else C_WITH_PRIOR if prior else 1.0
    encoded = features(encoder, photos, crops)
    pictures = _without_the_object(encoder, others, crops)
    chosen = choose_windows(encoded, _everyday(pictures, seed), text_direction(encoder, category))
    boxes = [one.boxes[window] for one, window in zip(encoded, chosen, strict=True)]
    examples = TrainingSet(
        photos=[whiten(encoder, one.features) for one in encoded],
        views=[whiten(encoder, rows) for rows in _encode_views(encoder, photos, boxes, seed)],
        beside=[
            whiten(encoder, one.features[windows_without(one, window)])
            for one, window in zip(encoded, chosen, strict=True)
        ],
        pictures=[whiten(encoder, rows) for rows in pictures],
        plain=whiten(encoder, encoder.encode(_plain_pictures())),
        # Without a picture to hold against it, nothing says how far refining lifts what it is not.
        refined=_refined(encoder, photos, encoded) if pictures and crops not in ("none", 1) else None,
        prior=prior,
    )
    probe = _fit_on(examples, range(len(photos)), range(len(pictures)), C, seed)
    positives, negatives = _left_out_scores(examples, C, seed)
    given, everyday = np.split(negatives, [len(others)])
    if encoder.whitening() is None:
        calibration = calibrate(positives, negatives, false_alarm_rate)
    elif len(everyday):
        calibration = calibrate_whitened(positives, everyday, given, false_alarm_rate, len(photos))
    else:
        calibration = calibrate_whitened(positives, given, everyday, false_alarm_rate, len(photos))
    # pictures that the user gave are no sample of what there is
    calibration = replace(calibration, tail=fit_tail(everyday))
    # Where no picture without the object comes near, refining would cost for nothing.
    reach = 0.0 if examples.refined is None else max(calibration.threshold - calibration.ceiling, 0.0)
    # a negative that shows the object may have pushed the threshold over itself, but not over the photos
    doubtful = np.flatnonzero(given >= min(calibration.threshold, float(np.median(positives)))).tolist()
    figures = _figures(positives, negatives, calibration, examples)
    hardest = [rows[[probe.windows(rows).argmax()]] for rows in [*examples.pictures, examples.plain]]
    kept = kept_rows(probe, examples.photos, np.concatenate(hardest))
    return LearnedProbe(probe, calibration, reach, boxes, figures, doubtful, *kept)


def _refined(
    encoder: ImageEncoder, photos: Sequence[LoadedImage], encoded: Sequence[PictureFeatures]
) -> Callable[[int, int], FloatArray]:
    def variations_of(photo: int, window: int) -> FloatArray:
        [look] = refine_boxes(encoder, [photos[photo]], [encoded[photo].boxes[window]])
        return whiten(encoder, look.features)

    return variations_of


def _without_the_object(
    encoder: ImageEncoder, others: Sequence[LoadedImage], crops: Crops
) -> list[FloatArray]:
    """The windows of each picture without the object: those given, then those of the encoder's bank."""
    given: list[PictureFeatures] = features(encoder, others, crops) if others else []
    bank = encoder.bank()
    windows_used = slice(0, 1) if crops in ("none", 1) else slice(None)
    shipped = [] if bank is None else [rows[windows_used] for rows in bank]
    return [one.features for one in given] + shipped


def _everyday(pictures: list[FloatArray], seed: int) -> FloatArray | None:
    """A bounded sample of all their windows."""
    if not pictures:
        return None
    rows = np.concatenate(pictures)
    if len(rows) <= EVERYDAY_AT_MOST:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), EVERYDAY_AT_MOST, replace=False)]


def _encode_views(
    encoder: ImageEncoder, photos: Sequence[LoadedImage], boxes: Sequence[Box], seed: int
) -> list[FloatArray]:
    """V × D for each photo: its window, and the window moved, zoomed, mirrored, lighter and darker."""
    rng = np.random.default_rng(seed)
    views = [
        view
        for photo, box in zip(photos, boxes, strict=True)
        for view in _draw_views(encoder, photo, box, rng)
    ]
    return [np.asarray(rows, dtype=np.float32) for rows in np.split(encoder.encode(views), len(photos))]


def _draw_views(
    encoder: ImageEncoder, photo: LoadedImage, box: Box, rng: np.random.Generator
) -> list[Image.Image]:
    moved = [box, box] + [_jitter(box, photo.image.size, rng) for _ in range(VIEWS - 2)]
    views = cut(photo, moved, encoder)
    for index in range(1, VIEWS):
        if index % 2:
            views[index] = ImageOps.mirror(views[index])
        if index > 1:
            views[index] = _in_other_light(views[index], rng)
    return views


def _in_other_light(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Lighter or darker, and behind a thin veil of one grey, as fog, dusk and glare lay over a picture."""
    lit = ImageEnhance.Brightness(view).enhance(float(rng.uniform(0.65, 1.35)))
    veil = Image.new("RGB", view.size, (int(rng.integers(0, 256)),) * 3)
    return Image.blend(lit, veil, float(rng.uniform(0, 0.25)))


def _jitter(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """The box a little aside, tighter or wider, as the windows of the next picture will meet the object."""
    width, height = box[2] - box[0], box[3] - box[1]
    zoom = float(rng.uniform(0.8, 1.5))
    across = (box[0] + box[2]) / 2 + float(rng.uniform(-0.2, 0.2)) * width
    down = (box[1] + box[3]) / 2 + float(rng.uniform(-0.2, 0.2)) * height
    left, top = max(across - zoom * width / 2, 0.0), max(down - zoom * height / 2, 0.0)
    right = min(across + zoom * width / 2, float(size[0]))
    bottom = min(down + zoom * height / 2, float(size[1]))
    return (left, top, max(right, left + 1), max(bottom, top + 1))


def _plain_pictures() -> list[Image.Image]:
    """Grey pictures of nothing and one of noise, for those without negatives; a coloured one might be it."""
    levels = (0, 64, 128, 192, 255)
    plain = [Image.new("RGB", (64, 64), (level, level, level)) for level in levels]
    shade = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return [
        *plain,
        shade,
        ImageOps.flip(shade),
        Image.radial_gradient("L").convert("RGB"),
        Image.fromarray(noise),
    ]


def _fit_on(
    examples: TrainingSet, photos: Sequence[int], pictures: Sequence[int], C: float, seed: int
) -> LinearProbe:
    """A probe learned from some of the photos and some of the pictures without the object."""
    positives = np.concatenate([examples.views[i] for i in photos])
    beside = [examples.beside[i] for i in photos]
    negatives = np.concatenate([examples.plain, *beside, *(examples.pictures[i] for i in pictures)])
    return fit_probe(positives, negatives, C, seed, prior=examples.prior)


def fit_probe(
    positives: FloatArray, negatives: FloatArray, C: float, seed: int, *, prior: float = 0.0
) -> LinearProbe:
    """Class-balanced logistic regression, with the hardest negatives mined from the pool.

    Args:
        positives: P × D features.
        negatives: N × D, at least one; a pool of any size, of which a sample is learned from at first, and
            then, twice, those that score highest.
        prior: see `PRIOR`.
    """
    rng = np.random.default_rng(seed)
    in_use = rng.permutation(len(negatives))[:NEGATIVES_AT_FIRST]
    probe = _logistic_regression(positives, negatives[in_use], C, prior)
    for _ in range(MINING_ROUNDS if len(negatives) > len(in_use) else 0):
        hardest = np.argsort(-probe.windows(negatives), kind="stable")[:MINED_PER_ROUND]
        in_use = np.union1d(in_use, hardest)
        probe = _logistic_regression(positives, negatives[in_use], C, prior)
    return probe


def _logistic_regression(positives: FloatArray, negatives: FloatArray, C: float, prior: float) -> LinearProbe:
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([positives, negatives]).astype(np.float64)
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    # around the mean, or the part that all features share takes most of the regularisation
    mean = rows.mean(axis=0)
    middle = positives.mean(axis=0)
    along = prior / max(float(np.linalg.norm(middle)), 1e-6) * middle
    # A column more, the part along the prior's direction, makes weight in that direction cheap.
    table = np.column_stack([rows - mean, (rows - mean) @ along])
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=2000).fit(table, labels)
    *own, shared = model.coef_[0]
    coef = np.asarray(own) + shared * along
    return LinearProbe(coef.astype(np.float32), float(model.intercept_[0] - coef @ mean))


def _left_out_scores(
    examples: TrainingSet, C: float, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One score a photo and one a picture without the object, each by a probe that has not seen it.

    Fold i leaves out photo i and every n-th picture. One photo alone is left out by halves of its views. With
    no pictures at all, the windows beside the object stand for them, or else the plain pictures; otherwise
    the scores are in the order of the pictures.
    """
    count, folds = len(examples.photos), max(len(examples.photos), 2)
    positives: list[float] = []
    negatives = np.empty(len(examples.pictures) or folds)
    for fold in range(folds):
        kept = [i for i in range(len(examples.pictures)) if i % folds != fold]
        if count > 1:
            probe = _fit_on(examples, [i for i in range(count) if i != fold], kept, C, seed)
            positives.append(examples.left_out(fold, probe))
            beside = examples.beside[fold]
        else:
            halves = replace(examples, views=[examples.views[0][fold::2]])
            probe = _fit_on(halves, [0], kept, C, seed)
            positives.append(probe.picture(examples.views[0][1 - fold :: 2]))
            beside = examples.beside[0]
        held_out = examples.pictures or [beside if len(beside) else examples.plain] * folds
        negatives[fold::folds] = [probe.picture(rows) for rows in held_out[fold::folds]]
    return np.array(positives), negatives


def kept_rows(
    probe: LinearProbe, photos: Sequence[FloatArray], others: FloatArray
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """What of the photos and of the rest a probe is corrected by: the rows that score highest.

    Of each photo the whole comes first, whatever its score.

    Half precision: it is a thousandth of a photo's distance from the threshold.
    """
    most = min(KEPT_OF_A_PHOTO, *map(len, photos))
    best = [np.concatenate([rows[:1], _highest(probe, rows, most)]) for rows in photos]
    hardest = _highest(probe, others, KEPT_OF_OTHERS)
    return np.stack(best).astype(np.float16), hardest.astype(np.float16)


def _highest(probe: LinearProbe, rows: FloatArray, count: int) -> FloatArray:
    return rows[np.argsort(-probe.windows(rows), kind="stable")[:count]]


def _figures(
    positives: npt.NDArray[np.float64],
    negatives: npt.NDArray[np.float64],
    calibration: Calibration,
    examples: TrainingSet,
) -> dict[str, Any]:
    return {
        "photos": len(examples.photos),
        "negative_pictures": len(examples.pictures),
        "left_out_found": float((positives >= calibration.threshold).mean()),
        "left_out_false_alarms": float((negatives >= calibration.threshold).mean()),
        "left_out_scores": [round(float(score), 4) for score in positives],
        "highest_negative_score": round(float(negatives.max()), 4),
    }
