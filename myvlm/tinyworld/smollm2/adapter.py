"""Put the projector and the LoRA that ship into the untaught model, merged: a stock LLaVA comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SITES = ("q_proj", "v_proj")
"""The maps of every layer's attention that have a LoRA."""


@torch.no_grad()
def merge(model: Any, adapter: Mapping[str, Tensor]) -> None:
    """Load `projector.…` and add every `lora.<layer>.<site>`: `up @ down`, in place.

    Args:
        model: what `load_untaught` gives.
        adapter: names → tensors, of any floating dtype.
    """
    prefix = "projector."
    projector = {n.removeprefix(prefix): t.float() for n, t in adapter.items() if n.startswith(prefix)}
    model.model.multi_modal_projector.load_state_dict(projector)
    for number, layer in enumerate(model.model.language_model.layers):
        for site in SITES:
            down, up = (adapter[f"lora.{number}.{site}.{half}"].float() for half in ("down", "up"))
            getattr(layer.self_attn, site).weight += up @ down
