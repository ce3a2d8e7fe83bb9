"""Locks of what several threads share: free in a forked process, and of its own in a copy.

Whoever held one where a process was forked is not in the child, which would wait for ever.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_RLock: Any = type(threading.RLock())


class OneAtATime(_RLock):  # type: ignore[misc]
    """A lock that one thread holds at a time, and may take again.

    >>> lock = OneAtATime()
    >>> with lock, lock:
    ...     pass
    """

    def __init__(self) -> None:
        _all.add(self)

    def __reduce__(self) -> tuple[type[OneAtATime], tuple[()]]:
        return OneAtATime, ()


_all: WeakSet[OneAtATime] = WeakSet()


def _free_all() -> None:
    for one in list(_all):
        if not one._is_owned():  # what the thread that forked holds, it holds here too
            one._at_fork_reinit()  # as the standard library's own locks are


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
