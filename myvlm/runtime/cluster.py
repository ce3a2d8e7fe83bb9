"""A Ray cluster: rows go through stages, each in processes of its own, and nodes may be lost meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, TypeAlias

from myvlm.errors import MyVLMError, import_extra

_log = logging.getLogger(__name__)

Columns: TypeAlias = dict[str, list[Any]]
"""Rows by their columns: plain texts, numbers and bytes."""

CORE = 0.2
"""The part of a core that a process books, so that those of a lost node find room on the others."""
GPU = 0.8
"""The part of a GPU that all stages of a worker book together, for the same reason."""
MOST_BLOCKS = 2000
"""In which rows are handed out."""


@dataclass(frozen=True)
class Stage:
    """One step of the work.

    Args:
        make: called once in each process, with the arguments; gives what makes columns of columns.
        arguments: plain values, which are sent there.
        on_gpu: whether it runs on a GPU where there is one.
        kinds: Arrow's types of columns that hold no text, such as `{"width": "int64"}`.
    """

    make: Callable[..., Callable[[Columns], Columns]]
    arguments: tuple[Any, ...] = ()
    on_gpu: bool = True
    kinds: Mapping[str, str] = field(default_factory=dict)


def check_ray(what: str) -> Any:
    """The package ray. Raises MissingPackageError where it is not installed: `what` needs it."""
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
    """What the stages make of the rows, in any order.

    There are as many processes of each stage as GPUs, or cores where there is no GPU. The cluster is that of
    `RAY_ADDRESS`, else one that is started here. Where more of it is lost than Ray makes good, the rest is
    not given.

    Args:
        batch: rows that a stage works on together.
        use_gpus: false where the stages run on cores in any case.
        per_gpu: processes that share one.

    Raises:
        MissingPackageError: ray is not installed.
        MyVLMError: of a stage.
    """
    ray = check_ray("Work on a cluster")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # it tells of its plans
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if use_gpus else 0
    workers = max(1, min(gpus * per_gpu or int(there.get("CPU", 1)), ceil(len(rows) / batch)))
    share = GPU / (per_gpu * max(1, sum(stage.on_gpu for stage in stages)))
    blocks = max(1, min(ceil(len(rows) / batch), MOST_BLOCKS))
    data = ray.data.from_items([dict(row) for row in rows], override_num_blocks=blocks)
    for stage in stages:
        data = data.map_batches(
            _Process,
            fn_constructor_args=(stage,),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=CORE,
            num_gpus=share if gpus and stage.on_gpu else None,
        )
    try:
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield table.to_pydict()
    except ray.exceptions.RayTaskError as error:
        raise _own(error) from error
    except ray.exceptions.RayError as error:
        _log.warning("a part of the cluster was lost: %s", type(error).__name__)


class _Process:
    """A stage in a process of its own, which takes and gives tables of Arrow."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.work = stage, stage.make(*stage.arguments)

    def __call__(self, table: Any) -> Any:
        import pyarrow

        made, kinds = self.work(table.to_pydict()), self.stage.kinds
        types = [(name, pyarrow.type_for_alias(kinds.get(name, "string"))) for name in made]
        return pyarrow.table(made, schema=pyarrow.schema(types))


def _own(error: BaseException) -> BaseException:
    """The error of ours that is the reason of one of Ray's; itself where there is none."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, MyVLMError):
            return reason
        reason = getattr(reason, "cause", None) or reason.__cause__
    return error
