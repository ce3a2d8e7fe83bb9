"""Process-wide state: locks between threads, and what building and loading an encoder touches."""

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
def building_model() -> Iterator[None]:
    """Context manager for building an encoder: it gets float32 weights, and leaves the process as it was.

    Building draws random numbers, which the weights replace. open_clip calls `logging.info`, which would
    configure the root logger, so that the user's `logging.basicConfig` would do nothing. For short use only:
    torch's default dtype applies to all threads.

    >>> import torch
    >>> with building_model():
    ...     torch.zeros(1).dtype
    torch.float32
    """
    import torch

    root, placeholder = logging.getLogger(), logging.NullHandler()
    with _default_dtype, torch.random.fork_rng(devices=[]):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        root.addHandler(placeholder)
        try:
            yield
        finally:
            root.removeHandler(placeholder)
            torch.set_default_dtype(before)


def open_clip_tokenizer(model: str) -> Any:
    """Return open_clip's tokenizer of a model, and never run code that comes with the model.

    A model's own `open_clip_config.json` can ask for that, and a concept file can name any model.
    """
    import open_clip

    try:
        return open_clip.get_tokenizer(model, trust_remote_code=False)
    except TypeError as error:
        if str(error) != "SimpleTokenizer.__init__() got an unexpected keyword argument 'trust_remote_code'":
            raise
        return open_clip.get_tokenizer(model)  # open_clip's own tokenizer, which loads nothing


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
