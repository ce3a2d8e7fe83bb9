"""Where the views of the photos are kept while a concept is learned, inside a budget of memory.

A view's prefix cache is wanted at every step that draws it. As many as the budget allows stay on the model's
device, the next ones in the host's pinned memory, and of the rest only the visual tokens, from which the
prefix is computed again at each use. The loss is the same in all three cases.
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

SPARE = 1.1
"""Over what one step was measured to take: another draw has other words."""
SURELY_ENOUGH = 32
"""Times the caches of a batch: with so much free memory, a step need not be measured first."""

_log = logging.getLogger(__name__)

Photo = Sequence[Any]
"""A photo's views, each as the backbone encoded it."""
StepProbe = Callable[[Sequence[Any], bool], object]
"""One step, forward and backward, of the largest batch: from what `fetch` gives of the first views of its
samples, and whether these are prefixes."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that may be taken on the model's device and, beside it, in the host's memory."""

    device: int
    host: int


def memory_budget(backbone: Backbone, budget: int | Literal["auto"]) -> MemoryBudget:
    """What a budget allows on this machine.

    "auto" is half of the device's free memory. Beside a GPU half of the host's free memory may be taken too,
    beside a CPU nothing.
    """
    device = backbone.device
    host = free_memory(torch.device("cpu")) // 2 if device.type != "cpu" else 0
    return MemoryBudget(free_memory(device) // 2 if budget == "auto" else budget, host)


class ViewCache:
    """The views of all photos, each where there was room for it.

    Args:
        backbone: what encoded them.
        photos: each photo's views; the caller should keep no reference.
        memory: how much memory may be taken, the encoded views included.
        samples: the photos of the largest batch, by number, one entry a sample.
        trial: a step with that batch, measured where the memory might not do.
        batches: how many such batches would be one, if the memory allows: one a concept.
        strict: whether too little room is an error; else a step takes what it needs.

    Attributes:
        prefixed: whether what is fetched is for `tail_loss`; else it is for `answer_loss`.
        on_device, on_host, recomputed: how many views are on the device, in the host's memory, and made
            again at each use.
        at_once: how many batches may be one.
        step_bytes: what one batch was measured to take; 0 where there was no need to.

    Raises:
        InputError: `strict`, and not even one step fits.
    """

    def __init__(
        self,
        backbone: Backbone,
        photos: Sequence[Photo],
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
        made = {(photo, 0): self._make(photo, 0) for photo in sorted(set(samples))}
        batch = [made[photo, 0] for photo in samples]
        staged, whole = sum(map(nbytes, batch)), self._at_most(made)
        left = memory.device - self._held()
        if strict or whole + SURELY_ENOUGH * staged * batches > left:
            self.step_bytes = self._measured(trial, batch, made)
            left -= self.step_bytes * batches
            if whole > left:
                left = self._share_out(memory.device, staged + self.step_bytes, batches, strict=strict)
        del batch
        self._place(made, left, memory.host)
        _log.debug(
            "views: %d on the device, %d beside it, %d made again",
            self.on_device,
            self.on_host,
            self.recomputed,
        )

    def fetch(self, photo: int, view: int) -> Any:
        """What the loss takes of one view, on the model's device."""
        if (photo, view) in self._on_device:
            return self._on_device[photo, view]
        if (photo, view) in self._on_host:
            return restored(self._on_host[photo, view])
        return self._make(photo, view)

    def _make(self, photo: int, view: int) -> Any:
        feature = restored(self.photos[photo][view])
        # One at a time, always: a batch would round differently.
        made = self.backbone.prefixes([feature]) if self.prefixed else None
        self.prefixed = made is not None
        return feature if made is None else made[0]

    def _held(self) -> int:
        """Bytes of the encoded views on the device; a prefix is made again from them."""
        return sum(nbytes(view) for photo in self.photos for view in photo)

    def _at_most(self, made: dict[tuple[int, int], Any]) -> int:
        """Bytes of all that would be kept, if it could be, from the size of some; rather too many."""
        if not self.prefixed:
            return 0  # the features are held in any case
        token = max(nbytes(one) / len(self.photos[photo][view]) for (photo, view), one in made.items())
        lengths = [len(view) for photo in self.photos for view in photo]
        return int(token * max(lengths)) * len(lengths)

    def _measured(self, trial: StepProbe, batch: Sequence[Any], made: dict[tuple[int, int], Any]) -> int:
        """The most that a step takes, or that making a prefix does."""
        device = self.backbone.device.type
        with LiveBytes(device) as memory:
            trial(batch, self.prefixed)
        step: int = int(memory.peak * SPARE)
        another = next((key for key in self._keys() if key not in made), None)
        if another is None or not self.prefixed:
            return step
        with LiveBytes(device) as memory:
            made[another] = self._make(*another)
        return max(step, int(memory.peak))

    def _share_out(self, budget: int, one: int, batches: int, *, strict: bool) -> int:
        """What is left for caches beside the steps, where not all can stay on the device.

        Args:
            one: bytes of a batch, with a copy of what each of its samples needs.
        """
        if self.backbone.device.type != "cpu":
            self.photos = [[put_away(view) for view in photo] for photo in self.photos]
        held = self._held()
        self.at_once = min(batches, max(1, (budget // 2 - held) // one))
        needed = held + self.at_once * one
        if budget < needed and strict:
            raise InputError(
                "The memory budget does not hold one learning step.",
                got=f"{budget} bytes",
                expected=f"at least {needed} bytes for this model and these photos",
                fix='raise LearnSettings(budget=...), leave it at "auto", or learn from fewer photos',
            )
        if budget < needed:
            _log.info("one learning step takes %d bytes, more than the budget of %d", needed, budget)
        return budget - needed

    def _keys(self) -> list[tuple[int, int]]:
        """The first view of every photo, then the second of every photo, and so on."""
        most = max(map(len, self.photos))
        return [(p, v) for v in range(most) for p in range(len(self.photos)) if v < len(self.photos[p])]

    def _place(self, made: dict[tuple[int, int], Any], device: int, host: int) -> None:
        """Keep one view after the other while there is room."""
        too_big: set[int] = set()
        for photo, view in self._keys():
            if not self.prefixed or photo in too_big:
                continue
            item = made.pop((photo, view), None)
            item = self._make(photo, view) if item is None else item
            size = nbytes(item)
            if size <= device:
                device -= size
                self._on_device[photo, view] = item
            elif size <= host:
                host -= size
                self._on_host[photo, view] = put_away(item)
            else:
                too_big.add(photo)
        self.on_device, self.on_host = len(self._on_device), len(self._on_host)
        self.recomputed = len(self._keys()) - self.on_device - self.on_host if self.prefixed else 0
        if self.prefixed and not self.recomputed:
            self.photos = [[None] * len(photo) for photo in self.photos]  # never wanted again


# ---------------------------------------------------------------- what is kept, whatever its form


@dataclass(frozen=True, eq=False)
class _Away:
    """A tensor in the host's memory, and the device it came from."""

    tensor: Tensor
    device: torch.device


def put_away(kept: Any) -> Any:
    """A copy in the host's memory of all tensors in it, pinned where that makes the way back faster.

    Args:
        kept: a tensor, or lists, tuples, dicts and dataclasses of such.
    """

    def move(tensor: Tensor) -> _Away:
        pinned = tensor.device.type == "cuda"
        beside = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        return _Away(beside.copy_(tensor), tensor.device)

    return _mapped(kept, Tensor, move)


def restored(kept: Any) -> Any:
    """What `put_away` was given, on the device it was on; anything else as it is."""
    return _mapped(kept, _Away, lambda away: away.tensor.to(away.device, non_blocking=True))


def nbytes(kept: Any) -> int:
    """Bytes of all tensors in it that are not put away.

    >>> nbytes({"keys": [torch.zeros(2, 3)], "ids": [1, 2]})
    24
    """
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    _mapped(kept, Tensor, count)
    return sum(sizes)


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same structure with every `kind` in it changed; the very same object where there is none."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, _Away):
        return value
    if isinstance(value, dict):
        return {key: _mapped(part, kind, change) for key, part in value.items()}
    if type(value) in (list, tuple):
        if not value or isinstance(value[0], int | float | str):  # ids: thousands, and never tensors
            return value
        return type(value)(_mapped(part, kind, change) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{n: _mapped(p, kind, change) for n, p in parts.items()})
    return value


# ---------------------------------------------------------------- how much memory there is, and a step takes


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
