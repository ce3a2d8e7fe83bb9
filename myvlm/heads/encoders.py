"""Image encoders: the protocol, open_clip models, and the negatives and whitening that one may ship with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from myvlm.errors import InputError, check_is
from myvlm.heads.detections import FloatArray
from myvlm.heads.vision_models import PREFIX, VisionModelEncoder
from myvlm.images import averaged
from myvlm.plugins.model_collections import collection_of
from myvlm.plugins.registry import SharedRegistry
from myvlm.runtime.process import ForkSafeLock, building_model, encoder_dtype, open_clip_tokenizer

DEFAULT_ENCODER = "tinyworld/clip"
SHORT_NAMES = {
    "paper": "hf-hub:apple/DFN5B-CLIP-ViT-H-14-384",
    "dinov2": "transformers:facebook/dinov2-base",
}
"""Short names of encoders: the paper's (§4 of arXiv 2403.14599), with 0.6 B parameters in the vision tower,
for research only; and DINOv2 (arXiv 2304.07193), with 86 M parameters, which reads no text."""
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Number type → its name in open_clip."""
BANK_FILE = "bank.safetensors"


def unit_length(rows: np.ndarray[Any, Any]) -> FloatArray:
    """Normalize features, `… × D`, to length 1."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6), np.float32)


@dataclass(frozen=True, eq=False)
class Whitening:
    """A whitening of features: subtract `mean` (D), multiply by `matrix` (D × D), normalize to length 1."""

    mean: FloatArray
    matrix: FloatArray

    def __call__(self, rows: FloatArray) -> FloatArray:
        """N × D features → N × D whitened features of length 1."""
        return unit_length((rows - self.mean) @ self.matrix)


class ImageEncoder(Protocol):
    """Maps pictures, and texts if it can, to features in one space."""

    @property
    def id(self) -> str:
        """The name under which `get_encoder` finds it again; it is written into concept files."""
        ...

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × D float32 features of length 1."""
        ...

    def encode_text(self, texts: Sequence[str]) -> FloatArray | None:
        """N texts → N × D float32 of length 1 in the space of the pictures; None if it reads no text."""
        ...

    def bank(self) -> FloatArray | None:
        """P × C × D float32: window features of P negatives that ship with the encoder; None for no bank."""
        ...

    def whitening(self) -> Whitening | None:
        """The whitening of its features before a probe reads them; None for none."""
        ...


class OpenClipEncoder:
    """An open_clip model as an image encoder; its weights are loaded at first use.

    Args:
        name: "tinyworld/clip", "ViT-B-32@openai" (an open_clip model and the tag of its weights),
            "hf-hub:organisation/name" or "local-dir:/path" (`open_clip_config.json` and weights).
        device: where it runs, such as "cpu" or "cuda".
        dtype: number type of its weights; if None it depends on the device, see `encoder_dtype`.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, device: str = "cpu", dtype: str | None = None) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._lock = ForkSafeLock()

    @property
    def id(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        if self.dtype is not None:
            return partial(type(self), device=self.device, dtype=self.dtype), (self.name,)
        return partial(get_encoder, device=self.device), (self.name,)  # unpickles to the shared encoder

    def __repr__(self) -> str:
        return f"OpenClipEncoder({self.name!r}, device={self.device!r})"

    @property
    def input_side(self) -> int:
        """Longer side of its input, in pixels."""
        return int(np.max(self._loaded[0].visual.image_size))

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        return self._encode_batches(images, batch_size, self._class_token)

    def encode_patches(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        """N pictures → N × P × D: the last feature map of the vision tower, row by row.

        Raises:
            InputError: the tower returns no feature maps.
        """
        model, _, _ = self._loaded
        if not hasattr(model, "forward_intermediates"):
            raise InputError(
                f"The image encoder {self.name} returns no patch tokens.",
                got=type(model).__name__,
                expected="an open_clip model whose image tower returns intermediate features",
                fix='use another encoder, such as "dinov2"',
            )

        def last_map(pixels: Any) -> Any:
            found = model.forward_intermediates(
                image=pixels, image_indices=1, normalize_intermediates=True, intermediates_only=True
            )
            return found["image_intermediates"][0].flatten(2).transpose(1, 2)

        return self._encode_batches(images, batch_size, last_map)

    def encode_text(self, texts: Sequence[str]) -> FloatArray | None:
        import torch
        from torch.nn.functional import normalize

        model, _, tokenizer = self._loaded
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
            tokens = tokenizer(list(texts)).to(self.device)
            rows: FloatArray = normalize(model.encode_text(tokens).float(), dim=-1).cpu().numpy()
        return rows

    def bank(self) -> FloatArray | None:
        return self._bank

    def whitening(self) -> Whitening | None:
        return self._whitening

    def _encode_batches(
        self, images: Sequence[Image.Image], batch_size: int, forward: Callable[[Any], Any]
    ) -> FloatArray:
        """Run `forward`, a part of the model, in batches, unaffected by autocast; normalize in float32."""
        import torch
        from open_clip import get_input_dtype
        from torch.nn.functional import normalize

        _, preprocess, _ = self._loaded
        side, kind = self.input_side, get_input_dtype(self._precision)
        rows = []
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
            for start in range(0, len(images), batch_size):
                pixels = preprocess([averaged(image, side) for image in images[start : start + batch_size]])
                rows.append(normalize(forward(pixels.to(self.device, kind)).float(), dim=-1).cpu())
        features: FloatArray = torch.cat(rows).numpy()
        return features

    @cached_property
    def _precision(self) -> str:
        return PRECISIONS[self.dtype or str(encoder_dtype(self.device)).removeprefix("torch.")]

    @cached_property
    def _source(self) -> _Source:
        source = _parse_name(self.name)
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

    @cached_property
    def _class_token(self) -> Callable[[Any], Any]:
        return _class_token_of(self._loaded[0])

    @property
    def _loaded(self) -> tuple[Any, Callable[[Sequence[Image.Image]], Any], Callable[[list[str]], Any]]:
        with self._lock:
            if "_model" not in self.__dict__:
                self._model = _load(self._source, self.device, self._precision)
            return self._model


@dataclass(frozen=True)
class _Source:
    """Where to load an encoder from: open_clip's model name, the tag of its weights, its folder."""

    model: str
    tag: str | None = None
    folder: Path | None = None


def _parse_name(name: str) -> _Source | None:
    """Parse the name of an open_clip encoder; None if it is not one."""
    if folder := _collection_folder(name):
        return _Source(f"local-dir:{folder}", folder=folder)
    if name.startswith("local-dir:"):
        return _Source(name, folder=Path(name.removeprefix("local-dir:")))
    if name.startswith("hf-hub:"):
        return _Source(name)
    model, _, tag = name.partition("@")
    return _Source(model, tag) if tag else None


def _collection_folder(name: str) -> Path | None:
    """The folder of an encoder that belongs to a collection of models; None for all others."""
    found = collection_of(name)
    return found[0].path(found[1]) if found and found[0].encoder == name else None


def _load(source: _Source, device: str, precision: str) -> tuple[Any, Any, Any]:
    import open_clip

    try:
        with building_model():
            model, preprocess = open_clip.create_model_from_pretrained(
                source.model, pretrained=source.tag, precision=precision, device=device
            )
            tokenizer = open_clip_tokenizer(source.model)
    except Exception as error:  # config, download, checkpoint and tokenizer each fail in their own way
        known = open_clip.list_pretrained_tags_by_model(source.model) if source.tag else []
        tags = ", ".join(known)
        expected = f"one of the tags {tags}" if tags else "a model of open_clip.list_pretrained()"
        if source.tag in known:
            expected = "its weights, on disk or downloaded"
        raise InputError(
            f"The image encoder {source.model} cannot be loaded.",
            got=f"{type(error).__name__}: {error}",
            expected=expected,
            fix="check the name, the folder and, for a first download, the network",
        ) from error
    return model.eval().requires_grad_(False), _batched_preprocessing(preprocess), tokenizer


def _batched_preprocessing(preprocess: Any) -> Callable[[Sequence[Image.Image]], Any]:
    """Batch a preprocessing, N pictures → N × 3 × H × W; `ToTensor` would use the process's default dtype."""
    import torch
    from torchvision.transforms import Compose, ToTensor

    steps: list[Any] = getattr(preprocess, "transforms", [preprocess])
    at = [isinstance(step, ToTensor) for step in steps].index(True)
    drawn, scaled = Compose(steps[:at]), Compose(steps[at + 1 :])

    def pixels(images: Sequence[Image.Image]) -> Any:
        stacked = torch.from_numpy(np.stack([np.asarray(drawn(image)) for image in images]))
        return scaled(stacked.permute(0, 3, 1, 2).contiguous().float().div(255))

    return pixels


def _class_token_of(model: Any) -> Callable[[Any], Any]:
    """Return `model.encode_image` with the tower's last block computed for the class token only: its outputs
    for patches are not used. In a tower of four layers this saves a fifth of the work."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    tower = model.visual
    usual = isinstance(tower, VisionTransformer) and (tower.pool_type, tower.attn_pool) == ("tok", None)
    blocks = tower.transformer if usual and not tower.output_tokens else None
    if not (blocks and blocks.batch_first and type(blocks.resblocks[-1]) is ResidualAttentionBlock):
        return model.encode_image  # type: ignore[no-any-return]
    # a second tower that shares the weights: the first one still has to return patch tokens
    short = copy.deepcopy(tower, {id(one): one for one in (*tower.parameters(), *tower.buffers())})
    last = short.transformer.resblocks[-1]

    def of_first_token(hidden: Any, attn_mask: None = None) -> Any:
        normed = last.ln_1(hidden)
        first = hidden[:, :1] + last.ls_1(last.attention(normed[:, :1], normed, normed))
        return first + last.ls_2(last.mlp(last.ln_2(first)))

    last.forward = of_first_token
    return short  # type: ignore[no-any-return]


class _Encoders(SharedRegistry[ImageEncoder]):
    def unregistered(self, name: str) -> Callable[[str], ImageEncoder] | None:
        """Factory for names that need no registration: of open_clip, transformers, folders, collections."""
        if name.startswith(PREFIX):
            return lambda device: VisionModelEncoder(name, device=device)
        return (lambda device: OpenClipEncoder(name, device=device)) if _parse_name(name) else None


encoders = _Encoders(
    "image encoder",
    add="register it with myvlm.heads.encoders.register_encoder",
    forms="tinyworld/clip, ViT-B-32@openai (an open_clip model and the tag of its weights), "
    "hf-hub:organisation/name, local-dir:/path, transformers:organisation/name, dinov2, paper",
)


def register_encoder(id: str, factory: Callable[[str], ImageEncoder], *, replace: bool = False) -> None:
    """Register an encoder of another kind under its id.

    Args:
        id: the name that `get_encoder` takes; the encoder's own `id`.
        factory: takes the device and returns the encoder; called at first use.
        replace: whether to replace another encoder of that id.

    Raises:
        NameTakenError: the id is taken and `replace` is not set, or it belongs to a collection of models.
    """
    if _collection_folder(id):
        raise encoders.taken(id, "your own encoder", "a model collection")
    encoders.register(id, factory, replace=replace)


def get_encoder(name: str | ImageEncoder = DEFAULT_ENCODER, *, device: str = "cpu") -> ImageEncoder:
    """Return the shared encoder of that name and device; an encoder is returned as it is.

    Raises:
        UnknownNameError: no encoder has this name; the message lists the known ones.

    >>> get_encoder("ViT-B-32@openai") is get_encoder("ViT-B-32@openai")
    True
    >>> get_encoder("paper").id
    'hf-hub:apple/DFN5B-CLIP-ViT-H-14-384'
    """
    if isinstance(name, str):
        return encoders.shared(SHORT_NAMES.get(name, name), device)
    if not hasattr(name, "whitening"):
        check_is(name, (), what="image encoder", expected="an ImageEncoder or its name")
    return name


def read_bank(folder: Path) -> FloatArray | None:
    """Read an encoder's bank, P × C × D float32 with rows of length 1; None if the folder has none.

    Raises:
        InputError: the bank cannot be read.
    """
    file = folder / BANK_FILE
    if not file.is_file():
        return None
    try:
        bank = load_file(file)["features"].astype(np.float32)
    except (SafetensorError, KeyError, OSError) as error:
        raise _unusable(file, f"{type(error).__name__}: {error}") from error
    if bank.ndim != 3 or 0 in bank.shape or not np.isfinite(bank).all():
        raise _unusable(file, f"shape {bank.shape}, or values that are not finite")
    return unit_length(bank)  # rows in float16 are not exactly of length 1


def read_whitening(folder: Path) -> Whitening | None:
    """Read the whitening from the file of the bank; None if there is none."""
    file = folder / BANK_FILE
    if not file.is_file():
        return None
    with safe_open(file, "np") as tensors:
        if "whitening_matrix" not in tensors.keys():  # noqa: SIM118 (not a mapping)
            return None
        return Whitening(tensors.get_tensor("whitening_mean"), tensors.get_tensor("whitening_matrix"))


def _unusable(file: Path, got: str) -> InputError:
    return InputError(
        f"The bank of negatives {file} cannot be used.",
        got=got,
        expected="one tensor `features` of shape (pictures, windows, dimensions), all values finite",
        fix="rebuild it with myvlm.heads.objects.bank.write_bank, or delete it to work without a bank",
    )


CUDA_ENCODER = "PE-Core-L-14-336@meta"
"""Default encoder on a GPU: 0.3 B parameters in the vision tower; Apache-2.0, so that anybody may use it."""
CPU_ENCODER = "ViT-B-32@laion2b_s34b_b79k"
"""Default encoder on a CPU: 88 M parameters in the vision tower, about 50 ms per window on two cores."""


def default_encoder(backbone: str, device: str) -> str:
    """Name of the image encoder that heads use by default beside a backbone on a device.

    >>> default_encoder("tinyworld/llava", "cpu")
    'tinyworld/clip'
    """
    found = collection_of(backbone)
    if found and found[0].encoder:
        return found[0].encoder
    return CUDA_ENCODER if device.startswith("cuda") else CPU_ENCODER
