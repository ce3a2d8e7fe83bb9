"""Running stages of work over rows on a Ray cluster, with separate processes per stage; nodes may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, TypeAlias

from myvlm.errors import MyVLMError, import_extra

_log = logging.getLogger(__name__)

Columns: TypeAlias = dict[str, list[Any]]
"""Rows as columns of plain texts, numbers and bytes."""

CPU_SHARE = 0.2
"""Fraction of a CPU core that a process reserves: small, so that other nodes have room for a lost node's."""
GPU_SHARE = 0.8
"""Fraction of a GPU that all stages of a worker reserve together, for the same reason."""
MOST_BLOCKS = 2000
"""Maximum number of blocks into which the rows are split."""


@dataclass(frozen=True)
class Stage:
    """One step of the work.

    Args:
        make: called once in each process with `arguments`; returns a function from columns to columns.
        arguments: plain values, which are sent to the processes.
        on_gpu: whether the stage runs on a GPU if there is one.
        kinds: Arrow types of the columns that are not text, such as `{"width": "int64"}`.
    """

    make: Callable[..., Callable[[Columns], Columns]]
    arguments: tuple[Any, ...] = ()
    on_gpu: bool = True
    kinds: Mapping[str, str] = field(default_factory=dict)


def check_ray(what: str) -> Any:
    """Import ray. Raises MissingPackageError if it is not installed; `what` is the feature that needs it."""
    import_extra("ray.data", what=what, install="myvlm[ray]")
    return import_extra("ray", what=what, install="myvlm[ray]")


def run_stages(
    rows: Sequence[Mapping[str, Any]],
    stages: Sequence[Stage],
    *,
    batch: int,
    use_gpus: bool = True,
    per_gpu: int = 1,
) -> Iterator[Columns]:
    """Run rows through the stages and yield the results, in any order.

    Each stage gets `per_gpu` processes per GPU, or one per core if there is no GPU. The cluster is that of
    `RAY_ADDRESS`, or else a local one, which is started here. If more of the cluster is lost than Ray can
    recover, the remaining results are missing.

    Args:
        batch: number of rows that a stage processes together.
        use_gpus: false if no stage uses a GPU.
        per_gpu: number of processes that share a GPU.

    Raises:
        MissingPackageError: ray is not installed.
        MyVLMError: an error of this library that a stage raised.
    """
    ray = check_ray("Work on a cluster")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # otherwise it logs its execution plans
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if use_gpus else 0
    workers = max(1, min(gpus * per_gpu or int(there.get("CPU", 1)), ceil(len(rows) / batch)))
    share = GPU_SHARE / (per_gpu * max(1, sum(stage.on_gpu for stage in stages)))
    blocks = max(1, min(ceil(len(rows) / batch), MOST_BLOCKS))
    data = ray.data.from_items([dict(row) for row in rows], override_num_blocks=blocks)
    for stage in stages:
        data = data.map_batches(
            _StageWorker,
            fn_constructor_args=(stage,),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=CPU_SHARE,
            num_gpus=share if gpus and stage.on_gpu else None,
        )
    try:
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield table.to_pydict()
    except ray.exceptions.RayTaskError as error:
        raise _underlying_error(error) from error
    except ray.exceptions.RayError as error:
        _log.warning("part of the cluster was lost: %s", type(error).__name__)


class _StageWorker:
    """Runs a stage in a Ray process, from Arrow tables to Arrow tables."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.work = stage, stage.make(*stage.arguments)

    def __call__(self, table: Any) -> Any:
        import pyarrow

        made, kinds = self.work(table.to_pydict()), self.stage.kinds
        types = [(name, pyarrow.type_for_alias(kinds.get(name, "string"))) for name in made]
        return pyarrow.table(made, schema=pyarrow.schema(types))


def _underlying_error(error: BaseException) -> BaseException:
    """The `MyVLMError` that caused an error of Ray, or that error itself if there is none."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, MyVLMError):
            return reason
        reason = getattr(reason, "cause", None) or reason.__cause__
    return error
