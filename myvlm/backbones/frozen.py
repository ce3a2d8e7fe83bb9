"""Using a model without lasting changes: freezing it, hooking it and reading its weights.

A model stays frozen as long as any thread uses it. Hooks exist only inside a `with` block and are removed
even after an error. Weights are read from where accelerate keeps them. Threads take turns with tokenizers and
with models that keep state of their last input.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import update_wrapper
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from myvlm.errors import BackboneError
from myvlm.runtime.process import ForkSafeLock

# Of the insertions entered in this thread, only the innermost acts on a module: nested use suspends the outer
# one. A forward pass of the same model in another thread is not affected.
_ACTIVE_INSERTIONS: ContextVar[tuple[RowInsertion, ...]] = ContextVar("myvlm_attached", default=())

_OBJECT_LOCKS: WeakKeyDictionary[object, ForkSafeLock] = WeakKeyDictionary()
"""The lock of each tokenizer and model that threads must use one at a time."""

LAST_INPUT_STATE = "rope_deltas"
"""The attribute in which models such as Qwen's and GLM's keep positions of their last input."""

_LOCK = ForkSafeLock()


@dataclass(eq=False)
class _Use:
    """A changed object, the context manager that restores it, and how many uses each thread has entered."""

    thing: Any
    changed: AbstractContextManager[None]
    inside: Counter[int] = field(default_factory=Counter)


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that ignores the forward passes of other threads, which may use the same model."""
    thread = get_ident()
    return lambda *args, **kwargs: hook(*args, **kwargs) if get_ident() == thread else None


class SharedChange:
    """Decorator for a context manager that changes an object: share one change among all concurrent users.

    The first user of the object enters the context manager and the last one exits it, in whatever thread.
    After a fork, only the uses of the forking thread count.

    >>> @SharedChange
    ... @contextmanager
    ... def appended(to: list[int]) -> Iterator[None]:
    ...     to.append(1)
    ...     yield
    ...     to.pop()
    >>> numbers: list[int] = []
    >>> with appended(numbers), appended(numbers):
    ...     numbers, numbers in appended
    ([1], True)
    >>> numbers, numbers in appended
    ([], False)
    """

    def __init__(self, change: Callable[[Any], AbstractContextManager[None]]) -> None:
        self._change = change
        self._uses: dict[int, _Use] = {}  # by the object's id, since it may not be hashable
        update_wrapper(self, change)
        _shared_changes.add(self)

    def __contains__(self, thing: object) -> bool:
        return id(thing) in self._uses

    @contextmanager
    def __call__(self, thing: Any) -> Iterator[None]:
        thread = get_ident()
        with _LOCK:
            use = self._uses.get(id(thing))
            if use is None:
                use = _Use(thing, self._change(thing))
                use.changed.__enter__()
                self._uses[id(thing)] = use
            use.inside[thread] += 1
        try:
            yield
        finally:
            self._leave(use, thread)

    def _leave(self, use: _Use, thread: int) -> None:
        with _LOCK:
            use.inside[thread] -= 1
            if not use.inside.total():
                del self._uses[id(use.thing)]
                use.changed.__exit__(None, None, None)

    def _keep_own_uses(self) -> None:
        thread = get_ident()
        for use in list(self._uses.values()):
            use.inside = Counter({thread: use.inside[thread] + 1})
            self._leave(use, thread)


_shared_changes: WeakSet[SharedChange] = WeakSet()


def _after_fork_in_child() -> None:
    for one in list(_shared_changes):
        one._keep_own_uses()
    _LOCK.release()


if hasattr(os, "register_at_fork"):  # a fork waits until no other thread is in the middle of a change
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child
    )


def holder_of_last_input(model: Any) -> Any:
    """The submodule on which a model may keep state of its last input (`LAST_INPUT_STATE`)."""
    return getattr(model, "base_model", model)


@SharedChange
@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Context manager: the model is in eval mode and no weight requires grad, until the last user exits.

    The first user freezes the model; other threads and other adapters of the same model share this. At the
    last exit everything is restored, including the state that the model keeps of its last input.

    >>> model = nn.Linear(2, 2)
    >>> with frozen(model), frozen(model):
    ...     model.training, model.weight.requires_grad
    (False, False)
    >>> model.training, model.weight.requires_grad
    (True, True)
    """
    training = [module for module in model.modules() if module.training]
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    keeper = vars(holder_of_last_input(model))
    kept = {name: keeper[name] for name in (LAST_INPUT_STATE,) if name in keeper}
    try:
        _set(training, learning, False)
        yield
    finally:
        _set(training, learning, True)
        keeper.update(kept)


def _set(training: list[nn.Module], learning: list[nn.Parameter], value: bool) -> None:
    for module in training:
        module.training = value
    for weight in learning:
        weight.requires_grad_(value)


class RowInsertion(ABC):
    """Base of context managers that insert concept rows into one module of a model by hooks.

    Args:
        site: the module that identifies the place of insertion: of nested insertions with the same site, only
            the innermost acts.

    Attributes:
        passes: number of forward passes into which rows were inserted.

    Raises:
        BackboneError: on exit, if no rows were inserted; an error raised inside the block takes precedence.
    """

    destination: ClassVar[str]
    """The place where rows are inserted, in words, for messages."""

    def __init__(self, site: nn.Module) -> None:
        self.passes = 0
        self._site = site
        self._handles: list[Any] = []

    @abstractmethod
    def _attach(self) -> list[Any]:
        """Add the hooks and return their handles. A hook must do nothing unless `_is_innermost()`."""

    def __enter__(self) -> Self:
        self._handles = self._attach()
        _ACTIVE_INSERTIONS.set((*_ACTIVE_INSERTIONS.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        if kind is None and not self.passes:
            raise BackboneError(
                f"The concept rows never reached the {self.destination}.",
                got="no forward pass went through the hooks",
                expected="at least one forward pass",
                fix="use the model before torch.compile: hooks added to a compiled model are ignored",
            )

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _ACTIVE_INSERTIONS.set(tuple(other for other in _ACTIVE_INSERTIONS.get() if other is not self))

    def _is_innermost(self) -> bool:
        """Whether this is the innermost insertion at its site in this thread."""
        mine = [other for other in _ACTIVE_INSERTIONS.get() if other._site is self._site]
        return bool(mine) and mine[-1] is self


def device_of(module: nn.Module) -> torch.device:
    """The device on which the module's weight is used; with `device_map` it may be stored elsewhere."""
    weight: Any = module.weight
    for hook in _hooks(module):
        if weight.is_meta and getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    return torch.device(weight.device)


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """The module's parameter of that name, loaded from where accelerate keeps it if it is offloaded."""
    return _stored_weight(module, name, getattr(module, name))


def unquantised(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter that quantisation leaves in floating point, once each, loaded if it is offloaded.

    These are all but the matrices of linear layers: embedding tables, biases, norms, convolutions, query
    tokens.
    """
    seen: set[int] = set()
    for part in model.modules():
        for name, weight in part.named_parameters(recurse=False):
            linear = isinstance(part, nn.Linear) and name == "weight"
            if not linear and id(weight) not in seen:
                seen.add(id(weight))
                yield _stored_weight(part, name, weight)


def _stored_weight(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """The values of a weight: an offloaded one is an empty `meta` tensor whose hook can load the values."""
    for hook in _hooks(module):
        kept = getattr(hook, "weights_map", None)
        if weight.is_meta and kept is not None:
            value: Tensor = kept[name]
            return value
    if weight.is_meta:
        raise BackboneError(
            "The model's weights have no values.",
            got=f"{type(module).__name__}.{name} on the device meta",
            expected="weights in memory, or offloaded by accelerate (device_map)",
            fix="load it with from_pretrained, not within torch.device('meta') or init_empty_weights()",
        )
    return weight


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


@contextmanager
def exclusive_tokenizer(tokenizer: Any) -> Iterator[None]:
    """Context manager: no other thread of this library uses the tokenizer. Each call sets its padding."""
    with _lock_of(tokenizer):
        yield


@contextmanager
def exclusive_use(model: Any) -> Iterator[None]:
    """Context manager: only one thread of this library generates, if the model keeps state of its last input.

    Two concurrent replies would read each other's state. Other models are used by all threads at once.
    """
    keeper = holder_of_last_input(model)
    with _lock_of(keeper) if LAST_INPUT_STATE in vars(keeper) else nullcontext():
        yield


def _lock_of(thing: object) -> ForkSafeLock:
    with _LOCK:
        if thing not in _OBJECT_LOCKS:
            _OBJECT_LOCKS[thing] = ForkSafeLock()
        return _OBJECT_LOCKS[thing]
