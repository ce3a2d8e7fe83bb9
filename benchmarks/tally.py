"""Helpers of the concept benchmarks: outcomes by figure and seed, and parallel runs in processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from transformers.utils import logging

from myvlm import MyVLM

Run = TypeVar("Run")
Outcome = TypeVar("Outcome")


@dataclass
class Tally:
    """Outcomes by figure and seed; `rate` is the mean over all, `spread` is over seeds."""

    outcomes: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def add(self, figure: str, seed: int, values: Iterable[float]) -> None:
        self.outcomes.setdefault(figure, {}).setdefault(seed, []).extend(float(v) for v in values)

    @classmethod
    def read(cls, kept: dict[str, dict[str, list[float]]]) -> Tally:
        return cls({f: {int(s): v for s, v in by_seed.items()} for f, by_seed in kept.items()})

    def join(self, other: Tally) -> None:
        for figure, by_seed in other.outcomes.items():
            for seed, values in by_seed.items():
                self.add(figure, seed, values)

    def rate(self, figure: str) -> float:
        return statistics.fmean(v for values in self.outcomes[figure].values() for v in values)

    def spread(self, figure: str) -> float:
        """Standard deviation of the rate over seeds."""
        rates = [statistics.fmean(values) for values in self.outcomes[figure].values() if values]
        return statistics.stdev(rates) if len(rates) > 1 else 0.0

    def show(self, figure: str) -> str:
        return f"{self.rate(figure):.3f} ±{self.spread(figure):.3f}"


LOADED: dict[str, MyVLM] = {}


def begin(backbone: str | None, dtype: str | None = None) -> None:
    """Initialize a process."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    if backbone is not None:
        LOADED["vlm"] = MyVLM.from_pretrained(backbone, dtype=dtype)


def in_processes(
    measure: Callable[[Run], Outcome], runs: Sequence[Run], what: str, *,
    workers: int, backbone: str | None = None, dtype: str | None = None,
) -> Iterator[tuple[Run, Outcome]]:  # fmt: skip
    """Yield each run with its outcome, in order, as soon as it is done; shows progress on stderr.

    Each process uses one thread and has the backbone, if one is given, in `LOADED`, by default in float32.
    With one worker, runs are done in this process.
    """
    if workers == 1:
        if runs:
            begin(backbone, dtype)
        yield from track(((run, measure(run)) for run in runs), what, len(runs), console=Console(stderr=True))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), begin, (backbone, dtype)) as pool:
        made = zip(runs, pool.map(measure, runs), strict=True)
        yield from track(made, what, len(runs), console=Console(stderr=True))
