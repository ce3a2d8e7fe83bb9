"""Fitting of object heads by regression: windows, augmented views, negatives, a linear probe, calibration."""

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
from myvlm.heads.features import Crops, PictureFeatures, crop_boxes, features, refine_boxes, whiten
from myvlm.heads.objects.localize import choose_windows, text_direction, windows_without
from myvlm.images import LoadedImage

VIEWS = 24
"""Augmented views of each photo's chosen window, the window itself included."""

# How the next were chosen, on tinyworld alone: benchmarks/RESULTS.md, "How the heads' constants were chosen".
PRIOR = 10.0
"""Width of the probe's prior along the mean of the photos' views, relative to other directions. A regression
also uses the surroundings of the object in its photos to tell it from other pictures; the mean does not."""
PRIOR_FROM = 3
"""Fewest photos for which the prior is used: the mean of fewer also contains the object's surroundings."""
C_WITH_PRIOR = 0.1
"""The probe's `C` where the prior is used: the cost of errors against that of leaving the mean."""

KEPT_OF_A_PHOTO, KEPT_OF_OTHERS = 5, 16
"""Number of windows whose features are kept: of each photo, besides the whole photo, and of all negatives."""

NEGATIVES_AT_FIRST = 1500
MINED_PER_ROUND = 500
MINING_ROUNDS = 2
MAX_EVERYDAY_WINDOWS = 4000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear score of a window's features: `features @ coef + intercept`."""

    coef: FloatArray
    intercept: float

    def windows(self, rows: FloatArray) -> FloatArray:
        """C × D features → C scores."""
        return np.asarray(rows @ self.coef + self.intercept, dtype=np.float32)

    def picture(self, rows: FloatArray) -> float:
        """C × D features of a picture's windows → its score, that of the best window."""
        return float(self.windows(rows).max())


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Features that a probe is fitted to and calibrated on; all are whitened.

    Attributes:
        photos: n arrays C × D, the windows of each photo of the object.
        views: n arrays V × D, augmented views of each photo's chosen window.
        beside: n arrays, windows of the same photos that do not show the object; may be empty.
        pictures: arrays C × D, the windows of each picture without the object, given or from the bank.
        plain: R × D, synthetic pictures that show nothing; fitted to, but too easy to calibrate on.
        refined: returns the variations (V × D) of a window, by the indices of its photo and of the window;
            None if boxes are not refined.
        prior: width of the prior along the mean of the views, see `PRIOR`; 0 for none.
    """

    photos: list[FloatArray]
    views: list[FloatArray]
    beside: list[FloatArray]
    pictures: list[FloatArray]
    plain: FloatArray
    refined: Callable[[int, int], FloatArray] | None
    prior: float = 0.0

    def left_out_score(self, photo: int, probe: LinearProbe) -> float:
        """Score of a photo as a gate computes it: of the best window or of a variation of it."""
        scores = probe.windows(self.photos[photo])
        best = int(scores.argmax())
        if self.refined is None:
            return float(scores[best])
        return max(float(scores[best]), probe.picture(self.refined(photo, best)))


@dataclass(frozen=True, eq=False)
class LearnedProbe:
    """Result of fitting an object head.

    Attributes:
        probe: the linear probe.
        calibration: its calibration.
        refine_margin: how far below the threshold boxes are refined; 0 if none are.
        boxes: the window chosen in each photo.
        figures: measurements made while fitting.
        suspect_negatives: indices of given negatives in which a probe not fitted to them detects the object.
        photos, others: features kept for later corrections, N × R × D and K × D, see `Examples`.
        everyday: edition of the everyday photographs whose whitening is used; 0 for none.
    """

    probe: LinearProbe
    calibration: Calibration
    refine_margin: float
    boxes: list[Box]
    figures: dict[str, Any]
    suspect_negatives: list[int]
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
    """Fit a probe to one object by regression; see `ObjectHead` for the arguments."""
    prior = PRIOR if encoder.whitening() is not None and len(photos) >= PRIOR_FROM else 0.0
    if C is None:
        C = 10.0 if encoder.whitening() is None else C_WITH_PRIOR if prior else 1.0
    encoded = features(encoder, photos, crops)
    pictures = _encode_negatives(encoder, others, crops)
    chosen = choose_windows(encoded, _sample_windows(pictures, seed), text_direction(encoder, category))
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
        # Without negatives, it is not known how much refining raises the scores of other objects.
        refined=_variation_encoder(encoder, photos, encoded)
        if pictures and crops not in ("none", 1)
        else None,
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
    # the tail is fitted to the bank only: negatives that the user gave are not a random sample
    calibration = replace(calibration, tail=fit_tail(everyday))
    # Scores below the ceiling are not refined: nearly all are of pictures without the object.
    reach = 0.0 if examples.refined is None else max(calibration.threshold - calibration.ceiling, 0.0)
    # a negative that shows the object may have raised the threshold above itself, but not above the photos
    suspect_negatives = np.flatnonzero(
        given >= min(calibration.threshold, float(np.median(positives)))
    ).tolist()
    figures = _figures(positives, negatives, calibration, examples)
    hardest = [rows[[probe.windows(rows).argmax()]] for rows in [*examples.pictures, examples.plain]]
    kept = rows_to_keep(probe, examples.photos, np.concatenate(hardest))
    return LearnedProbe(probe, calibration, reach, boxes, figures, suspect_negatives, *kept)


def _variation_encoder(
    encoder: ImageEncoder, photos: Sequence[LoadedImage], encoded: Sequence[PictureFeatures]
) -> Callable[[int, int], FloatArray]:
    def variations_of(photo: int, window: int) -> FloatArray:
        [look] = refine_boxes(encoder, [photos[photo]], [encoded[photo].boxes[window]])
        return whiten(encoder, look.features)

    return variations_of


def _encode_negatives(encoder: ImageEncoder, others: Sequence[LoadedImage], crops: Crops) -> list[FloatArray]:
    """Features of the windows of each negative: the given ones, then those of the encoder's bank."""
    given: list[PictureFeatures] = features(encoder, others, crops) if others else []
    bank = encoder.bank()
    windows_used = slice(0, 1) if crops in ("none", 1) else slice(None)
    shipped = [] if bank is None else [rows[windows_used] for rows in bank]
    return [one.features for one in given] + shipped


def _sample_windows(pictures: list[FloatArray], seed: int) -> FloatArray | None:
    """A sample of at most `MAX_EVERYDAY_WINDOWS` of all windows; None if there are no pictures."""
    if not pictures:
        return None
    rows = np.concatenate(pictures)
    if len(rows) <= MAX_EVERYDAY_WINDOWS:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), MAX_EVERYDAY_WINDOWS, replace=False)]


def _encode_views(
    encoder: ImageEncoder, photos: Sequence[LoadedImage], boxes: Sequence[Box], seed: int
) -> list[FloatArray]:
    """V × D for each photo: features of its window as it is, moved, zoomed, mirrored, lighter and darker."""
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
    views = crop_boxes(photo, moved, encoder)
    for index in range(1, VIEWS):
        if index % 2:
            views[index] = ImageOps.mirror(views[index])
        if index > 1:
            views[index] = _in_other_light(views[index], rng)
    return views


def _in_other_light(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change the brightness, and blend the view with a random grey, as fog, dusk and glare do."""
    lit = ImageEnhance.Brightness(view).enhance(float(rng.uniform(0.65, 1.35)))
    veil = Image.new("RGB", view.size, (int(rng.integers(0, 256)),) * 3)
    return Image.blend(lit, veil, float(rng.uniform(0, 0.25)))


def _jitter(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Move and zoom a box at random, as windows of another picture will not be centred on the object."""
    width, height = box[2] - box[0], box[3] - box[1]
    zoom = float(rng.uniform(0.8, 1.5))
    across = (box[0] + box[2]) / 2 + float(rng.uniform(-0.2, 0.2)) * width
    down = (box[1] + box[3]) / 2 + float(rng.uniform(-0.2, 0.2)) * height
    left, top = max(across - zoom * width / 2, 0.0), max(down - zoom * height / 2, 0.0)
    right = min(across + zoom * width / 2, float(size[0]))
    bottom = min(down + zoom * height / 2, float(size[1]))
    return (left, top, max(right, left + 1), max(bottom, top + 1))


def _plain_pictures() -> list[Image.Image]:
    """Uniform and shaded grey pictures, and one of noise: negatives where there are no others.

    None is coloured except the noise: a coloured one might resemble the object.
    """
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
    """Fit a probe to some of the photos and some of the pictures without the object."""
    positives = np.concatenate([examples.views[i] for i in photos])
    beside = [examples.beside[i] for i in photos]
    negatives = np.concatenate([examples.plain, *beside, *(examples.pictures[i] for i in pictures)])
    return fit_probe(positives, negatives, C, seed, prior=examples.prior)


def fit_probe(
    positives: FloatArray, negatives: FloatArray, C: float, seed: int, *, prior: float = 0.0
) -> LinearProbe:
    """Fit a class-balanced logistic regression, with hard-negative mining.

    Args:
        positives: P × D features.
        negatives: N × D, at least one. If they are many, the probe is fitted to a random sample first, and
            then, twice, also to the negatives that score highest.
        C: inverse strength of the regularization.
        seed: of the sample.
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
    # centred: else the part that all features share would take most of the regularization
    mean = rows.mean(axis=0)
    middle = positives.mean(axis=0)
    along = prior / max(float(np.linalg.norm(middle)), 1e-6) * middle
    # An extra column, the projection on the prior's direction, makes weight in that direction cheap.
    table = np.column_stack([rows - mean, (rows - mean) @ along])
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=2000).fit(table, labels)
    *own, shared = model.coef_[0]
    coef = np.asarray(own) + shared * along
    return LinearProbe(coef.astype(np.float32), float(model.intercept_[0] - coef @ mean))


def _left_out_scores(
    examples: TrainingSet, C: float, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cross-validated scores: one per photo and one per picture without the object.

    Fold i leaves out photo i and every n-th picture. If there is one photo, each fold leaves out half of its
    views. If there are no pictures, the windows beside the object are scored instead, or else the plain
    pictures; otherwise the scores are in the order of the pictures.
    """
    count, folds = len(examples.photos), max(len(examples.photos), 2)
    positives: list[float] = []
    negatives = np.empty(len(examples.pictures) or folds)
    for fold in range(folds):
        kept = [i for i in range(len(examples.pictures)) if i % folds != fold]
        if count > 1:
            probe = _fit_on(examples, [i for i in range(count) if i != fold], kept, C, seed)
            positives.append(examples.left_out_score(fold, probe))
            beside = examples.beside[fold]
        else:
            halves = replace(examples, views=[examples.views[0][fold::2]])
            probe = _fit_on(halves, [0], kept, C, seed)
            positives.append(probe.picture(examples.views[0][1 - fold :: 2]))
            beside = examples.beside[0]
        held_out = examples.pictures or [beside if len(beside) else examples.plain] * folds
        negatives[fold::folds] = [probe.picture(rows) for rows in held_out[fold::folds]]
    return np.array(positives), negatives


def rows_to_keep(
    probe: LinearProbe, photos: Sequence[FloatArray], others: FloatArray
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Select the features that are kept for later corrections: the rows that score highest.

    The first row of each photo is the whole photo, whatever its score. Half precision is enough: its error is
    a thousandth of a photo's distance from the threshold.

    Returns:
        N × R × D rows of the photos and K × D of the others.
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
