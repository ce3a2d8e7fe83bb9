"""Everyday photographs as any encoder sees them: what a thing is held against where no negatives are given.

The photographs ship with the package (`everyday/SOURCES.md` names licences and authors); an encoder sees them
at its first use, and what it saw is kept on disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from myvlm.files.writing import whole_file
from myvlm.heads.calibration import Tail, fit_tail_by_quantiles
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder, Whitening
from myvlm.heads.features import encoder_fingerprint, features, same_weights, windows
from myvlm.images import load_images

PHOTOS = Path(__file__).with_name("everyday")
WINDOWS = 12
"""Windows of each photograph at most: about 240 in all, some 12 s for an encoder of 50 ms a window."""

EDITION = 1
"""Of the photographs. Heads are read by those that they were learned by: other ones are another edition."""

# How the next were chosen, on real photos as two encoders see them: benchmarks/RESULTS.md.
RIDGE = 0.25
"""What is added to the variance along each direction, in means of all: how little the least are enlarged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Everyday:
    """What an encoder makes of the photographs.

    Attributes:
        windows: R × D, the features of all their windows.
        whitening: what all pictures share is taken off, and what varies most among them reduced. Without it
            likeness is of whatever an encoder gives most room, and scores of one thing are on another scale
            than those of the next (as with "all but the top", arXiv 1702.01417).
        unlike: how high a picture of as many windows scores for what it does not show, in deviations from the
            mean of everyday windows.
    """

    windows: FloatArray
    whitening: Whitening
    unlike: Tail

    def tail(self, windows_a_picture: float) -> Tail:
        """`unlike`, of pictures of so many windows, of which the best one counts."""
        return self.unlike.raised(windows_a_picture * len(_ends()) / len(self.windows))


_seen: WeakKeyDictionary[ImageEncoder, Everyday] = WeakKeyDictionary()


def everyday(encoder: ImageEncoder) -> Everyday:
    """What this encoder makes of the photographs, which it sees once.

    It is kept in `cache_folder()`, and made again where the file is damaged or of other weights.
    """
    if encoder not in _seen:
        now = encoder_fingerprint(encoder)
        name = hashlib.sha256(f"{encoder.id}\n{len(now)}\n{_digest()}".encode()).hexdigest()[:32]
        file = cache_folder() / "everyday" / f"{name}.safetensors"
        kept = _read(file, now)
        if kept is None:
            photos = load_images(sorted(PHOTOS.glob("*.jpg")))
            rows = np.concatenate([one.features for one in features(encoder, photos, WINDOWS)])
            kept = {"features": rows, "tail": _tail_of_pairs(rows), "fingerprint": now}
            _write(file, kept)
        location, scale = kept["tail"].tolist()
        _seen[encoder] = Everyday(kept["features"], shrinking(kept["features"]), Tail(location, scale))
    return _seen[encoder]


def shrinking(rows: FloatArray) -> Whitening:
    """From R × D features: directions in which they vary are reduced to about the mean of their variances.

    >>> rng = np.random.default_rng(0)
    >>> rows = (rng.normal(size=(200, 3)) * [9.0, 1.0, 1.0]).astype(np.float32)
    >>> np.round(10 * shrinking(rows).matrix.diagonal()).tolist()
    [3.0, 9.0, 9.0]
    """
    middle = rows.mean(axis=0)
    _, spread, directions = np.linalg.svd(rows - middle, full_matrices=False)
    variances = spread**2 / len(rows)
    floor = RIDGE * max(float(variances.mean()), 1e-12)
    reduced = 1 - np.sqrt(floor / (variances + floor))
    matrix = np.eye(rows.shape[1]) - (directions.T * reduced) @ directions
    return Whitening(middle, np.asarray(matrix, np.float32))


def _tail_of_pairs(rows: FloatArray) -> FloatArray:
    """Location and scale of `Everyday.unlike`, from all windows, R × D.

    Of every two photographs one stands for a thing that was learned from it, the other for a picture without;
    the whitening has seen neither. No photo of a user is asked, and each encoder has a tail of its own.
    """
    _, _, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    pictures = np.split(rows @ directions.T, _ends()[:-1])  # all that tells them apart, and not so long
    scores: list[float] = []
    for pair in combinations(range(len(pictures)), 2):
        seen = np.concatenate([own for number, own in enumerate(pictures) if number not in pair])
        read = shrinking(seen)
        usual, first, second = read(seen), *(read(pictures[number]) for number in pair)
        for thing, other in ((first, second), (second, first)):
            along = usual @ thing[0]
            above = float((other @ thing[0]).max()) - float(along.mean())
            scores.append(above / max(float(along.std()), 1e-6))
    found = fit_tail_by_quantiles(np.array(scores))
    return np.array([found.location, found.scale], dtype=np.float32)


def cache_folder() -> Path:
    """Where things are kept that can be made again: `MYVLM_CACHE`, or `myvlm` in the user's cache folder."""
    if own := os.environ.get("MYVLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "myvlm"


def _read(file: Path, now: FloatArray) -> dict[str, FloatArray] | None:
    """What is kept, if it is whole and of these weights."""
    if not file.is_file():
        return None
    try:
        kept = load_file(file)
        rows, tail, fingerprint = kept["features"], kept["tail"], kept["fingerprint"]
    except (SafetensorError, KeyError, OSError) as error:
        _log.info("%s is made again: %s", file, error)
        return None
    fits = rows.ndim == 2 and rows.shape[1:] == fingerprint.shape and tail.shape == (2,)
    whole = fits and np.isfinite(rows).all() and np.isfinite(tail).all()
    return kept if whole and same_weights(fingerprint, now) else None


def _write(file: Path, tensors: dict[str, FloatArray]) -> None:
    """Keep it, whole or not at all; without a place to write to it is only made again next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as fresh:
            save_file(tensors, fresh)
    except (OSError, SafetensorError) as error:
        _log.info("%s is not kept: %s", file, error)


@cache
def _ends() -> list[int]:
    """Where the windows of each photograph end among those of all."""
    counts = []
    for photo in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(photo) as image:
            counts.append(len(windows(*image.size, WINDOWS)))
    return [int(end) for end in np.cumsum(counts)]


@cache
def _digest() -> str:
    """Of the photographs: other ones, or other windows, are another file."""
    whole = hashlib.sha256(str(WINDOWS).encode())
    for photo in sorted(PHOTOS.glob("*.jpg")):
        whole.update(photo.read_bytes())
    return whole.hexdigest()
