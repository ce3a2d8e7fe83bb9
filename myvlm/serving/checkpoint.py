"""A checkpoint that vLLM reads, of a model that this transformers wrote."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from myvlm.backbones.loading import load_model
from myvlm.errors import InputError

OLD, NEW = "vision_tower.vision_model.", "vision_tower."
"""What vLLM calls the parts of a CLIP or SigLIP tower, and what transformers since 5.20 does."""


def export_vllm(name: str, folder: str | PathLike[str]) -> Path:
    """Write a model to a new folder under the names that vLLM's loader knows.

    Checkpoints of the hub that an earlier transformers wrote are read by vLLM as they are.

    Args:
        name: as for `MyVLM.from_pretrained`.
        folder: a new or empty folder.

    Raises:
        InputError: the folder holds something.
        UnknownBackboneError: no such model.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise InputError(
            "The folder for the exported model is not empty.",
            got=str(target),
            expected="a new folder, or an empty one",
            fix="name another folder",
        )
    return write_for_vllm(*load_model(name, device="cpu", dtype=None, model_options={}), target)


def write_for_vllm(model: Any, processor: Any, target: Path) -> Path:
    """The same of a model that is loaded; the folder is made, or empty."""
    model.save_pretrained(target)
    processor.save_pretrained(target)
    kind = model.config.model_type
    if kind == "llava_next_video":
        _rename_tower(target)
    if kind not in ("llava", "llava_next", "llava_onevision"):
        return target  # of these vLLM knows the names of now
    weights = {}
    for path in sorted(target.glob("*.safetensors")):
        path.unlink()
    for part, tensor in model.state_dict().items():
        own = part.removeprefix("model.")
        if own.startswith(NEW) and not own.startswith(OLD):
            own = OLD + own.removeprefix(NEW)
        if own.startswith("language_model.") and not own.startswith("language_model.model."):
            own = own.replace("language_model.", "language_model.model.", 1)
        if own == "lm_head.weight":
            if model.config.get_text_config().tie_word_embeddings:
                continue
            own = "language_model.lm_head.weight"
        weights[own] = tensor.contiguous()
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _rename_tower(target: Path) -> None:
    """Give the tower's parts their old names, and leave the others'."""
    for path in target.glob("*.safetensors"):
        named = {
            part if OLD in part else part.replace(NEW, OLD, 1): tensor
            for part, tensor in load_file(path).items()
        }
        save_file(named, path, metadata={"format": "pt"})
