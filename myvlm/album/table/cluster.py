"""Run the stages of an album's table on a Ray cluster, which passes pictures between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from myvlm.album.table.stages import Read, Recognise, Speak, Work
from myvlm.runtime.cluster import Columns, Stage, run_stages

PIXELS = {"pixels": "large_binary", "width": "int64", "height": "int64"}


def run_on_ray(paths: Sequence[str], known: frozenset[str], work: Work) -> Iterator[Columns]:
    """Run all stages on these files and yield columns, in any order.

    All nodes must see the files under the same paths.

    Raises: as `run_stages`.
    """
    stages = [
        Stage(Read, (known,), on_gpu=False, kinds=PIXELS),
        Stage(_make_recogniser, (work,), kinds=PIXELS),
        Stage(_make_speaker, (work,), kinds=PIXELS),
    ]
    rows = [{"path": path} for path in paths]
    return run_stages(rows, stages, batch=work.batch, use_gpus=work.device != "cpu")


def _make_recogniser(work: Work) -> Recognise:
    return Recognise(work.library())


def _make_speaker(work: Work) -> Speak:
    return Speak(work.model(), work.prompt)
