"""The face encoder that needs no download beyond packages: dlib, with the weights of a second package.

`dlib-bin` is a wheel of dlib; `face-recognition-models` contains its CC0 descriptor network and its 5-point
landmarks. The 68-point file of that package is never opened: its training photos are not for commercial use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.errors import MissingPackageError, import_extra
from myvlm.heads.detections import FloatArray
from myvlm.heads.faces.encoders import Faces, clip_box, reduced_for_detection
from myvlm.runtime.process import ForkSafeLock

ENCODER, EXTRA = "The face encoder dlib/resnet-v1", "myvlm[dlib]"
MIN_DETECTION_SCORE = 0.25
"""Lowest detector score of a face. With dlib's default of 0, patterns are detected as faces (0.12 on the
astronaut's suit)."""


class DlibEncoder:
    """dlib's detector, 5-point alignment, and its ResNet, with 128 numbers per face; runs on the CPU.

    Raises:
        MissingPackageError: at first use, when the extra `dlib` is not installed.
    """

    id = "dlib/resnet-v1"
    threshold = 0.6
    strangers = (0.796, 0.086)
    threshold_source = (
        "0.6 is what dlib's own face recognition example states for this network, whose accuracy on pairs of "
        "Labeled Faces in the Wild is then 99.38 %"
    )
    _LANDMARKS = "shape_predictor_5_face_landmarks.dat"
    _NETWORK = "dlib_face_recognition_resnet_model_v1.dat"
    _SIDE, _MARGIN = 150, 0.25

    def __init__(self) -> None:
        self._lock = ForkSafeLock()  # dlib's objects are not thread-safe
        self._parts: tuple[Any, Any, Any] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return DlibEncoder, ()  # dlib's own objects cannot be copied

    def __repr__(self) -> str:
        return "DlibEncoder()"

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        return [self._faces_of(image) for image in images]

    def describe(self, faces: Sequence[Image.Image]) -> FloatArray:
        _, _, network = self._loaded()
        sized = [np.ascontiguousarray(face.resize((self._SIDE, self._SIDE))) for face in faces]
        with self._lock:
            rows = [np.asarray(network.compute_face_descriptor(face)) for face in sized]
        return np.asarray(rows, dtype=np.float32).reshape(len(faces), 128)

    def _faces_of(self, image: Image.Image) -> Faces:
        detector, landmarks, _ = self._loaded()
        import dlib

        small, factor = reduced_for_detection(image)
        boxes: list[Box] = []
        chips: list[Image.Image] = []
        with self._lock:
            # 1: upsampled once, as in dlib's examples, since the detector finds no face below 80 pixels
            found = detector.run(np.ascontiguousarray(small), 1, MIN_DETECTION_SCORE)[0]
            whole = np.ascontiguousarray(image)
            for one in found:
                edges = [factor * edge for edge in (one.left(), one.top(), one.right() + 1, one.bottom() + 1)]
                box = clip_box(edges, image.size)
                if box is not None:
                    points = landmarks(whole, dlib.rectangle(*(round(edge) for edge in edges)))
                    chips.append(Image.fromarray(dlib.get_face_chip(whole, points, self._SIDE, self._MARGIN)))
                    boxes.append(box)
        return Faces(tuple(boxes), self.describe(chips))

    def _loaded(self) -> tuple[Any, Any, Any]:
        with self._lock:
            if self._parts is None:
                files = [_model_file(name) for name in (self._LANDMARKS, self._NETWORK)]
                dlib = import_extra("dlib", what=ENCODER, install=EXTRA)
                landmarks, network = (str(file) for file in files)
                self._parts = (
                    dlib.get_frontal_face_detector(),
                    dlib.shape_predictor(landmarks),
                    dlib.face_recognition_model_v1(network),
                )
            return self._parts


def _model_file(name: str) -> Path:
    """Path of a file of the models package, which is not imported: it needs a removed part of setuptools."""
    package = importlib.util.find_spec("face_recognition_models")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "models" / name
        if file.is_file():
            return file
    raise MissingPackageError(
        f"{ENCODER} needs a package that is not installed.",
        got=f"no file {name}",
        expected="face-recognition-models",
        fix=f'pip install "{EXTRA}"',
    )
