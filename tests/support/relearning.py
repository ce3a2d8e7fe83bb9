"""Fixtures for learning again: a concept stored with its photos, the embedded model with other weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from myvlm import LearnSettings, MyVLM
from myvlm.learning.settings import default_settings
from myvlm.tinyworld import FewShot

NAME = "tinyworld/llava"
SETTINGS = LearnSettings(steps=2, rows=2, seed=5, augment=False).over(default_settings(NAME))


def other_weights(vlm: MyVLM) -> Any:
    """The embedded model with other weights but the same name, as if trained further by someone else."""
    model = copy.deepcopy(vlm.backbone.model)
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            weight.neg_()
    return model


def photos_on_disk(kit: FewShot, folder: Path) -> list[Path]:
    """The three photos of a user; the order of their names differs from their order in the list."""
    folder.mkdir()
    files = [folder / f"{name}.png" for name in ("c", "a", "b")]
    for photo, file in zip(kit.photos(), files, strict=True):
        photo.save(file)
    return files


def learned_with_photos(vlm: MyVLM, kit: FewShot, photos: list[Path], folder: Path) -> Path:
    """The folder of a concept learned for the embedded model, with its photos."""
    concept = vlm.learn(
        kit.identifier, photos, category=kit.category, captions=kit.captions(), questions=kit.questions(),
        settings=SETTINGS, progress=False,
    )  # fmt: skip
    return concept.save(folder, include_photos=photos)
