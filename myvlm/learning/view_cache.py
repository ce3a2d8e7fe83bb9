"""Cache of the encoded views during learning, within a memory budget.

Every step needs the prefix (key/value cache) of each view that it draws. As many prefixes as the budget
allows stay on the model's device and the next ones in the host's pinned memory. For the rest only the visual
tokens are kept, and the prefix is recomputed at each use. The loss is the same in all three cases.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from myvlm.backbones.base import Backbone
from myvlm.errors import InputError

STEP_MARGIN = 1.1
"""Factor on the measured memory of one step: other batches have other texts."""
UNMEASURED_STEP_FACTOR = 32
"""If this many times the batch's prefixes are free, a step need not be measured first."""

_log = logging.getLogger(__name__)

PhotoViews = Sequence[Any]
"""A photo's views, as the backbone encoded them."""
StepProbe = Callable[[Sequence[Any], bool], object]
"""Runs one step, forward and backward, of the largest batch. Takes what `fetch` returns for the first view of
each sample, and whether these are prefixes."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that may be used on the model's device and, in addition, in host memory."""

    device: int
    host: int


def memory_budget(backbone: Backbone, budget: int | Literal["auto"]) -> MemoryBudget:
    """Return the bytes that a budget allows on this machine.

    "auto" is half of the device's free memory. On a GPU, half of the host's free memory may be used as well.
    """
    device = backbone.device
    host = free_memory(torch.device("cpu")) // 2 if device.type != "cpu" else 0
    return MemoryBudget(free_memory(device) // 2 if budget == "auto" else budget, host)


class ViewCache:
    """The views of all photos, each kept where there is room for it.

    Args:
        backbone: the backbone that encoded them.
        photos: each photo's encoded views; the caller should keep no reference.
        memory: how much memory may be used, the encoded views included.
        samples: the photo number of each sample in the largest batch.
        trial: runs a step with that batch; it is measured if memory might be short.
        batches: how many such batches to join in one, if the memory allows: one per concept.
        strict: whether it is an error if one step does not fit; else the step takes what it needs.

    Attributes:
        prefixed: whether `fetch` returns prefixes, for `tail_loss`; else it returns features, for
            `answer_loss`.
        on_device, on_host, recomputed: number of views kept on the device, kept in host memory, and
            recomputed at each use.
        at_once: how many batches may be joined in one.
        step_bytes: measured memory of one batch; 0 if it was not measured.

    Raises:
        InputError: `strict`, and one step does not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        photos: Sequence[PhotoViews],
        memory: MemoryBudget,
        *,
        samples: Sequence[int],
        trial: StepProbe,
        batches: int,
        strict: bool,
    ) -> None:
        self.backbone, self.photos = backbone, list(photos)
        self.on_device = self.on_host = self.recomputed = self.step_bytes = 0
        self.prefixed, self.at_once = True, batches
        self._on_device: dict[tuple[int, int], Any] = {}
        self._on_host: dict[tuple[int, int], Any] = {}
        made = {(photo, 0): self._compute(photo, 0) for photo in sorted(set(samples))}
        batch = [made[photo, 0] for photo in samples]
        batch_bytes, all_bytes = sum(map(nbytes, batch)), self._max_prefix_bytes(made)
        left = memory.device - self._feature_bytes()
        if strict or all_bytes + UNMEASURED_STEP_FACTOR * batch_bytes * batches > left:
            self.step_bytes = self._measured_bytes(trial, batch, made)
            left -= self.step_bytes * batches
            if all_bytes > left:
                left = self._fit_to_budget(
                    memory.device, batch_bytes + self.step_bytes, batches, strict=strict
                )
        del batch
        self._place_prefixes(made, left, memory.host)
        _log.debug(
            "views: %d on the device, %d on the host, %d recomputed",
            self.on_device,
            self.on_host,
            self.recomputed,
        )

    def fetch(self, photo: int, view: int) -> Any:
        """Return one view on the model's device, in the form that the loss takes."""
        if (photo, view) in self._on_device:
            return self._on_device[photo, view]
        if (photo, view) in self._on_host:
            return from_host(self._on_host[photo, view])
        return self._compute(photo, view)

    def _compute(self, photo: int, view: int) -> Any:
        feature = from_host(self.photos[photo][view])
        # Always one at a time: a batch would round differently.
        made = self.backbone.prefixes([feature]) if self.prefixed else None
        self.prefixed = made is not None
        return feature if made is None else made[0]

    def _feature_bytes(self) -> int:
        """Bytes on the device of the encoded views, from which prefixes are recomputed."""
        return sum(nbytes(view) for photo in self.photos for view in photo)

    def _max_prefix_bytes(self, made: dict[tuple[int, int], Any]) -> int:
        """Upper estimate of the bytes of all prefixes, from the size of some."""
        if not self.prefixed:
            return 0  # features are kept in any case
        token = max(nbytes(one) / len(self.photos[photo][view]) for (photo, view), one in made.items())
        lengths = [len(view) for photo in self.photos for view in photo]
        return int(token * max(lengths)) * len(lengths)

    def _measured_bytes(
        self, trial: StepProbe, batch: Sequence[Any], made: dict[tuple[int, int], Any]
    ) -> int:
        """The peak memory of a step, or of computing a prefix if that is more."""
        device = self.backbone.device.type
        with LiveBytes(device) as memory:
            trial(batch, self.prefixed)
        step: int = int(memory.peak * STEP_MARGIN)
        another = next((key for key in self._keys() if key not in made), None)
        if another is None or not self.prefixed:
            return step
        with LiveBytes(device) as memory:
            made[another] = self._compute(*another)
        return max(step, int(memory.peak))

    def _fit_to_budget(self, budget: int, step_bytes: int, batches: int, *, strict: bool) -> int:
        """Make room if not all prefixes fit on the device, and return the bytes left for them there.

        Encoded views move to host memory beside a GPU, and no more batches are joined than half the budget
        holds.

        Args:
            step_bytes: bytes of a batch, with a copy of each sample's prefix.
        """
        if self.backbone.device.type != "cpu":
            self.photos = [[to_host(view) for view in photo] for photo in self.photos]
        held = self._feature_bytes()
        self.at_once = min(batches, max(1, (budget // 2 - held) // step_bytes))
        needed = held + self.at_once * step_bytes
        if budget < needed and strict:
            raise InputError(
                "The memory budget is too small for one learning step.",
                got=f"{budget} bytes",
                expected=f"at least {needed} bytes for this model and these photos",
                fix='raise LearnSettings(budget=...), leave it at "auto", or learn from fewer photos',
            )
        if budget < needed:
            _log.info("one learning step needs %d bytes, more than the budget of %d", needed, budget)
        return budget - needed

    def _keys(self) -> list[tuple[int, int]]:
        """(photo, view) pairs: the first view of every photo, then the second of every photo, and so on."""
        most = max(map(len, self.photos))
        return [(p, v) for v in range(most) for p in range(len(self.photos)) if v < len(self.photos[p])]

    def _place_prefixes(self, made: dict[tuple[int, int], Any], device: int, host: int) -> None:
        """Keep one prefix after the other while there is room."""
        too_big: set[int] = set()
        for photo, view in self._keys():
            if not self.prefixed or photo in too_big:
                continue
            item = made.pop((photo, view), None)
            item = self._compute(photo, view) if item is None else item
            size = nbytes(item)
            if size <= device:
                device -= size
                self._on_device[photo, view] = item
            elif size <= host:
                host -= size
                self._on_host[photo, view] = to_host(item)
            else:
                too_big.add(photo)
        self.on_device, self.on_host = len(self._on_device), len(self._on_host)
        self.recomputed = len(self._keys()) - self.on_device - self.on_host if self.prefixed else 0
        if self.prefixed and not self.recomputed:
            self.photos = [[None] * len(photo) for photo in self.photos]  # never needed again


# ---------------------------------------------------------------- tensors in nested structures


@dataclass(frozen=True, eq=False)
class _HostTensor:
    """A tensor in host memory, and the device it came from."""

    tensor: Tensor
    device: torch.device


def to_host(kept: Any) -> Any:
    """Copy all tensors of a nested structure to host memory, pinned if that makes the way back faster.

    Args:
        kept: a tensor, or lists, tuples, dicts and dataclasses of tensors.
    """

    def move(tensor: Tensor) -> _HostTensor:
        pinned = tensor.device.type == "cuda"
        beside = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        return _HostTensor(beside.copy_(tensor), tensor.device)

    return _map_nested(kept, Tensor, move)


def from_host(kept: Any) -> Any:
    """Return what `to_host` was given, on the device it was on; anything else unchanged."""
    return _map_nested(kept, _HostTensor, lambda away: away.tensor.to(away.device, non_blocking=True))


def nbytes(kept: Any) -> int:
    """Return the bytes of all tensors in a nested structure that are not put away.

    >>> nbytes({"keys": [torch.zeros(2, 3)], "ids": [1, 2]})
    24
    """
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    _map_nested(kept, Tensor, count)
    return sum(sizes)


def _map_nested(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A nested structure, rebuilt with `change` applied to every `kind` in it; anything else in it is the
    same object."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, _HostTensor):
        return value
    if isinstance(value, dict):
        return {key: _map_nested(part, kind, change) for key, part in value.items()}
    if type(value) in (list, tuple):
        if not value or isinstance(value[0], int | float | str):  # token ids: thousands, and never tensors
            return value
        return type(value)(_map_nested(part, kind, change) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{n: _map_nested(p, kind, change) for n, p in parts.items()})
    return value


# ---------------------------------------------------------------- free and used memory


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager that counts the bytes of tensors created within it and still alive, on one kind of
    device.

    Unlike an allocator's own statistics it works on every device, and resets no counter that others use.

    Attributes:
        now: bytes created within it and still alive.
        peak: the largest value of `now` so far.

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
        # A view or an in-place change of an earlier tensor takes no new memory.
        if key in self._alive or key in known or not size:
            return

        def release(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, release)
        self.now += size
        self.peak = max(self.peak, self.now)


def free_memory(device: torch.device) -> int:
    """Return the bytes available on a device.

    On a GPU this includes memory that torch has reserved but does not use, on the host the file cache, which
    the system gives up on demand.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)
