"""Names in photos' metadata: written by exiftool, read by exiv2; only our entries are removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from myvlm.album import exiftool as module
from myvlm.album.exiftool import ExifTool, check_exiftool, exiftool
from myvlm.album.journal import Row
from myvlm.album.names import Into, erase_names, sidecar_of, write_names
from myvlm.album.page import ShownConcept
from myvlm.errors import InputError
from tests.support.exif import (
    digests,
    needs_exiftool,
    needs_exiv2,
    regions,
    row,
    save_turned,
    words,
    xmp,
)

pytestmark = [needs_exiftool, needs_exiv2]

ODD = "Zoë, |}{[] A."
CONCEPTS = (
    ShownConcept("sks", "mug", "object"),
    ShownConcept(ODD, "woman", "face"),
    ShownConcept("Bo", "dog", "object"),
)
BOXES = {"sks": (40.0, 60.0, 120.0, 90.0), ODD: (200.0, 20.0, 280.0, 100.0), "Bo": (0.0, 200.0, 390.0, 300.0)}
SUBJECT, PERSON, DESCRIPTION = "Xmp.dc.subject", "Xmp.iptcExt.PersonInImage", "Xmp.dc.description"


@pytest.fixture(scope="module")
def tool() -> Iterator[ExifTool]:
    with exiftool() as running:
        yield running


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Photos in all orientations and four formats, each with three concepts at known places."""
    made = []
    for turn in range(1, 9):
        file = tmp_path / f"foto ü {turn}.{'jpg png webp tif'.split()[turn % 4]}"
        save_turned(Image.new("RGB", (400, 300), (20 * turn, 80, 90)), file, turn)
        made.append(row(file, turn, *BOXES.items(), text=f"{ODD} with\n sks"))
    return made


def write(tool: ExifTool, rows: Sequence[Row], into: Into = "sidecars", *, captions: bool = False) -> int:
    done = list(write_names(tool, rows, CONCEPTS, into=into, captions=captions))
    assert [one.error for one in done if one.error] == []
    return sum(one.changed for one in done)


def erase(tool: ExifTool, rows: Sequence[Row], *names: str, captions: bool = False) -> int:
    done = list(erase_names(tool, [row.file for row in rows], names, captions=captions))
    assert [one.error for one in done if one.error] == []
    return sum(one.changed for one in done)


def target(row: Row, into: Into) -> Path:
    return row.file if into == "files" else row.file.with_name(f"{row.file.name}.xmp")


@pytest.mark.parametrize("into", ["sidecars", "files"])
def test_written_read_by_another_program_and_taken_back(tool: ExifTool, rows: list[Row], into: Into) -> None:
    folder = rows[0].file.parent
    before = digests(folder)
    assert write(tool, rows, into, captions=True) == 8
    for one in rows:
        file = target(one, into)
        found = regions(file)
        assert set(found) == set(BOXES)
        stored = one.stored
        for name, box in BOXES.items():
            true = stored.region(name, box).box
            assert found[name] == pytest.approx(true, abs=1e-5)
            assert stored.box(stored.region(name, box)) == pytest.approx(box, abs=0.01)
        said = xmp(file)
        assert {"sks", "Bo"} < words(file, SUBJECT)
        assert ODD in said[SUBJECT]
        assert said[PERSON] == ODD
        assert said[DESCRIPTION] == f'lang="x-default" {ODD} with sks'
        kinds = [value for key, value in said.items() if key.endswith("mwg-rs:Type")]
        assert sorted(kinds) == ["Face", "Pet"]  # the guidelines have no type for a mug
        assert said["Xmp.mwg-rs.Regions/mwg-rs:AppliedToDimensions/stDim:w"] == str(stored.size[0])
    if into == "sidecars":
        assert {name: before[name] for name in before} == {
            name: digest for name, digest in digests(folder).items() if name in before
        }

    written = digests(folder)
    assert write(tool, rows, into, captions=True) == 0
    assert digests(folder) == written

    assert erase(tool, rows, "nobody") == 0
    assert erase(tool, rows, "sks") == 8
    for one in rows:
        file = target(one, into)
        assert set(regions(file)) == {ODD, "Bo"}
        assert "sks" not in "".join(xmp(file).values())  # the caption had it too
    assert erase(tool, rows, ODD, "Bo") == 8
    assert digests(folder) == before


THEIRS = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
 xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"
 xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:own="urn:another:program:"
 own:secret="kept">
<dc:subject><rdf:Bag><rdf:li>holiday</rdf:li></rdf:Bag></dc:subject>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">Our kitchen</rdf:li></rdf:Alt></dc:description>
<mwg-rs:Regions rdf:parseType="Resource">
<mwg-rs:AppliedToDimensions stDim:w="400" stDim:h="300" stDim:unit="pixel"/>
<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Name="Anna" mwg-rs:Type="Face" own:seen="twice">
<mwg-rs:Area stArea:x="0.9" stArea:y="0.2" stArea:w="0.1" stArea:h="0.1" stArea:unit="normalized"/>
</rdf:Description></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>
</rdf:Description></rdf:RDF></x:xmpmeta>
"""


@pytest.fixture
def tagged(tool: ExifTool, tmp_path: Path) -> dict[str, Row]:
    """A photo with another program's sidecar, one with the same metadata inside, and one with both."""
    made = {}
    for name in ("beside", "inside", "both"):
        file = tmp_path / f"{name}.jpg"
        save_turned(Image.new("RGB", (400, 300)), file, 1)
        made[name] = row(file, 1, ("sks", BOXES["sks"]), text="a mug")
    (tmp_path / "beside.jpg.xmp").write_text(THEIRS)
    for name in ("inside", "both"):
        packet = tmp_path / "packet"
        packet.write_text(THEIRS)
        tool.change(made[name].file, [f"-XMP<={packet}"], keep_time=False)
        packet.unlink()
    (tmp_path / "both.jpg.xmp").write_text(THEIRS.replace("holiday", "hike"))
    return made


@pytest.mark.parametrize("into", ["sidecars", "files"])
def test_what_others_wrote_stays(tool: ExifTool, tagged: dict[str, Row], tmp_path: Path, into: Into) -> None:
    before = digests(tmp_path)
    rows = list(tagged.values())
    assert write(tool, rows, into, captions=True) == 3
    for name, one in tagged.items():
        file = target(one, into)
        if name == "beside" and into == "files":
            assert set(regions(file)) == {"sks"}
            continue
        assert set(regions(file)) == {"sks", "Anna"}
        assert words(file, SUBJECT) == {"sks", "hike" if name == "both" and into == "sidecars" else "holiday"}
        assert xmp(file)[DESCRIPTION] == 'lang="x-default" Our kitchen'
        known = " ".join(xmp(file).values())
        assert "kept" in known
        assert "twice" in known
    written = digests(tmp_path)
    assert write(tool, rows, into, captions=True) == 0
    assert digests(tmp_path) == written
    assert erase(tool, rows, "sks") == 3
    assert digests(tmp_path) == before


def test_what_others_write_after_us_stays_too(tool: ExifTool, tagged: dict[str, Row]) -> None:
    one = tagged["beside"]
    file = target(one, "sidecars")
    write(tool, [one])
    exiv2 = ["exiv2", "-M", "add Xmp.xmp.Rating 5", "-M", "set Xmp.dc.description lang=x-default Mine", file]
    subprocess.run(exiv2, check=True, cwd=file.parent, capture_output=True)
    assert erase(tool, [one], "sks") == 1
    assert set(regions(file)) == {"Anna"}
    assert words(file, SUBJECT) == {"holiday"}
    assert xmp(file)["Xmp.xmp.Rating"] == "5"
    assert "Mine" in xmp(file)[DESCRIPTION]
    assert "myvlm" not in file.read_text()

    new = tagged["inside"]
    write(tool, [new])
    rated = ["exiv2", "-M", "add Xmp.xmp.Rating 4", target(new, "sidecars")]
    subprocess.run(rated, check=True, capture_output=True)
    erase(tool, [new], "sks")
    assert xmp(target(new, "sidecars"))["Xmp.xmp.Rating"] == "4"  # our sidecar, since changed by others


def test_a_word_that_was_there_is_not_ours(tool: ExifTool, tagged: dict[str, Row]) -> None:
    one = tagged["beside"]
    file = target(one, "sidecars")
    tool.change(file, ["-XMP-dc:Subject+=sks"], keep_time=False)
    write(tool, [one])
    assert words(file, SUBJECT) == {"holiday", "sks"}
    assert "sks" in regions(file)
    erase(tool, [one], "sks")
    assert words(file, SUBJECT) == {"holiday", "sks"}
    assert set(regions(file)) == {"Anna"}


def test_what_no_longer_holds_goes_and_other_names_stay(tool: ExifTool, rows: list[Row]) -> None:
    [one] = rows[:1]
    file = target(one, "sidecars")
    write(tool, [one])
    moved = one.model_copy(update={"seen": (one.seen[0].model_copy(update={"box": (50, 60, 130, 90)}),)})
    assert write(tool, [moved]) == 1
    assert regions(file) == {"sks": pytest.approx(one.stored.region("sks", (50, 60, 130, 90)).box, abs=1e-5)}
    assert PERSON not in xmp(file)
    known = CONCEPTS[1:2]  # a run without the mug
    assert [d.changed for d in write_names(tool, [one], known, into="sidecars", captions=False)] == [True]
    assert set(regions(file)) == {"sks", ODD}


def test_of_what_the_head_is_unsure_nothing_is_written(tool: ExifTool, rows: list[Row]) -> None:
    unsure = [one.model_copy(update={"unsure": True}) for one in rows[0].seen]
    assert write(tool, [rows[0].model_copy(update={"seen": tuple(unsure)})]) == 0
    assert not target(rows[0], "sidecars").exists()


def test_which_sidecar_is_whose(tmp_path: Path) -> None:
    photo = tmp_path / "IMG.jpg"
    photo.touch()
    assert sidecar_of(photo).name == "IMG.jpg.xmp"
    (tmp_path / "IMG.xmp").touch()
    assert sidecar_of(photo).name == "IMG.xmp"
    (tmp_path / "IMG.CR2").touch()
    assert sidecar_of(photo).name == "IMG.jpg.xmp"
    (tmp_path / "IMG.CR2").unlink()
    (tmp_path / "IMG.jpg.xmp").touch()
    assert sidecar_of(photo).name == "IMG.jpg.xmp"


def test_a_photo_that_cannot_be_changed_is_said_and_the_others_go_on(
    tool: ExifTool, rows: list[Row], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 nothing")
    bad = [row(rows[0].file, 1, *BOXES.items()).model_copy(update={"file": broken})]
    bad.append(bad[0].model_copy(update={"file": tmp_path / "gone" / "one.jpg"}))
    lines = shutil.copy(rows[0].file, tmp_path / "two\nlines.jpg")
    bad.append(bad[0].model_copy(update={"file": Path(lines)}))
    done = list(write_names(tool, [*bad, rows[0]], CONCEPTS, into="files", captions=False))
    assert [bool(one.error) for one in done] == [True, True, True, False]
    assert done[3].changed
    assert "broken.jpg" in str(done[0].error)
    assert "rename the photo" in str(done[2].error)
    assert broken.read_bytes() == b"\xff\xd8 nothing"


def test_files_keep_the_time_of_their_last_change(tool: ExifTool, rows: list[Row]) -> None:
    file = rows[0].file
    os.utime(file, (1_000_000_000, 1_000_000_000))
    write(tool, rows[:1], "files")
    assert file.stat().st_mtime == 1_000_000_000


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="libimage-exiftool-perl"):
        check_exiftool()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"myvlm\[album\]"):
        check_exiftool()
