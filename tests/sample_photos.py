"""Photographs that installed packages bring along, read as files: nothing is imported, nothing is fetched."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

FACE = (181.0, 62.0, 268.0, 172.0)
"""Where the astronaut's face is, by eye: left, top, right, bottom."""


def scikit_image_photo(name: str) -> Image.Image:
    """A photo of scikit-image, such as "astronaut.png"; the test is skipped where that is not installed."""
    package = importlib.util.find_spec("skimage")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "data" / name
        if file.is_file():
            return Image.open(file).convert("RGB")
    pytest.skip('scikit-image is not installed; to run this: pip install -e ".[dev]"')


def needs_dlib() -> None:
    """Skip the test where the extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models")):
        pytest.skip('dlib is not installed; to run this: pip install -e ".[dlib]"')
