"""Run the jobs of a plan, in this process or in several, and write each to the journal as it finishes."""

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
class ModelLoader:
    """Picklable function that loads the model, for worker processes."""

    backbone: str
    device: str | None = None
    dtype: str | None = None

    def __call__(self) -> MyVLM:
        return MyVLM.from_pretrained(self.backbone, device=self.device, dtype=self.dtype)


def check(dataset: Dataset, plan: Plan, *, keep: Path, backbone: str) -> JobJournal:
    """Check all that can be checked before a model is loaded, and open the journal.

    Raises:
        InputError: a subject has too few photos, or `keep` holds another evaluation.
    """
    check_photos(dataset, plan)
    return JobJournal(keep, dataset, plan, backbone)


def run(
    dataset: Dataset,
    plan: Plan,
    load_model: Callable[[], MyVLM],
    *,
    keep: Path,
    backbone: str,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finished]:
    """Run the unfinished jobs of a plan, and return all jobs with their outcomes in the plan's order.

    Args:
        dataset: the data set to evaluate on.
        plan: the plan to run.
        load_model: loads the frozen model, once per process; with several workers it must be picklable, such
            as a `ModelLoader`.
        keep: folder of the journal; a killed run resumes from it.
        backbone: the model's name.
        workers: number of processes. With several, each uses one thread, and jobs are written together for
            each split of a subject, whose jobs share learned concepts.
        on_progress: called with the number of finished jobs and of all jobs, at the start and after each job.

    Raises:
        InputError: as `check`, or a method does not work with this model or installation.
    """
    journal = check(dataset, plan, keep=keep, backbone=backbone)
    jobs = list(jobs_of(plan, dataset))
    todo = [job for job in jobs if job.key not in journal.done]
    on_progress(len(jobs) - len(todo), len(jobs))
    groups = [list(group) for _, group in groupby(todo, key=lambda job: job.group)]
    arguments = (load_model, dataset, plan, journal.pictures)
    finished = (
        _run_here(todo, arguments)
        if workers == 1 or len(groups) < 2
        else _run_in_processes(groups, workers, arguments)
    )
    for job, outcome in finished:
        journal.add(job, outcome)
        on_progress(sum(one.key in journal.done for one in jobs), len(jobs))
    return [journal.done[job.key] for job in jobs]


WorkerArguments: TypeAlias = tuple[Callable[[], MyVLM], Dataset, Plan, Path]
_WORKER_BENCH: list[Bench] = []


def _run_here(todo: Sequence[Job], arguments: WorkerArguments) -> Iterator[Finished]:
    if not todo:
        return  # do not load the model for nothing
    load_model, dataset, plan, pictures = arguments
    bench = Bench(load_model(), dataset, plan, pictures)
    for job in todo:
        yield job, run_job(bench, job)


def _run_in_processes(
    groups: Sequence[list[Job]], workers: int, arguments: WorkerArguments
) -> Iterator[Finished]:
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, arguments) as pool:
        waiting = [pool.submit(_run_group, group) for group in groups]
        try:
            for group in as_completed(waiting):
                yield from group.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(load_model: Callable[[], MyVLM], dataset: Dataset, plan: Plan, pictures: Path) -> None:
    """Initialize a worker process."""
    import torch

    torch.set_num_threads(1)
    _WORKER_BENCH[:] = [Bench(load_model(), dataset, plan, pictures)]


def _run_group(group: list[Job]) -> list[Finished]:
    return [(job, run_job(_WORKER_BENCH[0], job)) for job in group]
