"""Names that other programs gave to parts of photos (digiKam, Lightroom, Picasa, Windows): nobody tags twice.

Read are the regions of the Metadata Working Group and of Microsoft, in photos and in their sidecars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from myvlm.album.exiftool import AT_ONCE, ExifTool
from myvlm.album.metadata import PhotoMetadata, region_mark, said
from myvlm.album.names import sidecars
from myvlm.album.regions import Region, Stored, read_stored, same_shape
from myvlm.boxes import Box, area
from myvlm.images import load_images
from myvlm.text import composed

MICROSOFT = "XMP-MP:RegionInfoMP"
PHOTOS = 5
"""Photos that a concept is made from, at the most."""
SMALLEST = 48
"""Pixels of a region's shorter side; smaller ones are learned from only where none is larger."""
MARGINS = {"face": 0.35, "object": 0.15}
"""What is left around a region, in parts of its sides: face finders want some hair and neck."""
CATEGORIES = {"Face": "person", "Pet": "pet"}


@dataclass(frozen=True)
class NamedRegion:
    """Where someone said that something is: a box in pixels of a photo as it is seen."""

    file: Path
    box: Box
    taken: str


@dataclass(frozen=True)
class Tagged:
    """One name that photos have already.

    Attributes:
        kind: `face` or `object`, as of a head.
        category: `person`, `pet` or `thing`, for want of better.
        places: one a photo.
    """

    name: str
    kind: str
    category: str
    places: tuple[NamedRegion, ...]

    def best(self, count: int = PHOTOS) -> list[NamedRegion]:
        """Some places to learn from: large, and of all the time that the photos are from."""
        by_time = sorted(self.places, key=lambda place: place.taken)
        large = [one for one in by_time if _shorter(one.box) >= SMALLEST] or by_time
        parts = min(count, len(large))
        ends = [round(part * len(large) / parts) for part in range(parts + 1)]
        spans = pairwise(ends)
        return [max(large[begin:end], key=lambda one: area(one.box)) for begin, end in spans]

    def pictures(self, count: int = PHOTOS) -> list[Image.Image]:
        """What to learn from: the places, cut out with a margin.

        Raises:
            ImageError: a photo cannot be read.
        """
        return [_cut(load_images(one.file)[0].image, one.box, MARGINS[self.kind]) for one in self.best(count)]


def tagged(tool: ExifTool, files: Sequence[Path]) -> list[Tagged]:
    """All names that regions of these photos have, most photos first; what we wrote does not count."""
    places: dict[str, dict[Path, tuple[NamedRegion, str]]] = {}
    for start in range(0, len(files), AT_ONCE):
        some = files[start : start + AT_ONCE]
        known = tool.read([*some, *(beside for file in some for beside in sidecars(file))])
        for file in some:
            for region, place in _places(file, [known[one] for one in (file, *sidecars(file))]):
                places.setdefault(region.name, {}).setdefault(file, (place, region.kind))
    found = [_tagged(name, list(own.values())) for name, own in places.items()]
    return sorted(found, key=lambda one: (-len(one.places), one.name))


def _tagged(name: str, own: Sequence[tuple[NamedRegion, str]]) -> Tagged:
    kinds = [kind for _, kind in own]
    kind = max(sorted(set(kinds)), key=kinds.count)
    head = "face" if kind == "Face" else "object"
    return Tagged(name, head, CATEGORIES.get(kind, "thing"), tuple(place for place, _ in own))


def _places(file: Path, told: Iterable[dict[str, Any]]) -> Iterator[tuple[Region, NamedRegion]]:
    named = [(region, found) for tags in told for region, found in _regions(tags)]
    if not named:
        return
    try:
        stored = read_stored(file)
    except OSError:  # the photo is broken: there is nothing to learn from
        return
    for region, found in named:
        frame = _frame(stored, found)
        if frame and region.width > 0 and region.height > 0:
            yield region, NamedRegion(file, frame.box(region), stored.taken)


def _regions(tags: dict[str, Any]) -> Iterator[tuple[Region, PhotoMetadata]]:
    found = said(tags)
    for region in found.regions:
        if region.name.strip() and region_mark(region) not in found.wrote:
            yield _neat(region), found
    info = tags.get(MICROSOFT)
    for one in (info.get("Regions") or ()) if isinstance(info, dict) else ():
        name, numbers = one.get("PersonDisplayName"), str(one.get("Rectangle", "")).split(",")
        try:
            left, top, width, height = map(float, numbers)
        except ValueError:
            continue
        if name:
            yield (
                _neat(Region(str(name), left + width / 2, top + height / 2, width, height, "Face")),
                PhotoMetadata(),
            )


def _neat(region: Region) -> Region:
    name = composed(" ".join(region.name.split()))
    return Region(name, region.x, region.y, region.width, region.height, region.kind)


def _frame(stored: Stored, found: PhotoMetadata) -> Stored | None:
    """What the regions are parts of: the stored picture, or, by programs that turn it first, what is seen."""
    if found.applied is None or same_shape(found.applied, stored.size):
        return stored
    if same_shape(found.applied, stored.seen_size):
        return Stored(stored.seen_size)
    return None  # the photo was cut since


def _cut(image: Image.Image, box: Box, margin: float) -> Image.Image:
    left, top, right, bottom = box
    across, down = margin * (right - left), margin * (bottom - top)
    edges = (
        max(0, round(left - across)),
        max(0, round(top - down)),
        min(image.width, max(round(right + across), round(left - across) + 1)),
        min(image.height, max(round(bottom + down), round(top - down) + 1)),
    )
    return image.crop(edges)


def _shorter(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])
