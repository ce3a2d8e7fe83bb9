"""Making the bank that ships with an encoder: features of everyday pictures, as negatives, and a whitening.

Features of one mug vary with light, place and neighbouring objects, often by more than those of two mugs with
different patterns. The covariance *within* objects is estimated once for an encoder, from views of many known
objects, and features are scaled by its inverse square root, as in linear discriminant analysis (Fisher 1936)
and probabilistic LDA (Ioffe 2006). A head with four photos cannot estimate it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from myvlm.heads.detections import FloatArray
from myvlm.heads.encoders import BANK_FILE, Whitening
from myvlm.heads.features import Crops

SHRINKAGE = 0.1
"""Fraction of the covariance that is replaced by a multiple of the identity."""


def write_bank(
    folder: Path, pictures: list[FloatArray], *, crops: Crops = "auto", whitening: Whitening | None = None
) -> Path:
    """Write the window features of P pictures (each C × D) as one P × C × D float16 tensor.

    A picture with fewer windows than others is padded with copies of its first window, which leave a maximum
    over windows unchanged.

    Args:
        folder: the encoder's folder.
        pictures: features of the windows of each picture.
        crops: which windows were encoded; kept in the file's metadata.
        whitening: the encoder's whitening, written into the same file; None for none.

    Returns:
        The file.
    """
    most = max(len(rows) for rows in pictures)
    filled = [np.concatenate([rows, np.repeat(rows[:1], most - len(rows), axis=0)]) for rows in pictures]
    file = folder / BANK_FILE
    tensors: dict[str, np.ndarray[Any, Any]] = {"features": np.stack(filled).astype(np.float16)}
    if whitening is not None:
        tensors |= {"whitening_mean": whitening.mean, "whitening_matrix": whitening.matrix}
    save_file(tensors, file, metadata={"crops": str(crops)})
    return file


def learn_whitening(things: FloatArray, shrinkage: float = SHRINKAGE) -> Whitening:
    """Estimate the whitening from G × K × D features: K ≥ 2 views of each of G objects.

    >>> rng = np.random.default_rng(0)
    >>> things = rng.normal(size=(200, 1, 2)) + rng.normal(size=(200, 4, 2)) * [5.0, 0.1]
    >>> matrix = learn_whitening(things.astype(np.float32)).matrix
    >>> bool(matrix[1, 1] > 2 * matrix[0, 0])
    True
    """
    groups, views, dim = things.shape
    apart = (things - things.mean(axis=1, keepdims=True)).reshape(-1, dim).astype(np.float64)
    within = apart.T @ apart / (groups * (views - 1))
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    matrix = vectors / np.sqrt(values) @ vectors.T
    mean = things.reshape(-1, dim).mean(axis=0)
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))
