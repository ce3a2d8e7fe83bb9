"""How we touch somebody else's model and leave it as it was: frozen, hooked, its weights only read.

A model is frozen for as long as anybody is at work with it, in whatever thread; hooks are there within a
`with` and gone after it, whatever happens in it; weights are found where accelerate keeps them. What threads
share and one changes for a moment, tokenizers and some models, they use in turn.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from myvlm.errors import BackboneError
from myvlm.runtime.process import OneAtATime

# Only the innermost of this thread acts on a module: nested use suspends the outer one, and a forward
# pass of the same model in another thread is left alone.
_ACTIVE: ContextVar[tuple[Attached, ...]] = ContextVar("myvlm_attached", default=())

_USED: WeakKeyDictionary[object, OneAtATime] = WeakKeyDictionary()
"""The lock of each tokenizer and model that threads use in turn."""

OF_LAST_INPUT = "rope_deltas"
"""What Qwen's, GLM's and their kin's models keep on themselves of the positions of their last input."""


@dataclass(eq=False)
class _Before:
    """What was in training mode and what required grad before the first came in; who is in, by thread."""

    training: list[nn.Module]
    learning: list[nn.Parameter]
    kept: dict[str, Any]
    inside: Counter[int] = field(default_factory=Counter)


_LOCK = OneAtATime()
_BEFORE: dict[Any, _Before] = {}


def keeper_of(model: Any) -> Any:
    """The part of a model that keeps something of its last input, where one does."""
    return getattr(model, "base_model", model)


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Within it the model is in eval mode and no weight requires grad; when the last is out, as before,
    what it keeps of its last input included.

    The first in freezes, for all who are in beside it: other threads, other adapters of this model.

    >>> model = nn.Linear(2, 2)
    >>> with frozen(model), frozen(model):
    ...     model.training, model.weight.requires_grad
    (False, False)
    >>> model.training, model.weight.requires_grad
    (True, True)
    """
    thread = get_ident()
    try:
        with _LOCK:
            _enter(model, thread)
        yield
    finally:
        with _LOCK:
            _leave(model, thread)


def _enter(model: Any, thread: int) -> None:
    if model not in _BEFORE:
        training = [module for module in model.modules() if module.training]
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        kept = vars(keeper_of(model))
        _BEFORE[model] = _Before(training, learning, {n: kept[n] for n in (OF_LAST_INPUT,) if n in kept})
    before = _BEFORE[model]
    before.inside[thread] += 1
    if before.inside.total() == 1:
        _set(before, False)


def _leave(model: Any, thread: int) -> None:
    before = _BEFORE[model]
    before.inside[thread] -= 1
    if not before.inside.total():
        _set(before, True)
        vars(keeper_of(model)).update(before.kept)
        del _BEFORE[model]


def _forked() -> None:
    """Of all that were at work with a model only the thread that forked is in the child."""
    thread = get_ident()
    for model, before in list(_BEFORE.items()):
        before.inside = Counter({thread: before.inside[thread] + 1})
        _leave(model, thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _set(before: _Before, value: bool) -> None:
    for module in before.training:
        module.training = value
    for weight in before.learning:
        weight.requires_grad_(value)


class Attached(ABC):
    """Context manager: within it concept rows are brought to one module of a model by hooks.

    Args:
        site: the module by which insertions into one model know each other: of those of one site, only the
            innermost acts.

    Attributes:
        passes: how many forward passes the rows have entered.

    Raises:
        BackboneError: at its end, when no rows entered; an error from within goes first.
    """

    goal: ClassVar[str]
    """Where the rows go, in words."""

    def __init__(self, site: nn.Module) -> None:
        self.passes = 0
        self._site = site
        self._handles: list[Any] = []

    @abstractmethod
    def _attach(self) -> list[Any]:
        """Put the hooks on; their handles. A hook does nothing unless `_acts`."""

    def __enter__(self) -> Self:
        self._handles = self._attach()
        _ACTIVE.set((*_ACTIVE.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        if kind is None and not self.passes:
            raise BackboneError(
                f"The concept rows never reached the {self.goal}.",
                got="no forward pass went through the hooks",
                expected="at least one",
                fix="use the model before torch.compile: hooks added to a compiled model are ignored",
            )

    def remove(self) -> None:
        """Take the hooks off; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _ACTIVE.set(tuple(other for other in _ACTIVE.get() if other is not self))

    def _acts(self) -> bool:
        """Whether this is the innermost of its site, in this thread."""
        mine = [other for other in _ACTIVE.get() if other._site is self._site]
        return bool(mine) and mine[-1] is self


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
    if weight.is_meta:
        raise BackboneError(
            "The model's weights have no values.",
            got=f"{type(module).__name__}.{name} on the device meta",
            expected="weights in memory, or kept elsewhere by accelerate (device_map)",
            fix="load it with from_pretrained, not within torch.device('meta') or init_empty_weights()",
        )
    return weight


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


@contextmanager
def tokenizing(tokenizer: Any) -> Iterator[None]:
    """Within it no other thread of ours uses the tokenizer: each call sets whether it pads."""
    with _turn_at(tokenizer):
        yield


@contextmanager
def in_turn(model: Any) -> Iterator[None]:
    """Within it no other thread of ours generates, where the model keeps something of its last input.

    Two replies at once would read each other's. All other models are entered by all threads at once.
    """
    keeper = keeper_of(model)
    with _turn_at(keeper) if OF_LAST_INPUT in vars(keeper) else nullcontext():
        yield


def _turn_at(thing: object) -> OneAtATime:
    with _LOCK:
        if thing not in _USED:
            _USED[thing] = OneAtATime()
        return _USED[thing]
