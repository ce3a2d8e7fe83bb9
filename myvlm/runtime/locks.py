"""A lock for each thing that several threads share and one of them changes for a moment."""

from __future__ import annotations

import os
import threading
from weakref import WeakKeyDictionary


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
