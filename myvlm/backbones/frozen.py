"""Keeps a model frozen for as long as anybody is at work with it, in whatever thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import nn


@dataclass(eq=False)
class _Before:
    """What was in training mode and what required grad before the first came in; how many are in."""

    training: list[nn.Module]
    learning: list[nn.Parameter]
    inside: int = 0


_LOCK = Lock()
_BEFORE: dict[Any, _Before] = {}


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Within it the model is in eval mode and no weight requires grad; when the last is out, as before.

    The first in freezes, for all who are in beside it: other threads, other adapters of this model.

    >>> model = nn.Linear(2, 2)
    >>> with frozen(model), frozen(model):
    ...     model.training, model.weight.requires_grad
    (False, False)
    >>> model.training, model.weight.requires_grad
    (True, True)
    """
    try:
        with _LOCK:
            _enter(model)
        yield
    finally:
        with _LOCK:
            _leave(model)


def _enter(model: Any) -> None:
    if model not in _BEFORE:
        training = [module for module in model.modules() if module.training]
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        _BEFORE[model] = _Before(training, learning)
    before = _BEFORE[model]
    before.inside += 1
    if before.inside == 1:
        _set(before, False)


def _leave(model: Any) -> None:
    before = _BEFORE[model]
    before.inside -= 1
    if not before.inside:
        del _BEFORE[model]
        _set(before, True)


def _set(before: _Before, value: bool) -> None:
    for module in before.training:
        module.training = value
    for weight in before.learning:
        weight.requires_grad_(value)
