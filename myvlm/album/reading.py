"""Reading an album: each photo once, into a row of its journal and a small picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from myvlm.album.journal import Journal, Row, Seen, stamp
from myvlm.album.page import Place
from myvlm.album.regions import read_stored
from myvlm.api import MyVLM
from myvlm.results import Reply


def unread(files: Sequence[Path], journal: Journal, place: Place) -> list[Path]:
    """The photos that are new, have changed, were read by something else, or whose small picture is gone."""

    def known(file: Path) -> bool:
        row = journal.row(file)
        return row is not None and (bool(row.error) or place.thumb(file).exists())

    return [file for file in files if not known(file)]


def read_album(
    vlm: MyVLM, files: Sequence[Path], journal: Journal, place: Place, *, prompt: str | None, batch: int
) -> Iterator[Row]:
    """Read these photos; each row is in the journal before it is handed out.

    Args:
        batch: pictures that are open together.
    """
    for start in range(0, len(files), batch):
        some = files[start : start + batch]
        stamps = [stamp(file) for file in some]  # before: what changes meanwhile is read again
        replies = vlm.caption(some, prompt=prompt, errors="keep")
        for file, stamped, reply in zip(some, stamps, replies, strict=True):
            if not reply.error:
                place.keep(file, reply.image)
            journal.add(row := _row(file, stamped, journal.by, reply))
            yield row


def _row(file: Path, stamped: tuple[int, int], by: str, reply: Reply) -> Row:
    if reply.error:
        reason = f"{reply.error.what} {reply.error.got or ''}".strip().replace(str(file), file.name)
        return Row(file=file, stamp=stamped, by=by, error=reason)
    stored = read_stored(file)
    seen = tuple(
        Seen(name=one.identifier, probability=round(one.probability, 4), unsure=one.unsure, box=one.box)
        for one in reply.detections
        if one.present
    )
    return Row(
        file=file, stamp=stamped, by=by, size=stored.size, turn=stored.turn, taken=stored.taken,
        text=reply.text, seen=seen,
    )  # fmt: skip
