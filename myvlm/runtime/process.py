"""Process-wide state: locks between threads, torch's default dtype, and the dtype of encoders."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any
from weakref import WeakSet

_RLock: Any = type(threading.RLock())


class ForkSafeLock(_RLock, ContextDecorator):  # type: ignore[misc]
    """A reentrant lock that is also a decorator: decorated functions run while holding the lock.

    A forked process starts with the lock free unless the forking thread holds it, since other holders do not
    exist there and would never release it. Copying or unpickling the lock creates a new one.

    >>> lock = ForkSafeLock()
    >>> with lock, lock:
    ...     pass
    >>> lock(len)("sks")
    3
    """

    def __init__(self) -> None:
        _all.add(self)

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return ForkSafeLock, ()


_all: WeakSet[ForkSafeLock] = WeakSet()


def _free_all() -> None:
    for one in list(_all):
        if not one._is_owned():  # locks of the forking thread are still held here
            one._at_fork_reinit()  # as the standard library does with its own locks


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)

_default_dtype = ForkSafeLock()


@contextmanager
def float32_default() -> Iterator[None]:
    """Context manager: new weights are float32. For short use only: the default applies to all threads.

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
    """The torch dtype of an image encoder: float32 on a CPU; bfloat16 on a GPU, or float16 on older GPUs.

    >>> encoder_dtype("cpu")
    torch.float32
    """
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
