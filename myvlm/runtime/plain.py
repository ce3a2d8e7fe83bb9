"""Within `MyVLM.generic()` a model is plain: for whom, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class PlainBlocks:
    """The blocks in which one model is plain, by context: that of a thread, or of an asyncio task.

    What is handed on with its context, as by `asyncio.to_thread` and to new tasks, is in the block too; and
    nobody is any more once it has ended, wherever its end was reached.

    Args:
        always: plain everywhere.

    >>> blocks = PlainBlocks()
    >>> with blocks.block():
    ...     bool(blocks)
    True
    >>> bool(blocks), bool(PlainBlocks(always=True))
    (False, True)
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self._open: set[object] = set()
        self._entered: ContextVar[tuple[object, ...]] = ContextVar("myvlm_generic", default=())

    def __bool__(self) -> bool:
        return self.always or not self._open.isdisjoint(self._entered.get())

    def __reduce__(self) -> tuple[object, ...]:
        return _fresh, (self.always,)  # whoever gets a copy is in no block of it

    @contextmanager
    def block(self) -> Iterator[None]:
        """Within it the model is plain here."""
        mine = object()
        self._open.add(mine)
        self._entered.set((*self._entered.get(), mine))
        try:
            yield
        finally:
            # The context may be another than at the start: a generator's steps run where they are asked for.
            self._open.discard(mine)
            self._entered.set(tuple(one for one in self._entered.get() if one in self._open))


def _fresh(always: bool) -> PlainBlocks:
    return PlainBlocks(always=always)
