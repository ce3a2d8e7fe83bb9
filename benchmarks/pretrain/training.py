"""Shared parts of the pre-trainings: schedule, optimizers, mixed precision, resumable checkpoints."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Result of a training step: its number (from 1), its losses, and the state for a checkpoint."""

    number: int
    losses: dict[str, float]
    model: nn.Module
    helper: nn.Module
    optimisers: Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Schedule:
    """Length, batch size and learning rate of a training.

    Attributes:
        checkpoint: file to resume from, if it exists.
        drawn: number of batches that earlier trainings drew from the same seed and corpus, and which are
            skipped.
        workers: processes that draw batches (0: this process); the batches do not depend on their number.
        seconds: time from now after which training ends, cooled down as after its last step.
    """

    steps: int
    batch: int
    rate: float
    checkpoint: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    warmup: int = 100
    cooling: float = 0.4
    compile: bool = False
    drawn: int = 0
    workers: int = 0
    seconds: float = math.inf
    begun: float = field(default_factory=time.monotonic)

    def batches(self, draw: Callable[[int], T], start: int) -> Iterator[tuple[int, T]]:
        """Yield the step numbers from `start` with the results of `draw`, which is called some steps ahead.

        >>> list(Schedule(3, 8, 1e-3, Path("none.pt"), drawn=10).batches(lambda number: number, 1))
        [(1, 11), (2, 12)]
        """
        numbers = range(start, self.steps)
        loader = DataLoader(
            _Drawn(draw, [self.drawn + number for number in numbers]),
            batch_size=None, collate_fn=_as_it_is, num_workers=self.workers,
            prefetch_factor=4 if self.workers else None, generator=torch.Generator(),
            multiprocessing_context="fork" if self.workers else None,
        )  # fmt: skip
        for number, drawn in zip(numbers, loader, strict=True):
            if not self.left(number):
                break
            yield number, drawn

    def left(self, number: int) -> float:
        """The remaining fraction of the training, by steps or by time, whichever is less.

        >>> [Schedule(4, 8, 1e-3, Path("none.pt"), seconds=clock).left(1) for clock in (math.inf, 0)]
        [0.75, 0.0]
        """
        by_clock = 1 - (time.monotonic() - self.begun) / self.seconds if self.seconds else 0.0
        return max(0.0, min((self.steps - number) / self.steps, by_clock))

    def factor(self, number: int) -> float:
        """Learning rate factor: linear warm-up, constant, then linear to zero over the last fraction
        `cooling`."""
        return min(1.0, (number + 1) / self.warmup, self.left(number) / self.cooling)

    @contextmanager
    def fast(self) -> Iterator[None]:
        """Use bfloat16 where the device supports it and, on a CPU, attention as plain matrix products.

        The backward pass of the CPU's fused bfloat16 attention takes six times as long.
        """
        if not fast_in_bfloat16(self.device):
            yield
            return
        fused = functional.scaled_dot_product_attention
        if self.device.type == "cpu":
            functional.scaled_dot_product_attention = plain_attention  # type: ignore[assignment]
        try:
            with torch.autocast(self.device.type, torch.bfloat16):
                yield
        finally:
            functional.scaled_dot_product_attention = fused

    def update(self, loss: Tensor, optimisers: Sequence[torch.optim.Optimizer], number: int) -> None:
        """One step of every optimizer at the scheduled rate."""
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss of step {number} is {loss.item()}")
        torch.autograd.backward(loss)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * self.factor(number)
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimiser.step()
            optimiser.zero_grad()

    def resume(self, model: nn.Module, helper: nn.Module, *optimisers: torch.optim.Optimizer) -> int:
        """Load the checkpoint, if any, and return its number of completed steps."""
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        model.load_state_dict(state["model"])
        helper.load_state_dict(state["helper"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return int(state["number"])

    def save(self, step: Step) -> None:
        """Write the checkpoint to a temporary file and rename it into place."""
        state = {
            "number": step.number, "model": step.model.state_dict(), "helper": step.helper.state_dict(),
            "optimisers": [o.state_dict() for o in step.optimisers],
        }  # fmt: skip
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)


@dataclass(frozen=True)
class _Drawn(Dataset[T], Generic[T]):
    draw: Callable[[int], T]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> T:
        return self.draw(self.numbers[index])


def _as_it_is(drawn: T) -> T:
    return drawn


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; a CPU without them is ten times slower with it."""
    return bool(
        device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def orthogonalised(
    gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix by Newton-Schulz iteration, in float32."""
    a, b, c = coefficients
    tall = gradient.shape[0] > gradient.shape[1]
    matrix = gradient.float().T if tall else gradient.float()
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        square = matrix @ matrix.T
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    found: Tensor = matrix.T if tall else matrix
    return found


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """`scaled_dot_product_attention` without dropout, as two matrix products and a softmax."""
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -1e4) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1, dtype=scores.dtype) @ value


def make_optimisers(
    modules: Sequence[tuple[nn.Module, float]], schedule: Schedule
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of transformer layers, AdamW for everything else (arXiv 2502.16982).

    Each module comes with its relative learning rate.
    """
    if not fast_in_bfloat16(schedule.device):
        # torch's Muon always multiplies in bfloat16, which takes seven tenths of a step on such a CPU.
        torch.optim._muon._zeropower_via_newtonschulz = orthogonalised  # type: ignore[assignment]
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for module, factor in modules:
        inside = re.compile(r"\b(layer|layers|resblocks)\.\d")
        chosen = {n: p for n, p in module.named_parameters() if p.ndim == 2 and inside.search(n)}
        rest = [p for n, p in module.named_parameters() if n not in chosen]
        base = schedule.rate * factor
        matrices.append({"params": list(chosen.values()), "lr": base, "base": base})
        others.append({"params": rest, "lr": base, "base": base})
    matrices = [group for group in matrices if group["params"]]
    return [
        torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
