"""The default face encoder: facenet-pytorch, of the kind that the paper uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.faces.encoders import SMALLEST_FACE, Faces, clip_box, reduced_for_detection
from myvlm.runtime.process import ForkSafeLock, building_model


class FacenetEncoder:
    """MTCNN detects faces; InceptionResnetV1 (VGGFace2) computes a descriptor of 512 numbers and length 1.

    Faces are cropped with the margin of facenet-pytorch's own evaluation. MTCNN's weights come with the
    package; those of the descriptor are downloaded at first use, or put by hand where the error message says.

    Args:
        device: where both networks run, such as "cpu" or "cuda".
    """

    id = "facenet/vggface2"
    threshold = 1.04
    threshold_error = 0.0035
    threshold_source = (
        "1.04 is what deepface ships for this network (Facenet512, Euclidean distance at length 1), whose "
        "accuracy on pairs of Labeled Faces in the Wild is 99.65 % (facenet-pytorch)"
    )
    weights_file = "20180402-114759-vggface2.pt"
    _SIDE, _MARGIN = 160, 14

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device
        self._lock = ForkSafeLock()
        self._finder: Any = None
        self._descriptor: Any = None

    def __repr__(self) -> str:
        return f"FacenetEncoder(device={self.device!r})"

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        found = []
        for image in images:
            boxes = self.find(image)
            rows = np.empty((0, 512), dtype=np.float32)
            if boxes:  # a picture without faces must not need the weights
                rows = self.describe([self._aligned(image, box) for box in boxes])
            found.append(Faces(tuple(boxes), rows))
        return found

    def describe(self, faces: Sequence[Image.Image]) -> FloatArray:
        import torch

        network = self._loaded_descriptor()
        sized = [face.resize((self._SIDE, self._SIDE), Image.Resampling.BILINEAR) for face in faces]
        pixels = torch.from_numpy(np.stack([np.asarray(face, dtype=np.float32) for face in sized]))
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
            described = network(((pixels - 127.5) / 128).permute(0, 3, 1, 2).to(self.device))
        rows: FloatArray = described.float().cpu().numpy()
        return rows

    def find(self, image: Image.Image) -> list[Box]:
        """Detect faces: their boxes in pixels, the largest first. Needs only MTCNN's weights."""
        small, factor = reduced_for_detection(image)
        if min(small.size) < SMALLEST_FACE:
            return []  # MTCNN fails on a picture smaller than the smallest face
        import torch

        finder = self._loaded_finder()
        with self._lock, torch.autocast(torch.device(self.device).type, enabled=False):
            boxes, _ = finder.detect(small)
        clipped = [clip_box(box * factor, image.size) for box in (boxes if boxes is not None else ())]
        return [box for box in clipped if box is not None]

    def _aligned(self, image: Image.Image, box: Box) -> Image.Image:
        """Crop a face with its margin, as facenet-pytorch does."""
        share = self._MARGIN / (self._SIDE - self._MARGIN) / 2
        across, down = share * (box[2] - box[0]), share * (box[3] - box[1])
        left, top = max(box[0] - across, 0), max(box[1] - down, 0)
        right, bottom = min(box[2] + across, image.width), min(box[3] + down, image.height)
        return image.crop((int(left), int(top), int(right), int(bottom)))

    def _loaded_finder(self) -> Any:
        with self._lock:
            if self._finder is None:
                from facenet_pytorch import MTCNN

                # building draws random numbers, which the weights replace: keep the caller's random state
                with building_model():
                    finder = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device=self.device)
                self._finder = finder.eval().requires_grad_(False)
            return self._finder

    def _loaded_descriptor(self) -> Any:
        with self._lock:
            if self._descriptor is None:
                from facenet_pytorch import InceptionResnetV1

                try:
                    with building_model():
                        network = InceptionResnetV1(pretrained="vggface2")
                except Exception as error:  # network, disk and a truncated file each fail in their own way
                    raise _no_weights(self.weights_file, error) from error
                self._descriptor = network.eval().requires_grad_(False).to(self.device)
            return self._descriptor


def _no_weights(name: str, error: Exception) -> InputError:
    from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

    place = Path(get_torch_home()) / "checkpoints" / name
    return InputError(
        f"The weights of the face encoder {FacenetEncoder.id} cannot be "
        + ("read." if place.is_file() else "downloaded."),
        got=f"{type(error).__name__}: {str(error)[:300]}",
        expected=str(place),
        fix=f"download {name} from release v2.2.9 of facenet-pytorch to that path; or, offline, "
        'pip install "myvlm[dlib]" and use the encoder dlib/resnet-v1',
    )
