"""Merge the projector and the LoRA that ship with the package into the untrained model, to a stock LLaVA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SITES = ("q_proj", "v_proj")
"""The attention projections of every layer that have a LoRA."""


@torch.no_grad()
def merge(model: Any, adapter: Mapping[str, Tensor]) -> None:
    """Load the tensors `projector.…`, and add the product `up @ down` of every `lora.<layer>.<site>` in
    place.

    Args:
        model: as `load_untrained` returns it.
        adapter: name → tensor, of any floating dtype.
    """
    prefix = "projector."
    projector = {n.removeprefix(prefix): t.float() for n, t in adapter.items() if n.startswith(prefix)}
    model.model.multi_modal_projector.load_state_dict(projector)
    for number, layer in enumerate(model.model.language_model.layers):
        for site in SITES:
            down, up = (adapter[f"lora.{number}.{site}.{half}"].float() for half in ("down", "up"))
            getattr(layer.self_attn, site).weight += up @ down
