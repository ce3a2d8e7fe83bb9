"""Rendered training scenes, and the warps that make views and windows of them.

The pictures are rendered once from a seed and stored as arrays; scenes are recomputed from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from myvlm.tinyworld.world.draw import draw_with_labels
from myvlm.tinyworld.world.scenes import SIZE, Scene, random_scene

GRID = 8
"""Patches per side: every tinyworld model divides a picture into 8 × 8 patches of 12 pixels."""


@dataclass(frozen=True)
class Corpus:
    """Scenes with their pictures (uint8 N × 96 × 96 × 3) and object maps `labels` (uint8 N × 24 × 24)."""

    scenes: Sequence[Scene]
    pictures: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


TWINS = 0.3
"""Share of scenes with two objects of one category, which mostly differ in one attribute, so that a name must
refer to this mug and not to every mug."""


def load_corpus(folder: Path, seed: int, count: int, workers: int = 2) -> Corpus:
    """The corpus of `seed`, read from `folder` or rendered now (about 3 ms per scene)."""
    random = Random(f"corpus {seed}")
    scenes = [random_scene(random, twins=TWINS) for _ in range(count)]
    files = folder / f"pictures-{seed}-{count}.npy", folder / f"labels-{seed}-{count}.npy"
    if not (all(f.exists() for f in files) and _is_of(files[0], scenes)):
        folder.mkdir(parents=True, exist_ok=True)
        step = max(1, count // (16 * workers))
        parts = [scenes[i : i + step] for i in range(0, count, step)]
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(pool.map(_draw_part, parts))
        for file, arrays in zip(files, zip(*drawn, strict=True), strict=True):
            partial = file.with_suffix(".partial.npy")
            np.save(partial, np.concatenate(arrays))
            partial.rename(file)
    pictures, labels = (np.load(f) for f in files)
    return Corpus(scenes, pictures, labels)


def _is_of(file: Path, scenes: Sequence[Scene]) -> bool:
    """Whether the stored pictures show these scenes: the renderer may have changed since."""
    kept = np.load(file, mmap_mode="r")
    return all(np.array_equal(kept[i], _draw_part([scenes[i]])[0][0]) for i in (0, len(scenes) // 2, -1))


def _draw_part(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    drawn = [draw_with_labels(scene) for scene in scenes]
    return np.stack([np.asarray(p) for p, _ in drawn]), np.stack([m for _, m in drawn])


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 B × 96 × 96 × 3 → float B × 3 × 96 × 96 in −1 to 1, as the processors of tinyworld normalise."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def warp(images: Tensor, labels: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Apply one affine map per picture; return the warped pictures and the object in each of 8 × 8 patches.

    Args:
        images: B × 3 × S × S.
        labels: B × s × s object maps.
        theta: B × 2 × 3, from output to input coordinates in −1 to 1.
    """
    grid = F.affine_grid(theta, [len(images), 3, SIZE, SIZE], align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    fine = F.affine_grid(theta, [len(images), 1, GRID, GRID], align_corners=False)
    patches = F.grid_sample(labels[:, None].float(), fine, mode="nearest", align_corners=False)
    return warped, patches[:, 0].round().long().flatten(1)


def affine(centre: Tensor, scale: Tensor, degrees: Tensor, flip: Tensor) -> Tensor:
    """B affine maps to a window at `centre` (B × 2, −1 to 1) of relative size `scale`, rotated and
    flipped."""
    angle = torch.deg2rad(degrees)
    cos, sin, sign = torch.cos(angle) * scale, torch.sin(angle) * scale, 1.0 - 2.0 * flip.float()
    rows = torch.stack([cos * sign, -sin, centre[:, 0], sin * sign, cos, centre[:, 1]], dim=1)
    return rows.view(-1, 2, 3)


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the brightness as Pillow does: black is −1."""
    return ((images + 1) * factor.view(-1, 1, 1, 1) - 1).clamp_(-1, 1)
