"""`myvlm completeness`: draw a sample of an album, label it and count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.taught import Taught


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    shown = pictures([*taught.kit.present[:3], *taught.kit.other[:4]])
    (folder / "2024").mkdir()
    for number, picture in enumerate(shown):
        picture.save(folder / ("2024" if number == 5 else "") / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_an_album_is_sampled_and_counted(myvlm: Myvlm, taught: Taught, album: Path, tmp_path: Path) -> None:
    collection = tmp_path / "concepts"
    shutil.copytree(taught.folder, collection / "mug")
    sample = tmp_path / "bo.json"
    run = myvlm("completeness", "draw", album, taught.word, "--out", sample, "-c", collection)
    assert run.code == 0, run.stderr
    assert "skipped: " in run.stderr
    assert "broken.png" in run.stderr
    assert "7 of 7 photos are in" in run.stdout
    document = json.loads(sample.read_text(encoding="utf-8"))
    assert document["album"] == {"seen": 3, "unsure": 0, "not seen": 4}
    run = myvlm("completeness", "count", sample)
    assert run.code == 2
    assert "no labels for the photos where it is seen" in run.stderr
    for name, one in document["photos"].items():
        one["shows"] = Path(name).stem in "0123"
    sample.write_text(json.dumps(document), encoding="utf-8")
    run = myvlm("completeness", "count", sample, "--json")
    assert run.code == 0, run.stderr
    counted = run.document
    assert (counted["found"], counted["total"], counted["low"], counted["high"]) == (3, 4, 4, 4)
    assert counted["recall"] == 0.75
    run = myvlm("completeness", "count", sample)
    assert f"3 of about 4 photos of {taught.word}, 95 % interval 4 to 4" in run.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "other JSON"), ("{}", "other JSON"), ('{"identifier": "a", "album": {"seen": 1}}', "other JSON")],
)
def test_what_is_no_sample_is_refused(myvlm: Myvlm, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bo.json").write_text(text)
    run = myvlm("completeness", "count", tmp_path / "bo.json")
    assert run.code == 2
    assert message in run.stderr


def test_an_answer_that_is_neither_true_nor_false_is_named(myvlm: Myvlm, tmp_path: Path) -> None:
    album = {"seen": 1, "unsure": 0, "not seen": 0}
    document = {"identifier": "a", "album": album, "photos": {"1.jpg": {"part": "seen", "shows": "yes"}}}
    (tmp_path / "bo.json").write_text(json.dumps(document))
    run = myvlm("completeness", "count", tmp_path / "bo.json")
    assert run.code == 2
    assert "1.jpg" in run.stderr
