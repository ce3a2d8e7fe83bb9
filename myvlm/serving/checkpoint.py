"""Export a model as a checkpoint that vLLM can load, with the weight names that its loader expects."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from myvlm.backbones.loading import load_model
from myvlm.errors import InputError

OLDER_NAME_TYPES = ("llava", "llava_next", "llava_next_video", "llava_onevision")
"""Model types for which vLLM expects the weight names of older transformers."""


def export_vllm(name: str, folder: str | PathLike[str]) -> Path:
    """Write a model to a new folder, in its own dtype, with the weight names that vLLM's loader expects.

    Checkpoints on the hub that an earlier transformers wrote need no export: vLLM loads them.

    Args:
        name: as for `MyVLM.from_pretrained`.
        folder: a new or empty folder.

    Raises:
        InputError: the folder is not empty.
        UnknownBackboneError: there is no such model.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise InputError(
            "The folder for the exported model is not empty.",
            got=str(target),
            expected="a new folder, or an empty one",
            fix="choose another folder",
        )
    return write_for_vllm(*load_model(name, device="cpu", dtype="auto", model_options={}), target)


def write_for_vllm(model: Any, processor: Any, target: Path) -> Path:
    """Export a loaded model and its processor to `target`, a new or empty folder."""
    processor.save_pretrained(target)
    if model.config.model_type not in OLDER_NAME_TYPES:
        model.save_pretrained(target)
        return target
    weights = {older_name(part): tensor for part, tensor in model.state_dict().items()}
    if model.config.get_text_config().tie_word_embeddings:
        weights.pop("language_model.lm_head.weight", None)
    model.save_pretrained(target, state_dict=weights, save_original_format=False)
    return target


def older_name(part: str) -> str:
    """The name of a LLaVA weight before transformers 5.20 dropped `vision_model` from its CLIP tower's.

    >>> older_name("model.vision_tower.embeddings.class_embedding")
    'vision_tower.vision_model.embeddings.class_embedding'
    >>> older_name("model.language_model.norm.weight"), older_name("lm_head.weight")
    ('language_model.model.norm.weight', 'language_model.lm_head.weight')
    """
    if part.startswith("lm_head."):
        return f"language_model.{part}"
    own = part.removeprefix("model.")
    for now, before in (("vision_tower.", "vision_tower.vision_model."),
                        ("language_model.", "language_model.model.")):  # fmt: skip
        if own.startswith(now) and not own.startswith(before):
            return before + own.removeprefix(now)
    return own
