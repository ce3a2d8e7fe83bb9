"""What is written next to the metadata of other programs: the rules, without files."""

from __future__ import annotations

from typing import Any

from myvlm.album.metadata import (
    PhotoMetadata,
    WantedEntries,
    description_mark,
    marks_about,
    marks_to_write,
    name_of,
    parse_tags,
    region_mark,
)
from myvlm.album.regions import Region, Stored

STORED = Stored((400, 300))
OURS = Region("sks", 0.5, 0.5, 0.2, 0.2)
SAYS_IT = {"subject sks", region_mark(OURS)}


def wanted(person: bool = False, region: Region | None = OURS) -> list[WantedEntries]:
    return [WantedEntries("sks", person, region)]


def test_all_is_written_where_nobody_says_anything() -> None:
    assert marks_to_write(wanted(), PhotoMetadata(), PhotoMetadata(), STORED) == SAYS_IT
    assert marks_to_write(wanted(person=True), PhotoMetadata(), PhotoMetadata(), STORED) == {
        *SAYS_IT,
        "person sks",
    }
    assert marks_to_write(wanted(region=None), PhotoMetadata(), PhotoMetadata(), STORED) == {"subject sks"}
    assert marks_to_write([], PhotoMetadata(), PhotoMetadata(), STORED) == frozenset()


def test_what_someone_else_says_is_not_said_again() -> None:
    theirs = PhotoMetadata(subjects=("sks",), regions=(Region("SKS", 0.3, 0.3, 0.1, 0.1),))
    for found, elsewhere in ((theirs, PhotoMetadata()), (PhotoMetadata(), theirs)):
        assert marks_to_write(wanted(), found, elsewhere, STORED) == frozenset()


def test_the_word_of_a_person_goes_before_the_heads() -> None:
    near = PhotoMetadata(regions=(Region("Bo", 0.51, 0.5, 0.2, 0.2),))
    assert marks_to_write(wanted(), near, PhotoMetadata(), STORED) == frozenset()
    far = PhotoMetadata(regions=(Region("Bo", 0.8, 0.5, 0.2, 0.2),))
    assert marks_to_write(wanted(), far, PhotoMetadata(), STORED) == SAYS_IT
    unnamed = PhotoMetadata(regions=(Region("", 0.5, 0.5, 0.2, 0.2),))  # a camera found a face without a name
    assert marks_to_write(wanted(), unnamed, PhotoMetadata(), STORED) == SAYS_IT


def test_regions_of_a_picture_of_another_shape_are_left_alone() -> None:
    cut = PhotoMetadata(applied=(300, 300))
    assert marks_to_write(wanted(), cut, PhotoMetadata(), STORED) == {"subject sks"}
    shrunk = PhotoMetadata(applied=(4000, 3000))
    assert marks_to_write(wanted(), shrunk, PhotoMetadata(), STORED) == SAYS_IT


def test_ours_is_what_we_wrote_and_nobody_changed() -> None:
    marks = frozenset({*SAYS_IT, description_mark("sks on a desk"), "whole"})
    moved = Region("sks", 0.4, 0.5, 0.2, 0.2)
    found = PhotoMetadata(regions=(moved,), subjects=("sks", "desk"), description="sks, my mug", wrote=marks)
    assert found.ours == {"subject sks"}
    assert found.theirs == {"subject desk", region_mark(moved), description_mark("sks, my mug")}


def test_marks_are_about_names() -> None:
    text = "Anna Maria holds sks"
    marks = {"subject Anna", "subject Anna Maria", "person Anna Maria", description_mark(text), "whole"}
    marks |= {region_mark(Region("Anna Maria", 0.5, 0.5, 0.1, 0.1))}
    assert marks_about(marks, ["Anna"], text) == {"subject Anna", description_mark(text)}
    assert {name_of(mark) for mark in marks_about(marks, ["Anna Maria"], "nothing of it")} == {"Anna Maria"}
    assert len(marks_about(marks, ["Anna Maria"], "nothing of it")) == 3
    assert marks_about(marks, ["whole", ""], "") == frozenset()


def test_tags_of_all_kinds_are_read() -> None:
    area = {"X": "0.5", "Y": "0.5", "W": "0.2", "H": "0.2", "Unit": "normalized"}
    tags: dict[str, Any] = {
        "XMP-dc:Subject": "desk",  # a single word is not a list
        "XMP-dc:Description-de": "ein Tisch",
        "XMP-mwg-rs:RegionInfo": {
            "AppliedToDimensions": {"W": "400", "H": "300.0", "Unit": "pixel"},
            "RegionList": [
                {"Area": area, "Name": "007", "Type": "Face"},
                {"Area": {"X": "0.5", "Y": "0.5", "D": "0.1", "Unit": "normalized"}, "Name": "circle"},
                {"Area": {**area, "Unit": "pixel"}, "Name": "pixels"},
                {"Area": {**area, "X": "wide"}, "Name": "no number"},
                {"Name": "no area"},
                "nonsense",
            ],
        },
    }
    found = parse_tags(tags)
    assert found.subjects == ("desk",)
    assert found.description == "ein Tisch"
    assert found.applied == (400, 300)
    assert found.regions == (Region("007", 0.5, 0.5, 0.2, 0.2, "Face"),)
    assert parse_tags({"XMP-mwg-rs:RegionInfo": "cut"}).regions == ()
