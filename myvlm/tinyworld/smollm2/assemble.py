"""Assemble `tinyworld/smollm2`: SmolLM2 from its package, tinyworld's vision tower and the adapter."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from myvlm.errors import InputError, UnknownBackboneError, first_line
from myvlm.evaluation.methods.rewriting import smollm2_file
from myvlm.tinyworld import assets
from myvlm.tinyworld.smollm2 import parts
from myvlm.tinyworld.smollm2.adapter import merge

ADAPTER = "adapter.safetensors"


def assemble() -> tuple[Any, Any]:
    """Return a stock `LlavaForConditionalGeneration` in float32 and its processor.

    Raises:
        UnknownBackboneError: SmolLM2 is not installed, or the adapter is missing or damaged.
    """
    try:
        smollm2_file()
    except InputError as error:
        raise UnknownBackboneError(
            "The language model of tinyworld/smollm2 is not installed.",
            got=error.got,
            expected=error.expected,
            fix=error.fix,
        ) from error
    file = assets.WEIGHTS / "smollm2" / ADAPTER
    make = "python -m benchmarks.pretrain.smollm2"
    if not file.is_file():
        raise UnknownBackboneError(
            "The projector and the LoRA of tinyworld/smollm2 do not exist.",
            got=f"no file {ADAPTER} in {file.parent}",
            expected=f"the file that `{make}` writes",
            fix=f"run `{make} --out {file.parent}` from the source tree",
        )
    tower = assets.path("llava")
    model = parts.load_untrained(tower)
    try:
        merge(model, load_file(file))
    except (SafetensorError, KeyError, RuntimeError) as error:  # truncated, or with another model's shapes
        raise UnknownBackboneError(
            "The projector and the LoRA of tinyworld/smollm2 cannot be read.",
            got=f"{type(error).__name__}: {first_line(error)} in {file}",
            expected=f"the file that `{make}` writes",
            fix="download the weights again: the file is truncated, damaged, or a Git LFS pointer",
        ) from error
    return model, parts.load_processor(tower)
