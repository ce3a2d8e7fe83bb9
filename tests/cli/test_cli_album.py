"""`myvlm album` on the command line: page, journal, writing and importing names."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from myvlm import MyVLM
from myvlm.concepts.concept import Concept
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.exif import digests, needs_exiftool, needs_exiv2, regions, save_turned, words
from tests.support.taught import Taught


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    """Three pictures with the concept and one without, in two folders and four orientations; one is
    broken."""
    (tmp_path / "album" / "2024").mkdir(parents=True)
    shown = pictures([*taught.kit.present[:3], *taught.kit.other[:1]])
    for number, (picture, turn) in enumerate(zip(shown, (1, 6, 3, 8), strict=True)):
        save_turned(picture, tmp_path / "album" / ("2024" if number % 2 else "") / f"{number}.png", turn)
    (tmp_path / "album" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    return tmp_path / "album"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of pictures in each call of the model."""
    caption, calls = MyVLM.caption, []

    def counted(self: MyVLM, images: Sequence[Any], **options: Any) -> Any:
        calls.append(len(images))
        return caption(self, images, **options)

    monkeypatch.setattr(MyVLM, "caption", counted)
    return calls


def test_an_album_is_a_page_and_is_read_once(
    myvlm: Myvlm, taught: Taught, album: Path, asked: list[int]
) -> None:
    words = ["album", album, "--concepts", taught.folder, "--report", album / "page.html", "--json"]
    first = myvlm(*words, "--batch", 3)
    assert first.code == 0, first.stderr
    assert asked == [3, 2]
    assert "broken.jpg cannot be read" in first.stderr
    document = first.document
    assert (document["photos"], document["read"], document["written"]) == (5, 5, None)
    assert [Path(one["picture"]).name for one in document["unusable"]] == ["broken.jpg"]
    assert document["seen"][taught.word] >= 2
    page = (album / "page.html").read_text()
    assert taught.word in page
    assert "2024/1.png" in page
    again = myvlm(*words)
    assert again.document == {**document, "read": 0}
    assert asked == [3, 2]
    assert (album / "page.html").read_text() == page
    shown = myvlm(*words[:-1], "--quiet")
    assert shown.code == 0
    assert shown.stderr == ""
    assert f"{taught.word}\t{document['seen'][taught.word]}\n" in shown.stdout


def test_a_stopped_album_goes_on_where_it_was(
    myvlm: Myvlm, taught: Taught, album: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    counted, calls = MyVLM.caption, iter([False, True])

    def stopped(self: MyVLM, *words: Any, **options: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return counted(self, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MyVLM, "caption", stopped)
        run = myvlm("album", album, "--concepts", taught.folder, "--batch", 2)
    assert run.code == 130
    assert "Already written: album.html" in run.stderr
    assert "2 of 5 photos were read; run the same command again to continue" in run.stderr
    assert Path("album.html").exists()
    run = myvlm("album", album, "--concepts", taught.folder, "--batch", 2, "--json")
    assert (run.document["photos"], run.document["read"]) == (5, 3)
    assert asked == [2, 2, 1]


@needs_exiftool
@needs_exiv2
def test_names_are_written_once_and_taken_back(myvlm: Myvlm, taught: Taught, album: Path) -> None:
    before = digests(album)
    report = album.parent / "page.html"
    write = ["album", album, "--concepts", taught.folder, "--report", report, "--write-names", "--json"]
    run = myvlm(*write)
    assert run.code == 0, run.stderr
    seen = run.document["seen"][taught.word]
    named = sorted(album.rglob("*.xmp"))
    assert run.document["written"] == {"changed": len(named), "not_changed": 0}
    assert 2 <= len(named) <= seen  # unsure detections are not written
    for file in named:
        assert set(regions(file)) == {taught.word}
        assert words(file, "Xmp.dc.subject") == {taught.word}
    written = digests(album)
    again = myvlm(*write)
    assert (again.document["read"], again.document["written"]["changed"]) == (0, 0)
    assert digests(album) == written
    erased = myvlm("album", album, "--erase-names", taught.word, "--json")
    assert erased.code == 0, erased.stderr
    assert (erased.document["changed"], erased.document["photos"]) == (len(named), 5)
    assert digests(album) == before

    inside = myvlm(*write, "--into", "files")
    assert inside.document["written"]["changed"] == len(named)
    after = myvlm(*write, "--into", "files")
    assert (after.document["read"], after.document["written"]["changed"]) == (0, 0)
    assert myvlm("album", album, "--erase-names", taught.word).code == 0
    assert digests(album) == before


@needs_exiftool
def test_names_that_photos_have_become_concepts(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from myvlm.album.exiftool import exiftool

    photos = sorted(taught.photos.iterdir())
    folder = tmp_path / "tagged"
    folder.mkdir()
    with exiftool() as tool:
        for photo in photos:
            shutil.copy(photo, file := folder / photo.name)
            area = "Area={X=0.5,Y=0.5,W=0.8,H=0.8,Unit=normalized}"
            other = "Area={X=0.2,Y=0.2,W=0.4,H=0.4,Unit=normalized}"
            told = f"RegionList=[{{{area},Name=sks}},{{{other},Name=a/b,Type=Pet}}]"
            tool.change(file, [f"-XMP-mwg-rs:RegionInfo={{{told}}}"], keep_time=False)
    before, learned = digests(folder), []
    learn = MyVLM.learn

    def quickly(self: MyVLM, *words: Any, **options: Any) -> Concept:
        learned.append(options)
        return learn(self, *words, **options, settings={"steps": 2})

    monkeypatch.setattr(MyVLM, "learn", quickly)
    names = ["album", folder, "--import-names", "--concepts", "mine", "--json"]
    run = myvlm(*names, "--category", "sks=mug")
    assert run.code == 0, run.stderr
    assert run.document["imported"], run.stderr
    [found] = run.document["imported"]
    assert (found["name"], found["kind"], found["tagged"]) == ("sks", "object", 4)
    assert Path(found["folder"]) == Path("mine") / "sks-mug"
    assert [one["name"] for one in run.document["passed"]] == ["a/b"]
    concept = Concept.load(found["folder"])
    assert (concept.identifier, concept.category) == ("sks", "mug")
    assert learned[0]["category"] == "mug"
    again = myvlm(*names, "--only", "sks", "--category", "sks=mug")
    assert [one["name"] for one in again.document["passed"]] == ["sks"]
    assert "is already in use" in again.stderr
    assert digests(folder) == before
    nobody = myvlm(*names, "--only", "Anna")
    assert nobody.code == 2
    assert "sks (4)" in nobody.stderr


def test_wrong_calls_say_so_before_the_model_is_loaded(
    myvlm: Myvlm, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(MyVLM, "from_pretrained", loaded)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "empty").mkdir()
    for options, said in (
        ([tmp_path / "empty"], "contains no pictures"),
        ([album, "--report", tmp_path / "nowhere" / "page.html"], "cannot be written"),
        ([album, "--write-names"], "install"),
        ([album, "--erase-names", "sks"], "install"),
        ([album, "--import-names"], "install"),
        ([album, "--write-names", "--erase-names", "sks"], "one at a time"),
    ):
        run = myvlm("album", *options)
        assert run.code == 2, run.stderr
        assert said in run.stderr
    assert list(Path().iterdir()) == []
