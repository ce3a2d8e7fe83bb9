"""Read an album: caption each new photo once, and store a journal row and a thumbnail of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from myvlm.album.features import FeatureCache
from myvlm.album.journal import CaptionDependencies, Journal, Row, Seen, stamp
from myvlm.album.page import AlbumFiles
from myvlm.album.regions import read_stored
from myvlm.api import MyVLM
from myvlm.errors import InputError
from myvlm.heads import Detection
from myvlm.images import LoadedImage, load_images
from myvlm.results import Reply


def unread(files: Sequence[Path], journal: Journal, album: AlbumFiles) -> list[Path]:
    """Return the photos to read: new, changed, read by another model or concepts, or without thumbnail."""

    def known(file: Path) -> bool:
        row = journal.row(file)
        return row is not None and (bool(row.error) or album.thumb(file).exists())

    return [file for file in files if not known(file)]


def read_album(
    vlm: MyVLM, files: Sequence[Path], journal: Journal, album: AlbumFiles, *, prompt: str | None, batch: int
) -> Iterator[Row]:
    """Read photos and yield their rows; each row is in the journal before it is yielded.

    If concepts were added, removed or corrected since a photo was read, concepts are detected in it again.
    Its caption is kept if the detected concepts and their embeddings are the same as before, and the caption
    contains no name of another concept. Encoder features are cached, so that no window is encoded twice
    (`FeatureCache`).

    Args:
        batch: number of photos in memory at a time.
    """
    dependencies, cache = CaptionDependencies(vlm, prompt), FeatureCache(album, vlm.concepts)
    for start in range(0, len(files), batch):
        some = files[start : start + batch]
        stamps = {file: stamp(file) for file in some}  # first: a photo changed meanwhile is read again
        rows = _rows_with_kept_captions(vlm, some, journal, album, dependencies, cache)
        new = [file for file in some if file not in rows]
        for file, reply in zip(
            new, vlm.caption(new, prompt=prompt, errors="keep") if new else (), strict=True
        ):
            if not reply.error:
                picture = reply.image
                album.save_thumbnail(file, picture)
                cache.store(file, LoadedImage(picture, file.name))
            rows[file] = _row(file, stamps[file], journal.by, reply, dependencies)
        for file in some:
            journal.add(rows[file])
            yield rows[file]


def _rows_with_kept_captions(
    vlm: MyVLM,
    files: Sequence[Path],
    journal: Journal,
    album: AlbumFiles,
    dependencies: CaptionDependencies,
    cache: FeatureCache,
) -> dict[Path, Row]:
    """Detect concepts again in photos read earlier, and return new rows of those that keep their captions."""
    known = {file: row for file in files if (row := journal.row_of_any_reader(file)) and row.said_by}
    known = {file: row for file, row in known.items() if album.thumb(file).exists()}
    try:
        photos = load_images(list(known)) if known else []
        for file, photo in zip(known, photos, strict=True):
            cache.load_into_encoders(file, photo)
        detections = vlm.concepts.recognise(photos) if known else []
    except InputError:
        return {}  # a photo cannot be read any more; captioning reports which one
    rows = {}
    for (file, row), photo, found in zip(known.items(), photos, detections, strict=True):
        cache.store(file, photo)
        seen = _detected(found)
        names = [one.name for one in seen]
        if dependencies.digest(names) == row.said_by and dependencies.names_only(row.text, names):
            rows[file] = row.model_copy(update={"by": journal.by, "seen": seen})
    return rows


def _row(
    file: Path, stamped: tuple[int, int], by: str, reply: Reply, dependencies: CaptionDependencies
) -> Row:
    if reply.error:
        reason = reply.error.short.replace(str(file), file.name)
        return Row(file=file, stamp=stamped, by=by, error=reason)
    stored, seen = read_stored(file), _detected(reply.detections)
    return Row(
        file=file, stamp=stamped, by=by, size=stored.size, turn=stored.turn, taken=stored.taken,
        text=reply.text, seen=seen, said_by=dependencies.digest(one.name for one in seen),
    )  # fmt: skip


def _detected(found: Iterable[Detection]) -> tuple[Seen, ...]:
    return tuple(
        Seen(name=one.identifier, probability=round(one.probability, 4), unsure=one.unsure, box=one.box)
        for one in found
        if one.present
    )
