"""The stages of an album on a Ray cluster: each in actors of its own, pictures handed on between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from myvlm.album.table.stages import Columns, Gate, Read, Speak, Stage, Work
from myvlm.errors import MyVLMError, import_extra

_log = logging.getLogger(__name__)

SHARE = 0.2
"""Of a core that an actor books. A worker's three come to little more than half of one: what a node that was
lost did finds room on the others."""


def check_ray() -> Any:
    """The package ray. Raises MissingPackageError where it is not installed."""
    import_extra("ray.data", what="An album on a cluster", install="myvlm[ray]")
    return import_extra("ray", what="An album on a cluster", install="myvlm[ray]")


def run_on_ray(paths: Sequence[str], known: frozenset[str], work: Work) -> Iterator[Columns]:
    """What all stages make of these files, in any order, by a worker a GPU, or a core where there is none.

    The cluster is that of `RAY_ADDRESS`, else one that is started here; its nodes must see the files under
    the same paths. Where more of it is lost than Ray makes good, what was not made yet is not given.

    Raises:
        MissingPackageError: ray is not installed.
        MyVLMError: of a stage, such as a concept that another process cannot load.
    """
    ray = check_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if work.device != "cpu" else 0
    workers = max(1, gpus or int(resources.get("CPU", 1)))
    blocks = min(max(1, ceil(len(paths) / work.batch)), 2000)
    stages: list[tuple[type[_Actor], tuple[Any, ...], float]] = [
        (_ReadActor, (known,), 0.0),
        (_GateActor, (work,), 0.4 if gpus else 0.0),
        (_SpeakActor, (work,), 0.4 if gpus else 0.0),
    ]
    album = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks)
    for actor, arguments, share in stages:
        album = album.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=work.batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=SHARE,
            num_gpus=share or None,
        )
    try:
        for table in album.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield table.to_pydict()
    except ray.exceptions.RayTaskError as error:
        raise _own(error) from error
    except ray.exceptions.RayError as error:
        _log.warning("a part of the cluster was lost: %s", type(error).__name__)


class _Actor:
    """A stage in a process of its own, which takes and gives tables of Arrow."""

    stage: Stage

    def __call__(self, table: Any) -> Any:
        import pyarrow

        kinds = {"pixels": pyarrow.large_binary(), "width": pyarrow.int64(), "height": pyarrow.int64()}
        made = self.stage(table.to_pydict())
        schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in made])
        return pyarrow.table(made, schema=schema)


class _ReadActor(_Actor):
    def __init__(self, known: frozenset[str]) -> None:
        self.stage = Read(known)


class _GateActor(_Actor):
    def __init__(self, work: Work) -> None:
        self.stage = Gate(work.library())


class _SpeakActor(_Actor):
    def __init__(self, work: Work) -> None:
        self.stage = Speak(work.model(), work.prompt)


def _own(error: BaseException) -> BaseException:
    """The error of ours that is the reason of one of Ray's; itself where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MyVLMError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
