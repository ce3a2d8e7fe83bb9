"""Vision models of transformers as image encoders, such as DINOv2, which distinguishes objects best.

They read no text. A `PatchEncoder` also returns patch tokens, which describe the parts of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from myvlm.errors import InputError
from myvlm.heads.detections import FloatArray
from myvlm.images import averaged
from myvlm.runtime.process import ForkSafeLock, building_model, encoder_dtype

PREFIX = "transformers:"
"""Prefix of the name of a checkpoint or folder in an encoder's id."""


@runtime_checkable
class PatchEncoder(Protocol):
    """An image encoder that also returns features of the parts of a picture (patches)."""

    def encode_patches(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × P × D float32 patch tokens of length 1, row by row over the whole picture."""
        ...


class VisionModelEncoder:
    """A vision model of transformers with a class token, such as `Dinov2Model`; loaded at first use.

    Pictures of any shape are resized to the model's square input, so nothing at their edges is lost.

    Args:
        name: "transformers:facebook/dinov2-base", or "transformers:/path" of a folder.
        device: where it runs, such as "cpu" or "cuda".
        dtype: number type of its weights; if None it depends on the device, see `encoder_dtype`.

    Raises:
        InputError: at first use, if it cannot be loaded or has no class token and patches.
    """

    def __init__(self, name: str, *, device: str = "cpu", dtype: str | None = None) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._lock = ForkSafeLock()

    @property
    def id(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        if self.dtype is not None:
            return partial(type(self), device=self.device, dtype=self.dtype), (self.name,)  # not the model
        return partial(_shared, device=self.device), (self.name,)

    def __repr__(self) -> str:
        return f"VisionModelEncoder({self.name!r}, device={self.device!r})"

    @property
    def input_side(self) -> int:
        """Side of its square input, in pixels."""
        return self._loaded[1]

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × D: the class token."""
        return np.concatenate(list(self._tokens(images, batch_size, lambda seen, _: seen[:, 0])))

    def encode_patches(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × P × D: the patch tokens."""
        return np.concatenate(list(self._tokens(images, batch_size, lambda seen, between: seen[:, between:])))

    def encode_text(self, texts: Sequence[str]) -> None:
        """None: the model reads no text."""
        return None

    def bank(self) -> None:
        """None: no bank of negatives ships with the model."""
        return None

    def whitening(self) -> None:
        """None: its features are not whitened."""
        return None

    def _tokens(
        self, images: Sequence[Image.Image], batch_size: int, wanted: Callable[[Any, int], Any]
    ) -> Iterator[FloatArray]:
        """Yield the wanted tokens of each batch, each of length 1.

        Args:
            wanted: takes the model's output and the index of the first patch token; only what it returns
                leaves the device.
        """
        import torch
        from torch.nn.functional import normalize

        model, side, mean, deviation = self._loaded
        patches = (side // model.config.patch_size) ** 2
        for start in range(0, len(images), batch_size):
            sized = [_square(image, side) for image in images[start : start + batch_size]]
            pixels = torch.from_numpy((np.stack(sized) - mean) / deviation).permute(0, 3, 1, 2)
            with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
                seen = model(pixel_values=pixels.to(self.device, model.dtype)).last_hidden_state
            between = seen.shape[1] - patches  # the class token, and register tokens if there are any
            if between < 1:
                raise _unusable(self.name, f"{seen.shape[1]} tokens for {patches} patches")
            rows: FloatArray = normalize(wanted(seen, between).float(), dim=-1).cpu().numpy()
            yield rows

    @property
    def _loaded(self) -> tuple[Any, int, FloatArray, FloatArray]:
        with self._lock:
            if "_model" not in self.__dict__:
                self._model = _load(self.name, self.device, self.dtype)
            return self._model


def _shared(name: str, *, device: str) -> Any:
    """Return the shared encoder of that name, so that unpickled heads load its model once."""
    return import_module("myvlm.heads.encoders").get_encoder(name, device=device)  # it imports this module


def _square(image: Image.Image, side: int) -> FloatArray:
    sized = averaged(image.convert("RGB"), side).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(sized, dtype=np.float32) / np.float32(255)


def _load(name: str, device: str, dtype: str | None) -> tuple[Any, int, FloatArray, FloatArray]:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    checkpoint = name.removeprefix(PREFIX)
    kind = getattr(torch, dtype) if dtype else encoder_dtype(device)
    try:
        # building a model draws random numbers, which the weights replace: keep the caller's random state
        with building_model():
            model = AutoModel.from_pretrained(checkpoint, dtype=kind).to(device)
        processor = AutoImageProcessor.from_pretrained(checkpoint)
    except Exception as error:  # config, download, checkpoint and processor each fail in their own way
        raise _unusable(name, f"{type(error).__name__}: {error}") from error
    size = getattr(processor, "crop_size", None) or processor.size
    side = size.get("height") or size.get("shortest_edge")
    if not side or not getattr(model.config, "patch_size", None):
        raise _unusable(name, f"a {type(model).__name__} for pictures of size {dict(size)}")
    mean, deviation = (np.asarray(one, np.float32) for one in (processor.image_mean, processor.image_std))
    return model.eval().requires_grad_(False), int(side), mean, deviation


def _unusable(name: str, got: str) -> InputError:
    return InputError(
        f"The image encoder {name} cannot be loaded.",
        got=got,
        expected="a vision model of transformers with a class token and patches, such as "
        "transformers:facebook/dinov2-base",
        fix="check the name, the folder and, for a first download, the network",
    )
