"""Hooks on a frozen model that are there within a `with` and gone after it, whatever happens in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Self

from torch import nn

from myvlm.errors import BackboneError

# Only the innermost of this thread acts on a module: nested use suspends the outer one, and a forward
# pass of the same model in another thread is left alone.
_ACTIVE: ContextVar[tuple[Attached, ...]] = ContextVar("myvlm_attached", default=())


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
