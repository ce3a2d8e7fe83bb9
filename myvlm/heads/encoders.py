"""Image encoders: any open_clip model behind one small Protocol, loaded once, each picture encoded once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.collections import collection_of
from myvlm.errors import InputError
from myvlm.heads.base import FloatArray
from myvlm.heads.cache import PictureCache
from myvlm.heads.objects.bank import read_bank, read_whitening
from myvlm.heads.objects.whitening import Whitening
from myvlm.heads.windows import Crops, windows
from myvlm.images import LoadedImage
from myvlm.registry import SharedRegistry

DEFAULT_ENCODER = "tinyworld/clip"
WORKING_SIDE = 1152
"""A picture's shorter side is reduced to this before it is cropped: three times the largest usual input."""

CACHED_PICTURES = 64
CROPS_AT_ONCE = 256


class ImageEncoder(Protocol):
    """Turns pictures, and where it can texts, into points of one space."""

    @property
    def id(self) -> str:
        """The name under which `get_encoder` finds it again; it is written into concept files."""
        ...

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × D float32 features of length 1."""
        ...

    def encode_text(self, texts: Sequence[str]) -> FloatArray | None:
        """N texts → N × D float32 of length 1 in the space of the pictures; None if it reads none."""
        ...

    def bank(self) -> FloatArray | None:
        """P × C × D float32: the windows of P pictures that ship as negatives with the encoder, or None."""
        ...

    def whitening(self) -> Whitening | None:
        """How its features are whitened before a probe; None to take them as they are."""
        ...


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """The windows of one picture: `boxes` in its pixels (C of them) and `features`, C × D, of length 1."""

    boxes: tuple[Box, ...]
    features: FloatArray


class OpenClipEncoder:
    """An open_clip model, whose weights are loaded at first use.

    Args:
        name: "tinyworld/clip", "ViT-B-32@openai" (an open_clip model and the tag of its weights),
            "hf-hub:organisation/name" or "local-dir:/path" (`open_clip_config.json` and weights).
        device: where it runs, such as "cpu" or "cuda".
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, device: str = "cpu") -> None:
        self.name = name
        self.device = device
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"OpenClipEncoder({self.name!r}, device={self.device!r})"

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        import torch

        model, preprocess, _ = self._loaded
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = torch.stack([preprocess(image) for image in images[start : start + batch_size]])
                rows.append(model.encode_image(pixels.to(self.device), normalize=True).float().cpu())
        features: FloatArray = torch.cat(rows).numpy()
        return features

    def encode_text(self, texts: Sequence[str]) -> FloatArray | None:
        import torch

        model, _, tokenizer = self._loaded
        with torch.inference_mode():
            tokens = tokenizer(list(texts)).to(self.device)
            features: FloatArray = model.encode_text(tokens, normalize=True).float().cpu().numpy()
        return features

    def bank(self) -> FloatArray | None:
        return self._bank

    def whitening(self) -> Whitening | None:
        return self._whitening

    @cached_property
    def _source(self) -> _Source:
        source = _source(self.name)
        if source is None:
            raise encoders.unknown(self.name)
        return source

    @cached_property
    def _whitening(self) -> Whitening | None:
        folder = self._source.folder
        return read_whitening(folder) if folder else None

    @cached_property
    def _bank(self) -> FloatArray | None:
        folder = self._source.folder
        return read_bank(folder) if folder else None

    @property
    def _loaded(self) -> tuple[Any, Callable[[Image.Image], Any], Callable[[list[str]], Any]]:
        with self._lock:
            if "_model" not in self.__dict__:
                self._model = _load(self._source, self.device)
            return self._model


@dataclass(frozen=True)
class _Source:
    """Where an encoder comes from: open_clip's own name, the tag of its weights, its folder."""

    model: str
    tag: str | None = None
    folder: Path | None = None


def _source(name: str) -> _Source | None:
    """Where the encoder of that name comes from; None if it is no such name."""
    if folder := _collected(name):
        return _Source(f"local-dir:{folder}", folder=folder)
    if name.startswith("local-dir:"):
        return _Source(name, folder=Path(name.removeprefix("local-dir:")))
    if name.startswith("hf-hub:"):
        return _Source(name)
    model, _, tag = name.partition("@")
    return _Source(model, tag) if tag else None


def _collected(name: str) -> Path | None:
    """The folder of an encoder that a collection of models brings; None for all others."""
    found = collection_of(name)
    return found[0].path(found[1]) if found and found[0].encoder == name else None


def _load(source: _Source, device: str) -> tuple[Any, Any, Any]:
    import open_clip
    import torch

    try:
        # building a model draws random numbers that the weights then replace: leave the caller's as they were
        with torch.random.fork_rng(devices=[]):
            model, preprocess = open_clip.create_model_from_pretrained(
                source.model, pretrained=source.tag, device=device
            )
        tokenizer = open_clip.get_tokenizer(source.model)
    except Exception as error:  # config, download, checkpoint and tokenizer each fail in their own way
        known = open_clip.list_pretrained_tags_by_model(source.model) if source.tag else []
        raise InputError(
            f"The image encoder {source.model} cannot be loaded.",
            got=f"{type(error).__name__}: {error}",
            expected=f"a tag among {', '.join(known)}" if known else "a model of open_clip.list_pretrained()",
            fix="check the name, the folder and, for a first download, the network",
        ) from error
    return model.eval().requires_grad_(False), preprocess, tokenizer


class _Encoders(SharedRegistry[ImageEncoder]):
    def unregistered(self, name: str) -> Callable[[str], ImageEncoder] | None:
        """Names of open_clip models, of folders and of collections need no registration."""
        return (lambda device: OpenClipEncoder(name, device=device)) if _source(name) else None


encoders = _Encoders(
    "image encoder",
    add="register it with myvlm.heads.encoders.register_encoder",
    forms="tinyworld/clip, ViT-B-32@openai (an open_clip model and the tag of its weights), "
    "hf-hub:organisation/name, local-dir:/path",
)


def register_encoder(id: str, factory: Callable[[str], ImageEncoder], *, replace: bool = False) -> None:
    """Make an encoder of another kind known by its id.

    Args:
        id: what `get_encoder` finds it by; the encoder's own `id`.
        factory: gets the device and is called at first use.
        replace: whether it takes the place of another of that id.

    Raises:
        NameTakenError: the id is another's, and `replace` is not set; or a collection of models brings it.
    """
    if _collected(id):
        raise encoders.taken(id, "an encoder of yours", "brought by a collection of models")
    encoders.register(id, factory, replace=replace)


def get_encoder(name: str | ImageEncoder = DEFAULT_ENCODER, *, device: str = "cpu") -> ImageEncoder:
    """The one shared encoder of that name and device; an encoder passes through as it is.

    Raises:
        UnknownNameError: that is no name of one; the message says which are.

    >>> get_encoder("ViT-B-32@openai") is get_encoder("ViT-B-32@openai")
    True
    """
    return encoders.shared(name, device) if isinstance(name, str) else name


_cache: PictureCache[Crops, PictureFeatures] = PictureCache(CACHED_PICTURES)


def features(
    encoder: ImageEncoder, images: Sequence[LoadedImage], crops: Crops = "auto"
) -> list[PictureFeatures]:
    """Encode the windows of each picture; the last 64 pictures are remembered by their pixels."""
    return _cache.look_up(encoder, images, [crops] * len(images), lambda new: _encode_windows(encoder, new))


def forget_pictures() -> None:
    """Let go of all remembered pictures: to measure, or to be rid of them."""
    _cache.clear()


def whiten(encoder: ImageEncoder, rows: FloatArray) -> FloatArray:
    """N × D features of an encoder as its probes read them."""
    whitening = encoder.whitening()
    return rows if whitening is None else whitening(rows)


def _encode_windows(
    encoder: ImageEncoder, pictures: Sequence[tuple[Image.Image, Crops]]
) -> list[PictureFeatures]:
    images = [image for image, _ in pictures]
    boxes = [windows(*image.size, crops) for image, crops in pictures]
    encoded: list[PictureFeatures] = []
    while len(encoded) < len(images):
        # a batch of pictures at a time: the crops of all of them together may be gigabytes
        first = len(encoded)
        count = max(1, CROPS_AT_ONCE // max(len(one) for one in boxes[first:]))
        group = range(first, min(first + count, len(images)))
        crops_of_group = [crop for index in group for crop in cut(images[index], boxes[index])]
        rows = encoder.encode(crops_of_group)
        for index in group:
            own, rows = rows[: len(boxes[index])], rows[len(boxes[index]) :]
            own = np.array(own, dtype=np.float32)
            own.flags.writeable = False  # it will be handed out again
            encoded.append(PictureFeatures(tuple(boxes[index]), own))
    return encoded


def cut(image: Image.Image, boxes: Sequence[Box]) -> list[Image.Image]:
    """The pieces of a picture inside the boxes, of a very large picture at a reduced size."""
    factor = max(1.0, min(image.size) / WORKING_SIDE)
    size = (round(image.width / factor), round(image.height / factor))
    small = image.resize(size, reducing_gap=2.0) if factor > 1 else image
    return [small.crop(tuple(round(edge / factor) for edge in box)) for box in boxes]  # type: ignore[arg-type]


CUDA_ENCODER = "hf-hub:apple/DFN5B-CLIP-ViT-H-14-384"
"""The paper's encoder (§4 of arXiv 2403.14599): 1 B parameters, for a GPU."""
CPU_ENCODER = "ViT-B-32@laion2b_s34b_b79k"
"""A light encoder for a CPU: 88 M parameters in the vision tower, about 50 ms a window on two cores."""


def default_encoder(backbone: str, device: str) -> str:
    """The image encoder for heads where none is named.

    >>> default_encoder("tinyworld/llava", "cpu")
    'tinyworld/clip'
    """
    found = collection_of(backbone)
    if found and found[0].encoder:
        return found[0].encoder
    return CUDA_ENCODER if device.startswith("cuda") else CPU_ENCODER
