"""Features of everyday photographs, which serve as background where the user gives no negatives.

The photographs ship with the package (`everyday/SOURCES.md` names licences and authors). Each encoder encodes
them once, at its first use, and the features are cached on disk.
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

from myvlm.files.writing import atomic_file
from myvlm.heads.calibration import Tail, fit_tail_by_quantiles
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder, Whitening
from myvlm.heads.features import encoder_fingerprint, features, same_weights, windows
from myvlm.images import load_images

PHOTOS = Path(__file__).with_name("everyday")
WINDOWS = 12
"""Most windows per photograph: about 240 in all, some 12 s for an encoder of 50 ms a window."""

EDITION = 1
"""Edition of the photographs. A head needs the photographs that it was learned with, so another set of them
needs another number."""

# How the next were chosen, on real photos as two encoders see them: benchmarks/RESULTS.md.
RIDGE = 0.25
"""Ridge added to the variance along each direction, as a multiple of the mean variance."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Everyday:
    """Statistics of an encoder's features of the everyday photographs.

    Attributes:
        windows: R × D, features of all their windows.
        whitening: subtracts the mean and shrinks the directions of largest variance. Without it, these
            directions dominate similarity, and scores of different objects are on different scales (as with
            "all but the top", arXiv 1702.01417).
        unlike: tail of the scores of pictures that do not show the object, for pictures with as many windows
            as the photographs have, in standard deviations from the mean score of everyday windows.
    """

    windows: FloatArray
    whitening: Whitening
    unlike: Tail

    def tail(self, windows_a_picture: float) -> Tail:
        """Tail `unlike` for pictures of so many windows, each scored by its best one."""
        return self.unlike.raised(windows_a_picture * len(_window_ends()) / len(self.windows))


_by_encoder: WeakKeyDictionary[ImageEncoder, Everyday] = WeakKeyDictionary()


def everyday(encoder: ImageEncoder) -> Everyday:
    """Return this encoder's statistics of the photographs; they are computed once.

    The features are cached in `cache_folder()`, and computed again if the file is damaged or was made with
    other weights.
    """
    if encoder not in _by_encoder:
        now = encoder_fingerprint(encoder)
        name = hashlib.sha256(f"{encoder.id}\n{len(now)}\n{_digest()}".encode()).hexdigest()[:32]
        file = cache_folder() / "everyday" / f"{name}.safetensors"
        kept = _read_cache(file, now)
        if kept is None:
            photos = load_images(sorted(PHOTOS.glob("*.jpg")))
            rows = np.concatenate([one.features for one in features(encoder, photos, WINDOWS)])
            kept = {"features": rows, "tail": _fit_pairwise_tail(rows), "fingerprint": now}
            _write_cache(file, kept)
        location, scale = kept["tail"].tolist()
        _by_encoder[encoder] = Everyday(
            kept["features"], shrinkage_whitening(kept["features"]), Tail(location, scale)
        )
    return _by_encoder[encoder]


def shrinkage_whitening(rows: FloatArray) -> Whitening:
    """Whitening from R × D features that shrinks the directions of largest variance and keeps the others.

    >>> rng = np.random.default_rng(0)
    >>> rows = (rng.normal(size=(200, 3)) * [9.0, 1.0, 1.0]).astype(np.float32)
    >>> np.round(10 * shrinkage_whitening(rows).matrix.diagonal()).tolist()
    [3.0, 9.0, 9.0]
    """
    middle = rows.mean(axis=0)
    _, spread, directions = np.linalg.svd(rows - middle, full_matrices=False)
    variances = spread**2 / len(rows)
    floor = RIDGE * max(float(variances.mean()), 1e-12)
    reduced = 1 - np.sqrt(floor / (variances + floor))
    matrix = np.eye(rows.shape[1]) - (directions.T * reduced) @ directions
    return Whitening(middle, np.asarray(matrix, np.float32))


def _fit_pairwise_tail(rows: FloatArray) -> FloatArray:
    """Location and scale of `Everyday.unlike`, from the R × D features of all windows.

    Of every pair of photographs, one stands for a learned object and the other for a picture without it; the
    whitening is computed from the others. So each encoder gets its own tail, and no user photos are needed.
    """
    _, _, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    # projected onto the span of all rows: the same products in fewer dimensions
    pictures = np.split(rows @ directions.T, _window_ends()[:-1])
    scores: list[float] = []
    for pair in combinations(range(len(pictures)), 2):
        seen = np.concatenate([own for number, own in enumerate(pictures) if number not in pair])
        read = shrinkage_whitening(seen)
        usual, first, second = read(seen), *(read(pictures[number]) for number in pair)
        for thing, other in ((first, second), (second, first)):
            along = usual @ thing[0]
            above = float((other @ thing[0]).max()) - float(along.mean())
            scores.append(above / max(float(along.std()), 1e-6))
    found = fit_tail_by_quantiles(np.array(scores))
    return np.array([found.location, found.scale], dtype=np.float32)


def cache_folder() -> Path:
    """The folder of files that can be made again: `MYVLM_CACHE`, or `myvlm` in the user's cache folder."""
    if own := os.environ.get("MYVLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "myvlm"


def _read_cache(file: Path, now: FloatArray) -> dict[str, FloatArray] | None:
    """Read the cached tensors; None unless they are complete and were made with these weights."""
    if not file.is_file():
        return None
    try:
        kept = load_file(file)
        rows, tail, fingerprint = kept["features"], kept["tail"], kept["fingerprint"]
    except (SafetensorError, KeyError, OSError) as error:
        _log.info("%s is computed again: %s", file, error)
        return None
    fits = rows.ndim == 2 and rows.shape[1:] == fingerprint.shape and tail.shape == (2,)
    whole = fits and np.isfinite(rows).all() and np.isfinite(tail).all()
    return kept if whole and same_weights(fingerprint, now) else None


def _write_cache(file: Path, tensors: dict[str, FloatArray]) -> None:
    """Write the cache file, whole or not at all; if that fails, the tensors are computed again next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as fresh:
            save_file(tensors, fresh)
    except (OSError, SafetensorError) as error:
        _log.info("%s cannot be cached: %s", file, error)


@cache
def _window_ends() -> list[int]:
    """End index of each photograph's windows among those of all photographs."""
    counts = []
    for photo in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(photo) as image:
            counts.append(len(windows(*image.size, WINDOWS)))
    return [int(end) for end in np.cumsum(counts)]


@cache
def _digest() -> str:
    """Digest of the photographs and of their number of windows, which the name of the cache file contains."""
    whole = hashlib.sha256(str(WINDOWS).encode())
    for photo in sorted(PHOTOS.glob("*.jpg")):
        whole.update(photo.read_bytes())
    return whole.hexdigest()
