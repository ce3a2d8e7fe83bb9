"""Write concept names into the metadata of photos, in sidecars or in the files, and erase them again.

Metadata of other programs is kept, and a second run writes nothing. Once all our entries are erased, a file
is identical to the byte to what it was, provided that no other program has written to it since.
"""

from __future__ import annotations

import base64
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from myvlm.album.exiftool import FILES_PER_CALL, ExifTool, NotChangedError
from myvlm.album.journal import Row
from myvlm.album.metadata import (
    BEFORE,
    CREATED_MARK,
    FILE_MARK_PREFIX,
    WROTE,
    PhotoMetadata,
    WantedEntries,
    description_mark,
    exiftool_arguments,
    file_mark,
    marks_about,
    marks_to_write,
    parse_tags,
    without_ours,
)
from myvlm.album.page import ShownConcept
from myvlm.files.writing import atomic_file
from myvlm.learning.captions import is_person

Into: TypeAlias = Literal["sidecars", "files"]
PETS = frozenset("pet dog puppy cat kitten bird parrot horse pony rabbit hamster".split())
MAX_BACKUP_BYTES = 1 << 20
"""Largest original XMP, in bytes, that is stored with our entries to be restored byte by byte when they are
erased. Of a larger one only the content is restored."""


@dataclass(frozen=True)
class NameResult:
    """The result for one photo: whether its metadata changed, or why it could not be changed."""

    file: Path
    changed: bool = False
    error: NotChangedError | None = None


def sidecar_of(file: Path) -> Path:
    """Return the path of a photo's sidecar: `IMG.jpg.xmp`, unless only `IMG.xmp` exists and is this photo's.

    >>> sidecar_of(Path("nowhere/IMG.jpg")).name
    'IMG.jpg.xmp'
    """
    by_name = file.with_name(f"{file.name}.xmp")
    by_stem = file.with_suffix(".xmp")
    if by_name.exists() or not by_stem.exists():
        return by_name
    others = [one for one in file.parent.glob("*") if one.stem == file.stem and one not in (file, by_stem)]
    return by_name if others else by_stem  # next to a raw file of the same stem, it belongs to that


def write_names(
    tool: ExifTool, rows: Iterable[Row], concepts: Sequence[ShownConcept], *, into: Into, captions: bool
) -> Iterator[NameResult]:
    """Write the detected concepts into each photo's metadata: as regions, subjects and people.

    Unsure detections are left out. Entries of an earlier run about these concepts that no longer hold are
    removed; its entries about other concepts stay.

    Args:
        captions: also write the caption, if the photo has no description by others.
    """
    kinds = {one.name: _region_type(one) for one in concepts}
    people = {one.name for one in concepts if is_person(one.category, one.kind)}
    for batch in _batches(row for row in rows if not row.error):
        sidecar = {row.file: sidecar_of(row.file) for row in batch}
        tags = tool.read([*sidecar, *(one for one in sidecar.values() if one.exists())])
        for row in batch:
            inside = parse_tags(tags[row.file])
            if into == "files":
                target, found, elsewhere = row.file, inside, parse_tags(tags.get(sidecar[row.file], {}))
            else:  # a new sidecar starts as a copy of the photo's XMP
                target, elsewhere = sidecar[row.file], inside
                found = parse_tags(tags[target]) if target in tags else inside
            wanted = [
                WantedEntries(one.name, one.name in people, one.box and row.stored.region(one.name, one.box))
                for one in row.seen
                if one.name in kinds and not one.unsure
            ]
            marks, ours = marks_to_write(wanted, found, elsewhere, row.stored), marks_about(found.ours, kinds)
            text = " ".join(row.text.split()) if captions else ""
            if text and description_mark(elsewhere.description) not in elsewhere.theirs:
                own = {description_mark(found.description)} & found.ours
                marks |= {description_mark(text)} if own or not found.description else set()
                ours |= own
            add, remove = marks - ours, ours - marks
            if not add and not remove:
                yield NameResult(row.file)
                continue
            changes = exiftool_arguments(
                found, add, remove, size=row.stored.size, kinds=kinds, description=text
            )
            has_xmp = any(key.startswith("XMP") for key in tags[row.file])
            yield _attempt(row.file, partial(_write, tool, row.file, target, found, changes, has_xmp))


def erase_names(
    tool: ExifTool, files: Iterable[Path], names: Sequence[str], *, captions: bool = False
) -> Iterator[NameResult]:
    """Erase the entries that we wrote about these names, in photos and sidecars, and nothing else.

    Args:
        captions: also erase every description that we wrote; otherwise only those that contain a name.
    """
    for batch in _batches(files):
        found_sidecars = [one for file in batch for one in sidecars(file)]
        tags = tool.read([*batch, *found_sidecars])
        for file in batch:
            for target in (file, *sidecars(file)):
                found = parse_tags(tags[target])
                remove = marks_about(found.ours, names, found.description)
                if captions:
                    remove |= {description_mark(found.description)} & found.ours
                if not remove:
                    continue
                here, inside = tags[target], None if target == file else tags[file]
                yield _attempt(file, partial(_erase, tool, target, here, inside, remove))


def _write(
    tool: ExifTool, file: Path, target: Path, found: PhotoMetadata, changes: list[str], has_xmp: bool
) -> None:  # fmt: skip
    inside = target == file
    if not inside and not target.exists():
        changes = [*changes, f"-{WROTE}+={CREATED_MARK}"]
        if has_xmp:  # many programs read only the sidecar: it must be complete
            with atomic_file(target) as fresh:
                fresh.write_bytes(tool.xmp_packet(file))
    elif not found.wrote:
        if inside:
            changes = [*changes, f"-{WROTE}+={file_mark(file.read_bytes())}"]
        before = target.read_bytes() if not inside else tool.xmp_packet(file) if has_xmp else b""
        if not before:
            changes = [*changes, f"-{WROTE}+={CREATED_MARK}"]
        elif len(before) <= MAX_BACKUP_BYTES:
            changes = [*changes, f"-{BEFORE}={base64.b64encode(zlib.compress(before)).decode()}"]
    tool.change(target, changes, keep_time=inside)


def _erase(
    tool: ExifTool, target: Path, here: dict[str, Any], inside: dict[str, Any] | None, remove: frozenset[str]
) -> None:
    """Remove entries; once none of ours is left, restore the original XMP if nobody has changed the rest.

    Args:
        here: XMP tags of the target.
        inside: if the target is a sidecar, the XMP tags inside its photo, else None.
        remove: marks of the entries to remove.
    """
    found = parse_tags(here)
    changes = exiftool_arguments(found, frozenset(), remove, size=(0, 0), kinds={})
    if found.ours - remove:
        return tool.change(target, changes, keep_time=inside is None)
    rest, before = without_ours(here, found), _decompressed(found.before)
    if CREATED_MARK in found.wrote and inside is not None:
        if rest == without_ours(inside, parse_tags(inside)):
            return target.unlink()
    elif CREATED_MARK in found.wrote and not rest:
        changes = ["-XMP:all="]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "before.xmp")
        kept.write_bytes(before)
        if before and rest == without_ours(tool.read([kept])[kept], PhotoMetadata()):
            if inside is not None:
                with atomic_file(target) as fresh:
                    fresh.write_bytes(before)
                return
            changes = [f"-XMP<={kept}"]
        tool.change(target, changes, keep_time=inside is None)
    _truncate_to_original(target, found)


def _truncate_to_original(target: Path, found: PhotoMetadata) -> None:
    """Truncate bytes that exiftool left at the end of a file, as it does for a TIFF of odd length."""
    data = target.read_bytes()
    for mark in found.wrote:
        size = mark.split(" ")[1] if mark.startswith(f"{FILE_MARK_PREFIX} ") else ""
        if size.isdecimal() and int(size) < len(data) and file_mark(data[: int(size)]) == mark:
            times = target.stat()
            with target.open("rb+") as opened:
                opened.truncate(int(size))
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _attempt(file: Path, work: Callable[[], None]) -> NameResult:
    try:
        work()
        return NameResult(file, changed=True)
    except NotChangedError as error:
        return NameResult(file, error=error)
    except OSError as error:
        why = NotChangedError(
            f"The metadata of {file} cannot be changed.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a writable folder",
            fix="check the permissions of the file and its folder",
        )
        return NameResult(file, error=why)


def sidecars(file: Path) -> list[Path]:
    """Return a photo's existing sidecars, under either name."""
    return [one for one in (file.with_name(f"{file.name}.xmp"), file.with_suffix(".xmp")) if one.exists()]


def _region_type(concept: ShownConcept) -> str:
    """Return the MWG's region type for a concept; empty for objects, which it has no type for."""
    return "Face" if concept.kind in ("face", "person") else "Pet" if concept.category in PETS else ""


def _decompressed(text: str) -> bytes:
    try:
        return zlib.decompress(base64.b64decode(text))
    except (ValueError, zlib.error):  # another program truncated it
        return b""


def _batches(many: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield batches of at most `FILES_PER_CALL` items."""
    part: list[Any] = []
    for one in many:
        part.append(one)
        if len(part) == FILES_PER_CALL:
            yield part
            part = []
    if part:
        yield part
