"""Album table made by one process and by a Ray cluster of two one-core nodes, one of which is then killed.

    PYTHONPATH=. python benchmarks/album_ray.py [--photos 120]    # in an environment with myvlm[ray]

Uses pictures of tinyworld and the two concepts that ship with it, an object and a person. `album_ratio` is
the photos per second of the cluster over those of this process with one thread, each from the first row to
the last, without startup; `album_ratio_with_start` is for the whole calls; `album_ratio_by_cpu` is the ratio
that two idle cores could reach, from the CPU seconds per photo of both. `album_same` is the share of equal
rows. In a second run a node is killed after a third of the rows: `album_lost` counts photos without a row in
the table, `album_twice` those with two rows, and `album_given_twice` those that the cluster returned twice.
`load` is the machine's load before and after. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from pyarrow import parquet
from rich.console import Console
from served.load import KINDS, MODEL, shown

from myvlm import ConceptLibrary, MyVLM
from myvlm.album.table.cluster import run_on_ray
from myvlm.album.table.reading import Run, read_table, run_here
from myvlm.album.table.rows import AlbumTable, PhotoRow, ReadBy
from myvlm.album.table.stages import Work
from myvlm.runtime.cluster import Columns
from tests.support.ray_cluster import Nodes, nodes

console = Console(stderr=True)
BATCH = 4


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--photos", type=int, default=120)
    photos = options.parse_args().photos
    torch.set_num_threads(1)
    load = [round(os.getloadavg()[0], 1)]
    with tempfile.TemporaryDirectory() as place:
        figures = measure(Path(place), photos)
    load.append(round(os.getloadavg()[0], 1))
    print(json.dumps({**figures, "album_photos": photos, "load": load, "cores": os.cpu_count()}))


def measure(place: Path, photos: int) -> dict[str, Any]:
    """All figures for an album of `photos` photos in the folder `place`."""
    (place / "album").mkdir()
    paths = [str(place / "album" / f"{number:04}.png") for number in range(photos)]
    for path, picture in zip(paths, shown(photos), strict=True):
        picture.save(path)
    vlm = MyVLM.from_pretrained(MODEL, device="cpu", concepts=ConceptLibrary(KINDS))
    by, work = ReadBy.of(vlm, None), Work(MODEL, "cpu", None, vlm.concepts, None, BATCH)

    def here(left: Sequence[str], known: frozenset[str]) -> Iterator[Columns]:
        return run_here(left, known, vlm, None, BATCH)

    def there(left: Sequence[str], known: frozenset[str]) -> Iterator[Columns]:
        return run_on_ray(left, known, work)

    alone = _timed(AlbumTable(place / "alone", by), paths, here, time.process_time)
    with nodes(2) as cluster:
        together = _timed(AlbumTable(place / "together", by), paths, there, _used_by_workers)
        console.print(f"alone {alone.rate:.2f} a second, together {together.rate:.2f}")
        given = _killed(AlbumTable(place / "killed", by), paths, there, cluster)
    kept = Counter(parquet.read_table(place / "killed" / "album.parquet")["path"].to_pylist())
    same = [one == two for one, two in zip(alone.rows, together.rows, strict=True)]
    return {
        "album_ratio": round(together.rate / alone.rate, 3),
        "album_ratio_with_start": round(alone.seconds / together.seconds, 3),
        "album_ratio_by_cpu": round(2 * alone.cpu / together.cpu, 3),
        "album_photos_a_second": [round(alone.rate, 2), round(together.rate, 2)],
        "album_cpu_seconds_a_photo": [round(alone.cpu, 3), round(together.cpu, 3)],
        "album_same": sum(same) / len(same),
        "album_seen": sum(bool(row.seen) for row in alone.rows),
        "album_lost": sum(kept[path] == 0 for path in paths),
        "album_twice": sum(count > 1 for count in kept.values()),
        "album_given_twice": sum(count > 1 for count in given.values()),
    }


@dataclass(frozen=True)
class _Timed:
    """One timed run.

    Attributes:
        rows: the table's rows.
        rate: photos per second between the first row and the last.
        cpu: CPU seconds per photo.
        seconds: wall time of the whole call.
    """

    rows: list[PhotoRow]
    rate: float
    cpu: float
    seconds: float


def _timed(table: AlbumTable, paths: Sequence[str], run: Run, cpu: Callable[[], float]) -> _Timed:
    begun, came, used = time.perf_counter(), list[float](), list[float]()
    for _ in read_table(table, paths, run):
        came.append(time.perf_counter())
        used.append(cpu())
    rows = table.finish(paths)
    later = sum(moment > came[0] + 1e-3 for moment in came)  # rows with the first were made before it
    rate, each = later / (came[-1] - came[0]), (used[-1] - used[0]) / later
    return _Timed(rows, rate, each, time.perf_counter() - begun)


def _used_by_workers() -> float:
    """CPU seconds of all Ray worker processes."""
    used = 0.0
    for process in psutil.process_iter():
        try:
            if "".join(process.cmdline()).startswith("ray::MapWorker"):
                times = process.cpu_times()
                used += times.user + times.system
        except psutil.Error:
            continue
    return used


def _killed(table: AlbumTable, paths: Sequence[str], run: Run, cluster: Nodes) -> Counter[str]:
    """How often the cluster returned each photo when a node is killed after a third of them."""
    given = Counter[str]()

    def counted(left: Sequence[str], known: frozenset[str]) -> Iterator[Columns]:
        for columns in run(left, known):
            given.update(columns["path"])
            yield columns

    for number, _ in enumerate(read_table(table, paths, counted), start=1):
        if number == len(paths) // 3:
            cluster.kill()
            console.print("a node was killed")
    table.finish(paths)
    return given


if __name__ == "__main__":
    main()
