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

from myvlm.album.exiftool import AT_ONCE, ExifTool, NotChangedError
from myvlm.album.journal import Row
from myvlm.album.metadata import (
    BEFORE,
    FILE,
    MADE,
    WROTE,
    PhotoMetadata,
    Wanted,
    about,
    arguments,
    description_mark,
    file_mark,
    said,
    to_write,
    without_ours,
)
from myvlm.album.page import ShownConcept
from myvlm.files.writing import whole_file
from myvlm.learning.captions import is_person

Into: TypeAlias = Literal["sidecars", "files"]
PETS = frozenset("pet dog puppy cat kitten bird parrot horse pony rabbit hamster".split())
LARGEST_BEFORE = 1 << 20
"""Largest original XMP, in bytes, that is stored with our entries to be restored byte by byte when they are
erased. Of a larger one only the content is restored."""


@dataclass(frozen=True)
class Named:
    """The result for one photo: whether its metadata changed, or why it could not be changed."""

    file: Path
    changed: bool = False
    error: NotChangedError | None = None


def sidecar_of(file: Path) -> Path:
    """Return the path of a photo's sidecar: `IMG.jpg.xmp`, unless only `IMG.xmp` exists and is this photo's.

    >>> sidecar_of(Path("nowhere/IMG.jpg")).name
    'IMG.jpg.xmp'
    """
    own = file.with_name(f"{file.name}.xmp")
    by_stem = file.with_suffix(".xmp")
    if own.exists() or not by_stem.exists():
        return own
    others = [one for one in file.parent.glob("*") if one.stem == file.stem and one not in (file, by_stem)]
    return own if others else by_stem  # beside a raw file of the same name it is that file's


def write_names(
    tool: ExifTool, rows: Iterable[Row], concepts: Sequence[ShownConcept], *, into: Into, captions: bool
) -> Iterator[Named]:
    """Write the detected concepts into each photo's metadata: as regions, subjects and people.

    Unsure detections are left out. Entries of an earlier run about these concepts that no longer hold are
    removed; its entries about other concepts stay.

    Args:
        captions: also write the caption, if the photo has no description by others.
    """
    kinds = {one.name: _kind(one) for one in concepts}
    people = {one.name for one in concepts if is_person(one.category, one.kind)}
    for some in _some(row for row in rows if not row.error):
        beside = {row.file: sidecar_of(row.file) for row in some}
        known = tool.read([*beside, *(one for one in beside.values() if one.exists())])
        for row in some:
            inside = said(known[row.file])
            if into == "files":
                target, found, elsewhere = row.file, inside, said(known.get(beside[row.file], {}))
            else:  # a new sidecar starts as a copy of the photo's XMP
                target, elsewhere = beside[row.file], inside
                found = said(known[target]) if target in known else inside
            wanted = [
                Wanted(one.name, one.name in people, one.box and row.stored.region(one.name, one.box))
                for one in row.seen
                if one.name in kinds and not one.unsure
            ]
            marks, ours = to_write(wanted, found, elsewhere, row.stored), about(found.ours, kinds)
            text = " ".join(row.text.split()) if captions else ""
            if text and description_mark(elsewhere.description) not in elsewhere.theirs:
                own = {description_mark(found.description)} & found.ours
                marks |= {description_mark(text)} if own or not found.description else set()
                ours |= own
            add, remove = marks - ours, ours - marks
            if not add and not remove:
                yield Named(row.file)
                continue
            told = arguments(found, add, remove, size=row.stored.size, kinds=kinds, description=text)
            has_xmp = any(key.startswith("XMP") for key in known[row.file])
            yield _changed(row.file, partial(_write, tool, row.file, target, found, told, has_xmp))


def erase_names(
    tool: ExifTool, files: Iterable[Path], names: Sequence[str], *, captions: bool = False
) -> Iterator[Named]:
    """Erase the entries that we wrote about these names, in photos and sidecars, and nothing else.

    Args:
        captions: also erase every description that we wrote; otherwise only those that contain a name.
    """
    for some in _some(files):
        beside = [one for file in some for one in sidecars(file)]
        known = tool.read([*some, *beside])
        for file in some:
            for target in (file, *sidecars(file)):
                found = said(known[target])
                remove = about(found.ours, names, found.description)
                if captions:
                    remove |= {description_mark(found.description)} & found.ours
                if not remove:
                    continue
                here, inside = known[target], None if target == file else known[file]
                yield _changed(file, partial(_erase, tool, target, here, inside, remove))


def _write(
    tool: ExifTool, file: Path, target: Path, found: PhotoMetadata, told: list[str], has_xmp: bool
) -> None:  # fmt: skip
    inside = target == file
    if not inside and not target.exists():
        told = [*told, f"-{WROTE}+={MADE}"]
        if has_xmp:  # many programs read only the sidecar: it must be complete
            with whole_file(target) as fresh:
                fresh.write_bytes(tool.packet(file))
    elif not found.wrote:
        if inside:
            told = [*told, f"-{WROTE}+={file_mark(file.read_bytes())}"]
        before = target.read_bytes() if not inside else tool.packet(file) if has_xmp else b""
        if not before:
            told = [*told, f"-{WROTE}+={MADE}"]
        elif len(before) <= LARGEST_BEFORE:
            told = [*told, f"-{BEFORE}={base64.b64encode(zlib.compress(before)).decode()}"]
    tool.change(target, told, keep_time=inside)


def _erase(
    tool: ExifTool, target: Path, here: dict[str, Any], inside: dict[str, Any] | None, remove: frozenset[str]
) -> None:
    """Remove entries; once none of ours is left, restore the original XMP if nobody has changed the rest.

    Args:
        here: XMP tags of the target.
        inside: if the target is a sidecar, the XMP tags inside its photo, else None.
        remove: marks of the entries to remove.
    """
    found = said(here)
    told = arguments(found, frozenset(), remove, size=(0, 0), kinds={})
    if found.ours - remove:
        return tool.change(target, told, keep_time=inside is None)
    rest, before = without_ours(here, found), _unpacked(found.before)
    if MADE in found.wrote and inside is not None:
        if rest == without_ours(inside, said(inside)):
            return target.unlink()
    elif MADE in found.wrote and not rest:
        told = ["-XMP:all="]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "before.xmp")
        kept.write_bytes(before)
        if before and rest == without_ours(tool.read([kept])[kept], PhotoMetadata()):
            if inside is not None:
                with whole_file(target) as fresh:
                    fresh.write_bytes(before)
                return
            told = [f"-XMP<={kept}"]
        tool.change(target, told, keep_time=inside is None)
    _cut_off(target, found)


def _cut_off(target: Path, found: PhotoMetadata) -> None:
    """Truncate bytes that exiftool left at the end of a file, as it does for a TIFF of odd length."""
    data = target.read_bytes()
    for mark in found.wrote:
        size = mark.split(" ")[1] if mark.startswith(f"{FILE} ") else ""
        if size.isdecimal() and int(size) < len(data) and file_mark(data[: int(size)]) == mark:
            times = target.stat()
            with target.open("rb+") as opened:
                opened.truncate(int(size))
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _changed(file: Path, work: Callable[[], None]) -> Named:
    try:
        work()
        return Named(file, changed=True)
    except NotChangedError as error:
        return Named(file, error=error)
    except OSError as error:
        why = NotChangedError(
            f"The metadata of {file} cannot be changed.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a folder where you may write",
            fix="check its permissions",
        )
        return Named(file, error=why)


def sidecars(file: Path) -> list[Path]:
    """Return a photo's existing sidecars, under either name."""
    return [one for one in (file.with_name(f"{file.name}.xmp"), file.with_suffix(".xmp")) if one.exists()]


def _kind(concept: ShownConcept) -> str:
    """Return the MWG's region type for a concept; empty for objects, which it has no type for."""
    return "Face" if concept.kind in ("face", "person") else "Pet" if concept.category in PETS else ""


def _unpacked(text: str) -> bytes:
    try:
        return zlib.decompress(base64.b64decode(text))
    except (ValueError, zlib.error):  # another program truncated it
        return b""


def _some(many: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield batches of at most `AT_ONCE` items."""
    part: list[Any] = []
    for one in many:
        part.append(one)
        if len(part) == AT_ONCE:
            yield part
            part = []
    if part:
        yield part
