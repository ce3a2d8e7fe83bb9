"""Interpret the names in a photo's metadata, and make the exiftool arguments that change them.

No file is read or written here. For each entry that we write, a mark goes into a list in the same metadata,
`myvlm:Wrote`, so that exactly these entries can be erased, on any machine, whatever other programs wrote
meanwhile. A mark is a text such as `subject sks`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from myvlm.album.regions import Region, Size, Stored, same_shape
from myvlm.boxes import iou
from myvlm.text import contains_word, fold

REGIONS, SUBJECT, PEOPLE = "XMP-mwg-rs:RegionInfo", "XMP-dc:Subject", "XMP-iptcExt:PersonInImage"
DESCRIPTION, WROTE, BEFORE = "XMP-dc:Description", "XMP-myvlm:Wrote", "XMP-myvlm:Before"
CREATED_MARK = "whole"
"""Mark that the whole sidecar, or the whole XMP inside a picture, was created by us."""
FILE_MARK_PREFIX = "file"
"""Prefix of the mark that records a picture file's length and digest before names were written into it."""
SAME_PLACE_IOU = 0.5
"""Intersection over union from which a region named by someone else counts as the same object."""


@dataclass(frozen=True)
class PhotoMetadata:
    """The parts of a file's metadata that concern names.

    Attributes:
        applied: size of the picture that the regions refer to, if given.
        wrote: marks of the entries that we wrote.
        before: the original XMP before we wrote, compressed and in Base64; may be empty.
    """

    regions: tuple[Region, ...] = ()
    applied: Size | None = None
    subjects: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    description: str = ""
    wrote: frozenset[str] = frozenset()
    before: str = ""

    @property
    def marks(self) -> frozenset[str]:
        """Marks of all entries, whoever wrote them."""
        found = {f"subject {name}" for name in self.subjects} | {f"person {name}" for name in self.people}
        found |= {region_mark(region) for region in self.regions}
        return frozenset(found | ({description_mark(self.description)} if self.description else set()))

    @property
    def ours(self) -> frozenset[str]:
        """Marks of the entries that we wrote and nobody has changed since."""
        return self.wrote & self.marks

    @property
    def theirs(self) -> frozenset[str]:
        return self.marks - self.wrote


@dataclass(frozen=True)
class WantedEntries:
    """The entries that a photo's metadata should have about one detected concept."""

    name: str
    person: bool
    region: Region | None


def parse_tags(tags: Mapping[str, Any]) -> PhotoMetadata:
    """Parse the XMP tags that exiftool returns.

    >>> tags = {"XMP-dc:Subject": ["sks", "desk"], "XMP-myvlm:Wrote": ["subject sks", "subject gone"]}
    >>> parse_tags(tags).ours
    frozenset({'subject sks'})
    """
    info = tags.get(REGIONS)
    info = info if isinstance(info, dict) else {}
    size = info.get("AppliedToDimensions") or {}
    applied = (_as_int(size.get("W")), _as_int(size.get("H"))) if size else None
    description = next((str(tags[key]) for key in tags if key.startswith(DESCRIPTION)), "")
    regions = tuple(filter(None, map(_parse_region, _as_list(info.get("RegionList")))))
    return PhotoMetadata(
        regions, applied, _texts(tags.get(SUBJECT)), _texts(tags.get(PEOPLE)), description,
        frozenset(_texts(tags.get(WROTE))), str(tags.get(BEFORE, "")),
    )  # fmt: skip


def marks_to_write(
    wanted: Iterable[WantedEntries], found: PhotoMetadata, elsewhere: PhotoMetadata, stored: Stored
) -> frozenset[str]:
    """Return the marks of the wanted entries that nobody else has written, in this file or elsewhere.

    If someone else gave a region at the same place another name, our name is not written: a person chose
    theirs. No region is written if the file's regions refer to a picture of another aspect ratio.

    Args:
        wanted: entries for the detected concepts.
        found: metadata of the file that will be written.
        elsewhere: metadata of the photo's other file (the photo for a sidecar, or the reverse).
        stored: the photo's stored size and orientation.
    """
    both = (found, elsewhere)
    named = [r for one in both for r in one.regions if r.name and region_mark(r) not in one.wrote]
    fits = found.applied is None or same_shape(found.applied, stored.size)
    marks: set[str] = set()
    for one in wanted:
        there = [r for r in named if one.region and iou(r.box, one.region.box) >= SAME_PLACE_IOU]
        if any(fold(r.name) != fold(one.name) for r in there):
            continue
        marks |= {f"subject {one.name}"} | ({f"person {one.name}"} if one.person else set())
        if one.region and fits and not any(fold(r.name) == fold(one.name) for r in named):
            marks.add(region_mark(one.region))
    return frozenset(marks - found.theirs - elsewhere.theirs)


def marks_about(marks: Iterable[str], names: Iterable[str], description: str = "") -> frozenset[str]:
    """Return the marks that are about these names, with that of our description if it contains one."""
    known = frozenset(names)
    in_description = any(contains_word(description, name) for name in known)
    return frozenset(
        mark
        for mark in marks
        if (
            in_description
            if mark.startswith("description ")
            else name_of(mark) in known and mark != CREATED_MARK
        )
    )


def exiftool_arguments(
    found: PhotoMetadata, add: frozenset[str], remove: frozenset[str], *, size: Size,
    kinds: Mapping[str, str], description: str = "",
) -> list[str]:  # fmt: skip
    """Return the exiftool arguments that add and remove entries, and update the list of our marks.

    Args:
        found: the file's current metadata.
        add, remove: marks of the entries.
        size: size of the stored picture.
        kinds: the MWG's region type for each name, if it has one.
        description: text of the description, if its mark is in `add`.
    """
    result = _region_arguments(found, add, remove, size=size, kinds=kinds)
    for tag, kind in ((SUBJECT, "subject"), (PEOPLE, "person")):
        result += [f"-{tag}-={name_of(mark)}" for mark in sorted(remove) if mark.startswith(f"{kind} ")]
        result += [f"-{tag}+={name_of(mark)}" for mark in sorted(add) if mark.startswith(f"{kind} ")]
    if any(mark.startswith("description ") for mark in add):
        result.append(f"-{DESCRIPTION}={description}")
    elif any(mark.startswith("description ") for mark in remove):
        result.append(f"-{DESCRIPTION}=")
    if left := (found.ours - remove) | add:
        gone = (
            mark
            for mark in found.wrote - left
            if mark != CREATED_MARK and not mark.startswith(f"{FILE_MARK_PREFIX} ")
        )
        result += [f"-{WROTE}-={mark}" for mark in sorted(gone)]
        result += [f"-{WROTE}+={mark}" for mark in sorted(left - found.wrote)]
    else:
        result.append("-XMP-myvlm:all=")
    return result


def without_ours(tags: Mapping[str, Any], found: PhotoMetadata) -> dict[str, Any]:
    """Return a file's XMP tags without our entries, to compare what others wrote in two files."""
    rest = {key: value for key, value in tags.items() if key.startswith("XMP") and "XMPToolkit" not in key}
    for key in [key for key in rest if key.startswith("XMP-myvlm:")]:
        del rest[key]
    for tag, kind in ((SUBJECT, "subject"), (PEOPLE, "person")):
        rest[tag] = [text for text in _texts(rest.get(tag)) if f"{kind} {text}" not in found.ours]
    if description_mark(found.description) in found.ours:
        rest = {key: value for key, value in rest.items() if not key.startswith(DESCRIPTION)}
    if isinstance(info := rest.get(REGIONS), dict) and info.get("RegionList"):
        left = [one for one in _as_list(info["RegionList"]) if not _is_ours(one, found)]
        rest[REGIONS] = {**info, "RegionList": left} if left else None
    return {key: value for key, value in rest.items() if value}


def region_mark(region: Region) -> str:
    """Return the mark of a region: its place and its name, as they are written.

    >>> region_mark(Region("sks", 0.5, 0.25, 0.1, 0.2))
    'region 0.500000 0.250000 0.100000 0.200000 sks'
    """
    return f"region {region.x:.6f} {region.y:.6f} {region.width:.6f} {region.height:.6f} {region.name}"


def file_mark(data: bytes) -> str:
    """Return the mark that records a file's bytes before we wrote: its length and digest."""
    return f"{FILE_MARK_PREFIX} {len(data)} {hashlib.sha256(data).hexdigest()}"


def description_mark(text: str) -> str:
    """Return the mark of a description: a digest of its text."""
    return f"description {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def name_of(mark: str) -> str:
    """Return the name that a mark is about; empty for other marks, such as a description's.

    >>> name_of("subject Anna Maria"), name_of("region 0.5 0.2 0.1 0.2 Anna Maria")
    ('Anna Maria', 'Anna Maria')
    """
    kind, _, rest = mark.partition(" ")
    return rest.split(" ", 4)[-1] if kind == "region" else rest if kind in ("subject", "person") else ""


def _region_arguments(
    found: PhotoMetadata, add: frozenset[str], remove: frozenset[str], *, size: Size, kinds: Mapping[str, str]
) -> list[str]:
    new = [mark for mark in sorted(add) if mark.startswith("region ")]
    gone = [mark for mark in sorted(remove) if mark.startswith("region ")]
    if not new and not gone:
        return []
    left = [region for region in found.regions if region_mark(region) not in remove]
    if left:
        return [f"-XMP-mwg-rs:RegionList-={{{_exiftool_struct(mark)}}}" for mark in gone] + [
            f"-XMP-mwg-rs:RegionList+={{{_exiftool_struct(mark, kinds)}}}" for mark in new
        ]
    if not new:
        return [f"-{REGIONS}="]
    listed = ",".join(f"{{{_exiftool_struct(mark, kinds)}}}" for mark in new)
    width, height = size
    dimensions = f"AppliedToDimensions={{W={width},H={height},Unit=pixel}}"
    return [f"-{REGIONS}={{{dimensions},RegionList=[{listed}]}}"]


def _exiftool_struct(mark: str, kinds: Mapping[str, str] | None = None) -> str:
    """Return a region in exiftool's syntax for structures, with its special characters escaped."""
    _, x, y, width, height, name = mark.split(" ", 5)
    kind = f",Type={kinds[name]}" if kinds and kinds.get(name) else ""
    escaped = re.sub(r"([|,}\]\[{])", r"|\1", name)
    return f"Area={{X={x},Y={y},W={width},H={height},Unit=normalized}},Name={escaped}{kind}"


def _is_ours(region: Any, found: PhotoMetadata) -> bool:
    read = _parse_region(region)
    return read is not None and region_mark(read) in found.ours


def _parse_region(struct: Any) -> Region | None:
    if not isinstance(struct, dict) or not isinstance(area := struct.get("Area"), dict):
        return None
    if area.get("Unit", "normalized") != "normalized" or "W" not in area:  # skip points and circles
        return None
    try:
        x, y, width, height = (float(area[key]) for key in "XYWH")
    except (KeyError, ValueError):
        return None
    return Region(str(struct.get("Name", "")), x, y, width, height, str(struct.get("Type", "")))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in _as_list(value))


def _as_int(text: Any) -> int:
    try:
        return round(float(text))
    except (TypeError, ValueError):
        return 0
