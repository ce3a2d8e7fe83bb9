"""Where a model's weights are, also where accelerate keeps them away until a module runs (`device_map`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """The device on which the module's weight takes part; with `device_map` not always where it is kept."""
    weight: Any = module.weight
    for hook in _hooks(module):
        if weight.is_meta and getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    return torch.device(weight.device)


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """The module's own parameter of that name, read from where it is kept."""
    return _held(module, name, getattr(module, name))


def unquantised(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter that quantisation leaves in floating point, each once, read from where it is kept.

    All but the matrices of linear maps: embedding tables, biases, norms, convolutions, query tokens.
    """
    seen: set[int] = set()
    for part in model.modules():
        for name, weight in part.named_parameters(recurse=False):
            linear = isinstance(part, nn.Linear) and name == "weight"
            if not linear and id(weight) not in seen:
                seen.add(id(weight))
                yield _held(part, name, weight)


def _held(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """An offloaded weight is a hollow tensor on the device `meta`; its hook knows where the values are."""
    for hook in _hooks(module):
        kept = getattr(hook, "weights_map", None)
        if weight.is_meta and kept is not None:
            value: Tensor = kept[name]
            return value
    return weight


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))
