"""What holds for a whole process: locks among its threads, the default dtype, what its devices compute in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any
from weakref import WeakSet

_RLock: Any = type(threading.RLock())


class OneAtATime(_RLock, ContextDecorator):  # type: ignore[misc]
    """A lock that one thread holds at a time, and may take again; a decorator of what runs within it.

    It is free in a forked process, where whoever held it is not and all would wait for ever; a copy is
    another lock.

    >>> lock = OneAtATime()
    >>> with lock, lock:
    ...     pass
    >>> lock(len)("sks")
    3
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

_default_dtype = OneAtATime()


@contextmanager
def float32_default() -> Iterator[None]:
    """Within it weights are made in float32; for short work alone, since the default is that of all threads.

    >>> import torch
    >>> with float32_default():
    ...     torch.zeros(1).dtype
    torch.float32
    """
    import torch

    with _default_dtype:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def encoder_dtype(device: str) -> Any:
    """The torch dtype of an image encoder: float32 on a CPU; on a GPU bfloat16, or float16 on an older one.

    >>> encoder_dtype("cpu")
    torch.float32
    """
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
