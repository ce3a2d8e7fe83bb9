"""`myvlm album --out`: read an album into a Parquet table, in this process or on a Ray cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from myvlm.cli.screen import Screen
from myvlm.errors import InputError, import_extra
from myvlm.runtime.cluster import check_ray

if TYPE_CHECKING:
    from myvlm.album.table.reading import Run
    from myvlm.api import MyVLM


@dataclass(frozen=True)
class TableRequest:
    """Where the table is written, where the album is read, and the options that each process needs."""

    folder: Path
    on_ray: bool
    backbone: str
    device: str | None
    dtype: str | None
    prompt: str | None
    batch: int


def check_table_options(folder: Path | None, *, on_ray: bool, of_names: bool) -> None:
    """Check before a model is loaded that the table can be made.

    Raises:
        InputError: no folder is given, or an option about names in metadata is given too.
        MissingPackageError: pyarrow or ray is not installed.
    """
    expected = "--out DIR, without --write-names, --erase-names and --import-names"
    if folder is None:
        raise InputError(
            "--workers ray needs --out.",
            got="--workers ray without --out",
            expected=expected,
            fix="add --out DIR",
        )
    if of_names:
        raise InputError(
            "A table and names in metadata exclude each other.",
            got="--out and one of --write-names, --erase-names and --import-names",
            expected=expected,
            fix="run the command once for the table and once for the names",
        )
    import_extra("pyarrow", what="The table of an album", install="myvlm[ray]")
    if on_ray:
        check_ray("An album on a cluster")


def read_into_table(out: Screen, vlm: MyVLM, files: Sequence[Path], request: TableRequest) -> None:
    """Read the new photos, write the table and show a summary; a run that is stopped keeps its rows."""
    from myvlm.album.table.reading import read_table
    from myvlm.album.table.rows import AlbumTable, ReadBy

    table = AlbumTable(request.folder, ReadBy.of(vlm, request.prompt))
    paths, run, read = [str(file) for file in files], _make_run(vlm, request), 0
    try:
        with out.progress("reading photos", len(files)) as bar:
            for row, was_known in read_table(table, paths, run):
                bar.advance(bar.task_ids[0])
                read += not was_known
                if row.error:
                    out.note(f"skipped: {row.error}")
        rows = table.finish(paths)
        out.written.append(table.file)
    except BaseException:
        with suppress(Exception):
            table.write_part()
        out.note(f"{read:,} of {len(files):,} photos were read; run the same command again to continue.")
        raise
    counts = Counter(name for row in rows for name in row.seen)
    broken = [row for row in rows if row.error]
    document = {
        "command": "album",
        "table": str(table.file),
        "backbone": vlm.backbone.name,
        "concepts": list(vlm.concepts),
        "photos": len(files),
        "read": read,
        "seen": dict(counts.most_common()),
        "unusable": [{"picture": row.path, "error": row.error} for row in broken],
    }
    summary = f"{table.file.resolve()}: {len(files):,} photos, {read:,} read now"
    summary += f", {len(broken):,} unreadable" if broken else ""
    out.show(document, *([counted(counts)] if counts else []), Text(summary))


def counted(counts: Counter[str]) -> Table:
    """Return a table of concepts and the number of photos each was detected in."""
    table = Table("concept", "photos", box=None, pad_edge=False)
    for name, count in counts.most_common():
        table.add_row(Text(name, style="bold magenta"), str(count))
    return table


def _make_run(vlm: MyVLM, request: TableRequest) -> Run:
    if not request.on_ray:
        from myvlm.album.table.reading import run_here

        return lambda paths, known: run_here(paths, known, vlm, request.prompt, request.batch)
    from myvlm.album.table.cluster import run_on_ray
    from myvlm.album.table.stages import Work

    own = Path(request.backbone)
    backbone = str(own.resolve()) if own.is_dir() else request.backbone  # workers have other working folders
    work = Work(backbone, request.device, request.dtype, vlm.concepts, request.prompt, request.batch)
    return lambda paths, known: run_on_ray(paths, known, work)
