"""Numbers of ours are the same whatever the caller has set for the process: autocast, the default dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from myvlm.runtime.locks import OneAtATime

_LOCK = OneAtATime()


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Within it operations on that device, such as `cuda:1`, run in the type of what they are given."""
    import torch

    return torch.autocast(torch.device(device).type, enabled=False)


def encoder_dtype(device: str) -> Any:
    """The torch dtype of an image encoder: float32 on a CPU; on a GPU bfloat16, or float16 on an older one.

    >>> encoder_dtype("cpu")
    torch.float32
    """
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextmanager
def float32_default() -> Iterator[None]:
    """Within it weights are made in float32; for short work alone, since the default is that of all threads.

    >>> import torch
    >>> with float32_default():
    ...     torch.zeros(1).dtype
    torch.float32
    """
    import torch

    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
