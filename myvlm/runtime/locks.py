"""Locks of what several threads share: free in a forked process, and of its own in a copy.

Whoever held one where a process was forked is not in the child, which would wait for ever.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakKeyDictionary, WeakSet


class OneAtATime:
    """A lock that one thread holds at a time, and may take again.

    >>> lock = OneAtATime()
    >>> with lock, lock:
    ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[OneAtATime], tuple[()]]:
        return OneAtATime, ()


_all: WeakSet[OneAtATime] = WeakSet()


def _free_all() -> None:
    for one in list(_all):
        one._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)


class Locks:
    """A lock for each object, held by one thread at a time; a forked process begins with free ones.

    >>> locks, thing = Locks(), threading.Event()
    >>> with locks.of(thing), locks.of(thing):  # its holder may take it again
    ...     locks.of(thing) is locks.of(thing)
    True
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # whoever held one is not in the child

    def of(self, thing: object) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(thing, threading.RLock())

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakKeyDictionary[object, threading.RLock] = WeakKeyDictionary()
