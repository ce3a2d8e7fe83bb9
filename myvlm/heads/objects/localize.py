"""Localization of the object in the training photos: choosing the window of each photo that shows it.

The user draws no boxes. The object is recognized by these cues: it is in all photos, it looks like its
category, it differs from the rest of its photo and from everyday pictures, and it is near the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from myvlm.boxes import Box
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder, unit_length
from myvlm.heads.features import PictureFeatures

PROMPTS = (
    "a photo of a {}",
    "a close-up photo of a {}",
    "a photo of the {}",
    "a {}",
    "a cropped photo of a {}",
)
GENERIC = ("a photo", "a photo of something", "a photo of a room", "the background of a photo")

APART = 0.3
"""Windows that overlap by less than this fraction of the smaller one count as showing different objects."""


@dataclass(frozen=True)
class Weights:
    """Weight of each cue, in standard deviations of that cue over all windows.

    `mutual_with_text` replaces `mutual` where the category is known, since the similarity of the photos has
    to outweigh the text; how it was chosen is in benchmarks/RESULTS.md.
    """

    mutual: float = 1.0
    mutual_with_text: float = 4.0
    text: float = 3.0
    unusual: float = 0.5
    stands_out: float = 0.5
    middle: float = 0.25
    size: float = 0.05


def choose_windows(
    photos: Sequence[PictureFeatures],
    everyday: FloatArray | None = None,
    text: FloatArray | None = None,
    *,
    weights: Weights = Weights(),
) -> list[int]:
    """For each photo, the index of the window that shows the object that all photos share.

    All cues but one are scores of a single window. The similarity of windows of different photos depends on
    the whole choice, so the choice is improved photo by photo until it converges (coordinate ascent), once
    from every window of the first photo.

    Args:
        photos: features of the windows of each photo, C × D; C may differ.
        everyday: R × D features of windows of other pictures, or None.
        text: D, the direction of the category's text (`text_direction`), or None.
        weights: weight of each cue.
    """
    rows = [photo.features for photo in photos]
    middle = np.mean(np.concatenate(rows) if everyday is None else everyday, axis=0)
    centred = [unit_length(own - middle) for own in rows]
    cues = _window_cues(photos, centred, text, weights)
    if everyday is not None:
        cues += -weights.unusual * _standardize(
            _similarity_to_everyday(np.concatenate(centred), unit_length(everyday - middle))
        )
    ends = np.cumsum([len(own) for own in rows])[:-1]
    mutual = weights.mutual if text is None else weights.mutual_with_text
    return _choose_jointly(centred, np.split(cues, ends), mutual)


def text_direction(encoder: ImageEncoder, category: str | None) -> FloatArray | None:
    """D, unit length: mean text feature of the category minus that of generic captions.

    None without a category, or if the encoder reads no text.
    """
    if not category:
        return None
    named = encoder.encode_text([prompt.format(category) for prompt in PROMPTS])
    generic = encoder.encode_text(GENERIC)
    if named is None or generic is None:
        return None
    return unit_length(named.mean(axis=0) - generic.mean(axis=0))


def windows_without(photo: PictureFeatures, chosen: int) -> list[int]:
    """Indices of windows that hardly overlap the chosen one and look unlike it: safe negatives."""
    centred = unit_length(photo.features - photo.features.mean(axis=0))
    unlike = centred @ centred[chosen] < 0.5
    return np.flatnonzero(unlike & (_overlaps(photo.boxes)[chosen] < APART)).tolist()


def _window_cues(
    photos: Sequence[PictureFeatures], centred: list[FloatArray], text: FloatArray | None, weights: Weights
) -> FloatArray:
    """Weighted sum of the cues of single windows, for the windows of all photos one after another."""
    distinctiveness = [
        _standardize(_distinctiveness(photo, own)) for photo, own in zip(photos, centred, strict=True)
    ]
    total = weights.stands_out * np.concatenate(distinctiveness)
    total += weights.middle * np.concatenate([_centrality(photo) for photo in photos])
    # prefer larger windows where nothing else decides, as with one photo and no category
    total += weights.size * np.concatenate([_relative_sizes(photo) for photo in photos])
    if text is not None:
        likeness = [_standardize(photo.features @ text) for photo in photos]
        total += weights.text * np.concatenate(likeness)
    result: FloatArray = total.astype(np.float32)
    return result


def _choose_jointly(centred: list[FloatArray], cues: list[FloatArray], mutual: float) -> list[int]:
    """Coordinate ascent on Σ alone + mutual · Σ similarity of pairs, from each window of the first photo.

    The similarities of pairs are divided by their spread and by the number of other photos.
    """
    if len(centred) == 1:
        return [int(cues[0].argmax())]
    spread = max(
        float(np.std(np.concatenate([(centred[0] @ other.T).ravel() for other in centred[1:]]))), 1e-2
    )
    best: tuple[float, list[int]] = (-np.inf, [])
    for start in range(len(centred[0])):
        chosen = [start]
        for own, cue in zip(centred[1:], cues[1:], strict=True):
            chosen.append(int((cue + mutual * own @ centred[0][start] / spread).argmax()))
        total = -np.inf
        for _ in range(10):
            for i, own in enumerate(centred):
                others = np.mean([centred[j][chosen[j]] for j in range(len(centred)) if j != i], axis=0)
                gain = cues[i] + mutual * (own @ others) / spread
                chosen[i] = int(gain.argmax())
            improved = _objective(centred, cues, chosen, mutual / spread)
            if improved <= total + 1e-6:
                break
            total = improved
        if total > best[0] + 1e-6:
            best = (total, chosen)
    return best[1]


def _objective(centred: list[FloatArray], cues: list[FloatArray], chosen: list[int], pull: float) -> float:
    picked = np.stack([own[i] for own, i in zip(centred, chosen, strict=True)])
    count = len(picked)
    pairs = (float((picked @ picked.T).sum()) - count) / (2 * (count - 1))
    return sum(float(cue[i]) for cue, i in zip(cues, chosen, strict=True)) + pull * pairs


def _distinctiveness(photo: PictureFeatures, centred: FloatArray) -> FloatArray:
    """Negative mean similarity of each window to the windows of the same photo that show other objects."""
    alike = centred @ centred.T
    apart = _overlaps(photo.boxes) < APART
    counts = apart.sum(axis=1)
    mean = (alike * apart).sum(axis=1) / np.maximum(counts, 1)
    fallback = mean[counts > 0].mean() if (counts > 0).any() else 0.0  # for windows that overlap all others
    result: FloatArray = -np.where(counts > 0, mean, fallback)
    return result


def _overlaps(boxes: Sequence[Box]) -> FloatArray:
    """C × C: `myvlm.boxes.overlap` of every pair of boxes, vectorized: a photo has a thousand pairs."""
    edges = np.asarray(boxes)
    shared = np.minimum(edges[:, None, 2:], edges[None, :, 2:]) - np.maximum(
        edges[:, None, :2], edges[None, :, :2]
    )
    areas = _areas(boxes)
    smaller = np.maximum(np.minimum(areas[:, None], areas[None]), 1e-9)
    return np.asarray(np.prod(np.maximum(shared, 0), axis=2) / smaller)


def _similarity_to_everyday(rows: FloatArray, everyday: FloatArray, nearest: int = 5) -> FloatArray:
    """Mean similarity of each row to its `nearest` most similar everyday windows."""
    count = min(nearest, len(everyday))
    alike = rows @ everyday.T
    result: FloatArray = np.partition(alike, -count, axis=1)[:, -count:].mean(axis=1)
    return result


def _centrality(photo: PictureFeatures) -> FloatArray:
    """Centrality of each window: 1 if centred in the photo, 0 if centred on a corner."""
    _, _, width, height = photo.boxes[0]
    boxes = np.asarray(photo.boxes)
    across = (boxes[:, 0] + boxes[:, 2]) / width - 1
    down = (boxes[:, 1] + boxes[:, 3]) / height - 1
    return np.asarray(1 - np.hypot(across, down) / np.sqrt(2), dtype=np.float32)


def _relative_sizes(photo: PictureFeatures) -> FloatArray:
    areas = _areas(photo.boxes)
    return np.asarray(areas / areas[0], dtype=np.float32)


def _areas(boxes: Sequence[Box]) -> FloatArray:
    edges = np.asarray(boxes)
    return np.asarray(np.prod(edges[:, 2:] - edges[:, :2], axis=1))


def _standardize(values: FloatArray) -> FloatArray:
    """Standardize to mean 0, deviation 1; the floor keeps rounding noise among equal values from counting."""
    result: FloatArray = (values - values.mean()) / max(float(values.std()), 1e-3)
    return result
