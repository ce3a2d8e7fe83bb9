"""Everyday photographs as any encoder sees them: what a thing is held against where no negatives are given.

The photographs ship with the package (`everyday/SOURCES.md` names licences and authors); an encoder sees them
at its first use, and what it saw is kept on disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from myvlm.files.writing import whole_file
from myvlm.heads.calibration import Tail, fit_tail
from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.features import MIN_COSINE, encoder_fingerprint, features, windows
from myvlm.images import load_images

PHOTOS = Path(__file__).with_name("everyday")
WINDOWS = 12
"""Windows of each photograph at most: about 240 in all, some 12 s for an encoder of 50 ms a window."""

_log = logging.getLogger(__name__)
_seen: WeakKeyDictionary[ImageEncoder, FloatArray] = WeakKeyDictionary()


def everyday_windows(encoder: ImageEncoder) -> FloatArray:
    """R × D: the features of the windows of the photographs that ship, encoded once for an encoder.

    They are kept in `cache_folder()`, and made again where the file is damaged or of other weights.
    """
    if encoder not in _seen:
        now = encoder_fingerprint(encoder)
        name = hashlib.sha256(f"{encoder.id}\n{len(now)}\n{_digest()}".encode()).hexdigest()[:32]
        file = cache_folder() / "everyday" / f"{name}.safetensors"
        rows = _read(file, now)
        if rows is None:
            photos = load_images(sorted(PHOTOS.glob("*.jpg")))
            rows = np.concatenate([one.features for one in features(encoder, photos, WINDOWS)])
            _write(file, {"features": rows, "fingerprint": now})
        _seen[encoder] = rows
    return _seen[encoder]


def everyday_tail(encoder: ImageEncoder, windows_a_picture: float) -> Tail:
    """How high pictures score for what they do not show, in deviations from the mean of everyday windows.

    Each photograph in turn stands for a thing that was learned from it, and all others for pictures without:
    no photo of a user is asked, and each encoder has a tail of its own.

    Args:
        encoder: of the features.
        windows_a_picture: of the pictures that will be scored; of more windows the best one scores higher.
    """
    pictures = np.split(everyday_windows(encoder), _ends()[:-1])
    scores: list[float] = []
    for number, shown in enumerate(pictures):
        others = [*pictures[:number], *pictures[number + 1 :]]
        rows = np.concatenate(others)
        middle = rows.mean(axis=0)
        direction = shown[0] - middle
        along = (rows - middle) @ direction
        deviation = max(float(along.std()), 1e-6)
        scores += [float(((own - middle) @ direction).max()) / deviation for own in others]
    found = fit_tail(np.array(scores))
    return found.raised(windows_a_picture / float(np.mean([len(one) for one in pictures])))


def cache_folder() -> Path:
    """Where things are kept that can be made again: `MYVLM_CACHE`, or `myvlm` in the user's cache folder."""
    if own := os.environ.get("MYVLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "myvlm"


def _read(file: Path, now: FloatArray) -> FloatArray | None:
    """What is kept, if it is whole and of these weights."""
    if not file.is_file():
        return None
    try:
        kept = load_file(file)
        rows, fingerprint = kept["features"], kept["fingerprint"]
    except (SafetensorError, KeyError, OSError) as error:
        _log.info("%s is made again: %s", file, error)
        return None
    whole = rows.ndim == 2 and rows.shape[1:] == fingerprint.shape == now.shape and np.isfinite(rows).all()
    if not whole or not float(fingerprint @ now) >= MIN_COSINE:
        return None
    return np.asarray(rows, dtype=np.float32)


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
