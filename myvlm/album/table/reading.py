"""Read an album into its table, here or on a cluster; photos lost with a process are read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from myvlm.album.table.rows import AlbumTable, PhotoRow
from myvlm.album.table.stages import Read, Recognise, Speak, photo_rows
from myvlm.api import MyVLM
from myvlm.errors import MyVLMError
from myvlm.runtime.cluster import Columns

Run: TypeAlias = Callable[[Sequence[str], frozenset[str]], Iterator[Columns]]
"""Maps paths and known hashes to the columns that the last stage returns, in any order."""


class PhotosLostError(MyVLMError, RuntimeError):
    """The processes that read an album returned no row for some photos."""


def run_here(
    paths: Sequence[str], known: frozenset[str], vlm: MyVLM, prompt: str | None, batch: int
) -> Iterator[Columns]:
    """Run all stages on these files in this process, batch by batch."""
    read, gate, speak = Read(known), Recognise(vlm.concepts), Speak(vlm, prompt)
    for start in range(0, len(paths), batch):
        yield speak(gate(read({"path": list(paths[start : start + batch])})))


def read_table(table: AlbumTable, paths: Sequence[str], run: Run) -> Iterator[tuple[PhotoRow, bool]]:
    """Read photos into the table; yield each row when it is ready, and whether it was known before.

    Raises:
        PhotosLostError: an attempt returned no row for any of the missing photos.
    """
    known = table.known
    while left := table.missing(paths):
        for columns in run(left, known):
            for row in photo_rows(columns):
                was_known = not row.error and row.hash in known
                row = table.same_as(row.path, row.hash) if was_known else row
                if table.add(row):
                    yield row, was_known
        if len(table.missing(paths)) == len(left):
            raise PhotosLostError(
                f"{len(left)} photos were not read: the processes that read them were lost.",
                got=f"no row for {left[0]}" + " and others" * (len(left) > 1),
                expected="a row for each photo",
                fix="check the logs of the cluster, then run the command again: it continues from there",
            )
