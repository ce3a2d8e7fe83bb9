"""All jobs of a plan, one after the other or in several processes, each kept as it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

from myvlm.api import MyVLM
from myvlm.evaluation.data.dataset import Dataset
from myvlm.evaluation.data.outcome import JobOutcome
from myvlm.evaluation.data.plan import Job, Plan, jobs_of
from myvlm.evaluation.data.splits import check_photos
from myvlm.evaluation.protocol.bench import Bench
from myvlm.evaluation.protocol.job import run_job
from myvlm.evaluation.protocol.journal import JobJournal

Finished: TypeAlias = tuple[Job, JobOutcome]


@dataclass(frozen=True)
class Opening:
    """How a process of its own opens the model; a call opens it."""

    backbone: str
    device: str | None = None
    dtype: str | None = None

    def __call__(self) -> MyVLM:
        return MyVLM.from_pretrained(self.backbone, device=self.device, dtype=self.dtype)


def check(dataset: Dataset, plan: Plan, *, keep: Path, backbone: str) -> JobJournal:
    """The journal of an evaluation, and all that can be wrong with it before a model is loaded.

    Raises:
        InputError: a subject has too few photos, or `keep` holds another evaluation.
    """
    check_photos(dataset, plan)
    return JobJournal(keep, dataset, plan, backbone)


def run(
    dataset: Dataset,
    plan: Plan,
    opening: Callable[[], MyVLM],
    *,
    keep: Path,
    backbone: str,
    workers: int = 1,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finished]:
    """Run what is not yet done, and hand out all jobs of the plan with their outcomes, in the plan's order.

    Args:
        dataset: what is measured on.
        plan: what is run.
        opening: opens the frozen model, once a process; an `Opening` where there are several.
        keep: folder of the journal: a run that was killed goes on from it.
        backbone: the model's name.
        workers: processes; with several each runs one thread, and what is kept is kept a subject's split at
            a time, whose jobs share what was learned.
        told: is called with the jobs that are done and all jobs, at the start and after each.

    Raises:
        InputError: as `check`, or a method cannot be had.
    """
    journal = check(dataset, plan, keep=keep, backbone=backbone)
    jobs = list(jobs_of(plan, dataset))
    todo = [job for job in jobs if job.key not in journal.done]
    told(len(jobs) - len(todo), len(jobs))
    lots = [list(lot) for _, lot in groupby(todo, key=lambda job: job.lot)]
    parts = (opening, dataset, plan, journal.pictures)
    finished = _here(todo, parts) if workers == 1 or len(lots) < 2 else _in_processes(lots, workers, parts)
    for job, outcome in finished:
        journal.add(job, outcome)
        told(sum(one.key in journal.done for one in jobs), len(jobs))
    return [journal.done[job.key] for job in jobs]


Parts: TypeAlias = tuple[Callable[[], MyVLM], Dataset, Plan, Path]
_BENCHES: list[Bench] = []


def _here(todo: Sequence[Job], parts: Parts) -> Iterator[Finished]:
    if not todo:
        return  # nothing to open a model for
    opening, dataset, plan, pictures = parts
    bench = Bench(opening(), dataset, plan, pictures)
    for job in todo:
        yield job, run_job(bench, job)


def _in_processes(lots: Sequence[list[Job]], workers: int, parts: Parts) -> Iterator[Finished]:
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, parts) as pool:
        waiting = [pool.submit(_run_lot, lot) for lot in lots]
        try:
            for lot in as_completed(waiting):
                yield from lot.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(opening: Callable[[], MyVLM], dataset: Dataset, plan: Plan, pictures: Path) -> None:
    """What every process does first."""
    import torch

    torch.set_num_threads(1)
    _BENCHES[:] = [Bench(opening(), dataset, plan, pictures)]


def _run_lot(lot: list[Job]) -> list[Finished]:
    return [(job, run_job(_BENCHES[0], job)) for job in lot]
