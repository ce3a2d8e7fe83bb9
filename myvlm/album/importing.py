"""Import the named regions that other programs (digiKam, Lightroom, Picasa, Windows) wrote into photos.

It reads the regions of the Metadata Working Group and of Microsoft, in photos and in their sidecars, so that
users need not tag their photos again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from myvlm.album.exiftool import FILES_PER_CALL, ExifTool
from myvlm.album.metadata import PhotoMetadata, parse_tags, region_mark
from myvlm.album.names import sidecars
from myvlm.album.regions import Region, Stored, read_stored, same_shape
from myvlm.boxes import Box, area
from myvlm.images import load_images
from myvlm.text import composed

MICROSOFT = "XMP-MP:RegionInfoMP"
MAX_PHOTOS = 5
"""Largest number of photos that a concept is learned from."""
MIN_REGION_SIDE = 48
"""Smallest shorter side of a region, in pixels; smaller regions are used only if no region is larger."""
MARGINS = {"face": 0.35, "object": 0.15}
"""Margin around a cropped region, as a fraction of its sides: face detectors need some hair and neck."""
CATEGORIES = {"Face": "person", "Pet": "pet"}


@dataclass(frozen=True)
class NamedRegion:
    """The place of a named region: a box in pixels of the displayed photo, and when the photo was taken."""

    file: Path
    box: Box
    taken: str


@dataclass(frozen=True)
class TaggedName:
    """A name found in photos, with its regions.

    Attributes:
        kind: kind of the head to use, `face` or `object`.
        category: `person`, `pet` or `thing`; the metadata is no more specific.
        places: one region per photo.
    """

    name: str
    kind: str
    category: str
    places: tuple[NamedRegion, ...]

    def best_regions(self, count: int = MAX_PHOTOS) -> list[NamedRegion]:
        """Choose regions to learn from: large ones, spread over the time in which the photos were taken."""
        by_time = sorted(self.places, key=lambda place: place.taken)
        large = [one for one in by_time if _shorter_side(one.box) >= MIN_REGION_SIDE] or by_time
        parts = min(count, len(large))
        ends = [round(part * len(large) / parts) for part in range(parts + 1)]
        spans = pairwise(ends)
        return [max(large[begin:end], key=lambda one: area(one.box)) for begin, end in spans]

    def crops(self, count: int = MAX_PHOTOS) -> list[Image.Image]:
        """Crop the chosen regions out of their photos, with a margin.

        Raises:
            ImageError: a photo cannot be read.
        """
        return [
            _crop(load_images(one.file)[0].image, one.box, MARGINS[self.kind])
            for one in self.best_regions(count)
        ]


def find_tagged_names(tool: ExifTool, files: Sequence[Path]) -> list[TaggedName]:
    """Return the names of all regions in these photos, except those that we wrote; most photos first."""
    places: dict[str, dict[Path, tuple[NamedRegion, str]]] = {}
    for start in range(0, len(files), FILES_PER_CALL):
        some = files[start : start + FILES_PER_CALL]
        known = tool.read([*some, *(beside for file in some for beside in sidecars(file))])
        for file in some:
            for region, place in _places(file, [known[one] for one in (file, *sidecars(file))]):
                places.setdefault(region.name, {}).setdefault(file, (place, region.kind))
    found = [_tagged_name(name, list(own.values())) for name, own in places.items()]
    return sorted(found, key=lambda one: (-len(one.places), one.name))


def _tagged_name(name: str, own: Sequence[tuple[NamedRegion, str]]) -> TaggedName:
    kinds = [kind for _, kind in own]
    kind = max(sorted(set(kinds)), key=kinds.count)
    head = "face" if kind == "Face" else "object"
    return TaggedName(name, head, CATEGORIES.get(kind, "thing"), tuple(place for place, _ in own))


def _places(file: Path, told: Iterable[dict[str, Any]]) -> Iterator[tuple[Region, NamedRegion]]:
    named = [(region, found) for tags in told for region, found in _regions(tags)]
    if not named:
        return
    try:
        stored = read_stored(file)
    except OSError:  # a broken photo cannot be learned from
        return
    for region, found in named:
        frame = _reference_picture(stored, found)
        if frame and region.width > 0 and region.height > 0:
            yield region, NamedRegion(file, frame.box(region), stored.taken)


def _regions(tags: dict[str, Any]) -> Iterator[tuple[Region, PhotoMetadata]]:
    found = parse_tags(tags)
    for region in found.regions:
        if region.name.strip() and region_mark(region) not in found.wrote:
            yield _normalised(region), found
    info = tags.get(MICROSOFT)
    for one in (info.get("Regions") or ()) if isinstance(info, dict) else ():
        name, numbers = one.get("PersonDisplayName"), str(one.get("Rectangle", "")).split(",")
        try:
            left, top, width, height = map(float, numbers)
        except ValueError:
            continue
        if name:
            yield (
                _normalised(Region(str(name), left + width / 2, top + height / 2, width, height, "Face")),
                PhotoMetadata(),
            )


def _normalised(region: Region) -> Region:
    name = composed(" ".join(region.name.split()))
    return Region(name, region.x, region.y, region.width, region.height, region.kind)


def _reference_picture(stored: Stored, found: PhotoMetadata) -> Stored | None:
    """Return the picture that the regions refer to, or None if the photo was cropped since.

    It is the stored picture, or, for programs that apply the orientation first, the displayed one.
    """
    if found.applied is None or same_shape(found.applied, stored.size):
        return stored
    if same_shape(found.applied, stored.displayed_size):
        return Stored(stored.displayed_size)
    return None


def _crop(image: Image.Image, box: Box, margin: float) -> Image.Image:
    left, top, right, bottom = box
    across, down = margin * (right - left), margin * (bottom - top)
    edges = (
        max(0, round(left - across)),
        max(0, round(top - down)),
        min(image.width, max(round(right + across), round(left - across) + 1)),
        min(image.height, max(round(bottom + down), round(top - down) + 1)),
    )
    return image.crop(edges)


def _shorter_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])
