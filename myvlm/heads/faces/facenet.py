"""Face encoders: what finds the faces of a picture and describes each by a point of one space.

A Protocol of two methods, a registry, and the encoder of the paper's kind: facenet-pytorch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.heads.features import PictureCache
from myvlm.images import LoadedImage
from myvlm.plugins.registry import SharedRegistry
from myvlm.runtime.precision import float32_default, without_autocast

DEFAULT_FACE_ENCODER = "facenet/vggface2"
CACHED_PICTURES = 64
WORKING_SIDE = 1280
"""Faces are looked for in a picture whose longer side is at most this, and described from the whole one."""
SMALLEST_FACE = 20
"""In pixels of the picture that is searched."""


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one picture: `boxes` in its pixels (F of them) and `descriptors`, F × D float32."""

    boxes: tuple[Box, ...]
    descriptors: FloatArray

    def __len__(self) -> int:
        return len(self.boxes)


class FaceEncoder(Protocol):
    """Finds faces and describes each by a point; those of one person lie near each other.

    Attributes:
        threshold: up to this Euclidean distance two descriptors count as one person's.
        threshold_source: where that number comes from, in a sentence.

    It may also have `strangers`, mean and standard deviation of the distance between two strangers' faces,
    or, of descriptors of length 1, `threshold_error`, the part of such pairs nearer than the threshold. By
    them heads are stricter where many people are known (`limit_for`); without, as strict as other encoders'.
    """

    threshold: float
    threshold_source: str

    @property
    def id(self) -> str:
        """The name under which `get_face_encoder` finds it again; it is written into concept files."""
        ...

    def faces(self, images: Sequence[Image.Image]) -> Sequence[Faces]:
        """All faces of each picture; descriptors 0 × D where there is none."""
        ...

    def describe(self, faces: Sequence[Image.Image]) -> FloatArray:
        """F aligned faces, square pictures of any size → F × D float32."""
        ...


_cache: PictureCache[None, Faces] = PictureCache(CACHED_PICTURES)


def find_faces(encoder: FaceEncoder, images: Sequence[LoadedImage]) -> list[Faces]:
    """The faces of each picture; the last 64 pictures are remembered by their pixels, in memory only."""
    return _cache.look_up(
        encoder, images, [None] * len(images), lambda new: encoder.faces([image for image, _ in new])
    )


class FacenetEncoder:
    """MTCNN finds the faces, InceptionResnetV1 (VGGFace2) describes each by 512 numbers of length 1.

    After facenet-pytorch, with the margin of its own evaluation. MTCNN's weights come with the package; those
    of the descriptor are fetched at first use, or put by hand where the error says.

    Args:
        device: where both networks run, such as "cpu" or "cuda".
    """

    id = DEFAULT_FACE_ENCODER
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
        self._lock = threading.Lock()
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
        with torch.inference_mode(), without_autocast(self.device):
            described = network(((pixels - 127.5) / 128).permute(0, 3, 1, 2).to(self.device))
        rows: FloatArray = described.float().cpu().numpy()
        return rows

    def find(self, image: Image.Image) -> list[Box]:
        """The boxes of all faces, in pixels, the largest first; needs only MTCNN's weights."""
        small, factor = reduced(image)
        if min(small.size) < SMALLEST_FACE:
            return []  # MTCNN fails on a picture smaller than the smallest face
        finder = self._loaded_finder()
        with self._lock, without_autocast(self.device):
            boxes, _ = finder.detect(small)
        clipped = [inside(box * factor, image.size) for box in (boxes if boxes is not None else ())]
        return [box for box in clipped if box is not None]

    def _aligned(self, image: Image.Image, box: Box) -> Image.Image:
        """The face with its margin, as facenet-pytorch cuts it."""
        share = self._MARGIN / (self._SIDE - self._MARGIN) / 2
        across, down = share * (box[2] - box[0]), share * (box[3] - box[1])
        left, top = max(box[0] - across, 0), max(box[1] - down, 0)
        right, bottom = min(box[2] + across, image.width), min(box[3] + down, image.height)
        return image.crop((int(left), int(top), int(right), int(bottom)))

    def _loaded_finder(self) -> Any:
        with self._lock:
            if self._finder is None:
                import torch
                from facenet_pytorch import MTCNN

                # building draws numbers that the weights replace
                with torch.random.fork_rng(devices=[]), float32_default():
                    finder = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device=self.device)
                self._finder = finder.eval().requires_grad_(False)
            return self._finder

    def _loaded_descriptor(self) -> Any:
        with self._lock:
            if self._descriptor is None:
                import torch
                from facenet_pytorch import InceptionResnetV1

                try:
                    with torch.random.fork_rng(devices=[]), float32_default():
                        network = InceptionResnetV1(pretrained="vggface2")
                except Exception as error:  # network, disk and a cut file each fail in their own way
                    raise _no_weights(self.weights_file, error) from error
                self._descriptor = network.eval().requires_grad_(False).to(self.device)
            return self._descriptor


def _no_weights(name: str, error: Exception) -> InputError:
    from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

    place = Path(get_torch_home()) / "checkpoints" / name
    return InputError(
        f"The weights that describe faces ({DEFAULT_FACE_ENCODER}) cannot be "
        + ("read." if place.is_file() else "fetched."),
        got=f"{type(error).__name__}: {str(error)[:300]}",
        expected=str(place),
        fix=f"take {name} from the release v2.2.9 of facenet-pytorch and put it there whole; or, offline, "
        'pip install "myvlm[dlib]" and name the encoder dlib/resnet-v1',
    )


def reduced(image: Image.Image) -> tuple[Image.Image, float]:
    """The picture as it is searched, and how many of its pixels one of those stands for."""
    factor = max(1.0, max(image.size) / WORKING_SIDE)
    if factor == 1:
        return image, factor
    size = (max(round(image.width / factor), 1), max(round(image.height / factor), 1))
    return image.resize(size, reducing_gap=2.0), factor


def inside(box: Any, size: tuple[int, int]) -> Box | None:
    """A box cut to the picture; None if little is left of it."""
    left, top = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
    right, bottom = min(float(box[2]), float(size[0])), min(float(box[3]), float(size[1]))
    return (left, top, right, bottom) if right - left >= 2 and bottom - top >= 2 else None


def _dlib(device: str) -> FaceEncoder:
    from myvlm.heads.faces.dlib import DlibEncoder

    return DlibEncoder()


def _facenet(device: str) -> FaceEncoder:
    return FacenetEncoder(device=device)


face_encoders = SharedRegistry[FaceEncoder](
    "face encoder", add="register it with myvlm.heads.faces.facenet.register_face_encoder"
)
face_encoders.register(DEFAULT_FACE_ENCODER, _facenet)
face_encoders.register("dlib/resnet-v1", _dlib)


def register_face_encoder(id: str, factory: Callable[[str], FaceEncoder], *, replace: bool = False) -> None:
    """Make a face encoder known by its id.

    Args:
        id: what `get_face_encoder` finds it by; the encoder's own `id`.
        factory: gets the device and is called at first use.
        replace: whether it takes the place of another of that id.

    Raises:
        NameTakenError: the id is another's, and `replace` is not set.
    """
    face_encoders.register(id, factory, replace=replace)


def get_face_encoder(name: str | FaceEncoder = DEFAULT_FACE_ENCODER, *, device: str = "cpu") -> FaceEncoder:
    """The one shared face encoder of that name and device; an encoder passes through as it is.

    Raises:
        UnknownNameError: no such encoder is known; the message lists those that are.

    >>> get_face_encoder().threshold
    1.04
    """
    return face_encoders.shared(name, device) if isinstance(name, str) else name
