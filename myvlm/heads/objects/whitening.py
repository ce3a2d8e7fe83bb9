"""Features in which one thing stays itself: what varies between views of the same thing is made small.

An encoder's features of one mug differ with light, place and neighbours, often by more than a mug's pattern
makes them differ. From views of many known things the covariance *within* things is estimated once for an
encoder, and features are scaled by its inverse root, as in linear discriminant analysis (Fisher 1936) and
probabilistic LDA (Ioffe 2006). A head that sees four photos cannot learn this; an encoder's bank can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from myvlm.heads.base import FloatArray

SHRINKAGE = 0.1
"""Part of the covariance that is replaced by a multiple of the identity."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """`mean` (D) is taken off, `matrix` (D × D) applied, and the length set to 1."""

    mean: FloatArray
    matrix: FloatArray

    def __call__(self, rows: FloatArray) -> FloatArray:
        """N × D features → N × D whitened features of length 1."""
        scaled = (rows - self.mean) @ self.matrix
        return np.asarray(
            scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-6), np.float32
        )


def learn_whitening(things: FloatArray, shrinkage: float = SHRINKAGE) -> Whitening:
    """From G × K × D features: K ≥ 2 views of each of G things.

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
