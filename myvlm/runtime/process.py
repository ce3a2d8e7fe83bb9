"""Process-wide state: locks between threads, torch's default dtype, and the dtype of encoders."""

from __future__ import annotations

import logging
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


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Context manager: `logging.info`, as open_clip calls it, does not configure the root logger.

    If it did, `logging.basicConfig` would do nothing when the user calls it.
    """
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)


def encoder_dtype(device: str) -> Any:
    """The torch dtype of an image encoder: half precision where the hardware computes in it, else float32.

    On a GPU bfloat16, or float16 on an older one. On a CPU bfloat16 where it has instructions for it
    (AVX512-BF16, AMX), with which a ViT-B/32 is some three times as fast as in float32.

    >>> encoder_dtype("meta")
    torch.float32
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if kind == "cpu" and _has_bfloat16_instructions() else torch.float32


def _has_bfloat16_instructions() -> bool:
    """Whether this CPU multiplies in bfloat16; False where torch does not say."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
