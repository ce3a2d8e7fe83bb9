"""How much memory there is, and how much a piece of work takes."""

from __future__ import annotations

import weakref
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, counts the bytes of the tensors that are made and not yet gone, on one kind of device.

    Unlike an allocator's own figures it is there on every device, and nobody's figures are reset by it.

    Attributes:
        now: bytes made within it and still alive.
        peak: the most that were alive at once.

    >>> with LiveBytes("cpu") as memory:
    ...     kept = torch.zeros(1000)
    ...     gone = kept + 1
    ...     del gone
    >>> memory.now, memory.peak
    (4000, 8000)
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now: int = 0
        self.peak: int = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {id(leaf.untyped_storage()) for leaf in given}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._count(leaf.untyped_storage(), known)
        return result

    def _count(self, storage: Any, known: set[int]) -> None:
        key, size = id(storage), storage.nbytes()
        # What only shows or changes a tensor from before is no new memory.
        if key in self._alive or key in known or not size:
            return

        def gone(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device.

    On a GPU what torch holds and does not use counts too; on the host the cache of files, which makes way.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)
