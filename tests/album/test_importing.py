"""Named regions of other programs: read from photos and sidecars, cropped for learning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.album.exiftool import ExifTool, exiftool
from myvlm.album.importing import find_tagged_names
from myvlm.album.names import write_names
from myvlm.album.page import ShownConcept
from myvlm.album.regions import Region, read_stored
from myvlm.boxes import Box
from tests.support.exif import needs_exiftool, row, save_turned

pytestmark = needs_exiftool

RED, BOX = (250, 10, 10), (200.0, 100.0, 300.0, 220.0)


@pytest.fixture(scope="module")
def tool() -> Iterator[ExifTool]:
    with exiftool() as running:
        yield running


def photo(file: Path, turn: int = 1, box: Box = BOX) -> Path:
    """A red object in front of a green wall."""
    picture = Image.new("RGB", (400, 300), (10, 120, 10))
    picture.paste(RED, tuple(map(int, box)))
    save_turned(picture, file, turn)
    return file


def tag(
    tool: ExifTool, photo: Path, name: str, box: Box = BOX, *, kind: str = "Pet", into: Path | None = None,
    turned: bool = False,
) -> None:  # fmt: skip
    """Write a region as digiKam or Lightroom does; `turned`: relative to the picture as displayed."""
    stored = read_stored(photo)
    frame = type(stored)(stored.displayed_size) if turned else stored
    r = frame.region(name, box)
    area = f"Area={{X={r.x},Y={r.y},W={r.width},H={r.height},Unit=normalized}}"
    width, height = frame.size
    dimensions = f"AppliedToDimensions={{W={width},H={height},Unit=pixel}}"
    told = f"-XMP-mwg-rs:RegionInfo={{{dimensions},RegionList=[{{{area},Name={name},Type={kind}}}]}}"
    tool.change(into or photo, [told], keep_time=False)


def part_red(image: Image.Image) -> float:
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return float(((pixels[..., 0] > 150) & (pixels[..., 1] < 100)).mean())


def test_places_are_found_whatever_the_turn_and_wherever_they_are_written(
    tool: ExifTool, tmp_path: Path
) -> None:
    files = [photo(tmp_path / f"{turn}.jpg", turn) for turn in range(1, 9)]
    for turn, file in enumerate(files, start=1):
        beside = file.with_name(f"{file.name}.xmp") if turn % 2 else None
        tag(tool, file, "Bo", into=beside, turned=turn == 6)
    [bo] = find_tagged_names(tool, files)
    assert (bo.name, bo.kind, bo.category) == ("Bo", "object", "pet")
    assert {place.file for place in bo.places} == set(files)
    for place in bo.places:
        assert place.box == pytest.approx(BOX, abs=0.5)
    for picture in bo.crops(8):
        assert picture.size == (130, 156)  # the region plus a margin of 15 % on each side
        assert part_red(picture) == pytest.approx(100 * 120 / (130 * 156), abs=0.02)


def test_microsofts_regions_are_read_where_there_are_no_others(tool: ExifTool, tmp_path: Path) -> None:
    file = photo(tmp_path / "one.jpg")
    where = "Rectangle=0.5|, 0.333333|, 0.25|, 0.4,PersonDisplayName=Anna  Maria"
    tool.change(file, [f"-XMP-MP:RegionInfoMP={{Regions=[{{{where}}}]}}"], keep_time=False)
    [anna] = find_tagged_names(tool, [file])
    assert (anna.name, anna.kind, anna.category) == ("Anna Maria", "face", "person")
    assert anna.places[0].box == pytest.approx(BOX, abs=0.5)
    [head] = anna.crops()
    assert head.size == (170, 204)


def test_a_photo_that_was_cut_since_or_is_broken_teaches_nothing(tool: ExifTool, tmp_path: Path) -> None:
    cut, broken = photo(tmp_path / "cut.jpg"), photo(tmp_path / "broken.jpg")
    tag(tool, cut, "Bo", into=tmp_path / "cut.jpg.xmp")
    tag(tool, broken, "Bo", into=tmp_path / "broken.jpg.xmp")
    Image.new("RGB", (300, 300)).save(cut)
    broken.write_bytes(b"nothing")
    assert find_tagged_names(tool, [cut, broken]) == []


def test_what_we_wrote_ourselves_is_nobodys_word(tool: ExifTool, tmp_path: Path) -> None:
    file = photo(tmp_path / "one.jpg")
    tag(tool, file, "Bo", (0, 0, 60, 60))
    known = [ShownConcept("sks", "mug", "object")]
    list(write_names(tool, [row(file, 1, ("sks", BOX))], known, into="files", captions=False))
    assert [one.name for one in find_tagged_names(tool, [file])] == ["Bo"]


def test_learned_from_are_large_places_of_all_the_time(tool: ExifTool, tmp_path: Path) -> None:
    files = []
    for number in range(12):
        side = 20.0 if number % 3 else 60.0 + number
        files.append(photo(tmp_path / f"{number}.png", box=(100, 100, 100 + side, 100 + side)))
        tag(tool, files[-1], "Bo", (100, 100, 100 + side, 100 + side), kind="Face")
    tag(tool, files[0], "", (0, 0, 50, 50), into=tmp_path / "0.png.xmp")
    [bo] = find_tagged_names(tool, files)
    assert bo.kind == "face"
    assert {place.file.name for place in bo.best_regions()} == {"0.png", "3.png", "6.png", "9.png"}
    assert {place.file.name for place in bo.best_regions(2)} == {"3.png", "9.png"}


def test_a_name_is_one_however_its_accents_are_written() -> None:
    from myvlm.album import importing

    assert importing._normalised(Region("Zoe\u0308  A", 0.5, 0.5, 0.1, 0.1)).name == "Zo\u00eb A"
