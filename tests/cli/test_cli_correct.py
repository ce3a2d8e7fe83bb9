"""`myvlm correct`: a correction is saved in the concept's folder and can be undone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from myvlm.concepts.concept import Concept
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.taught import Taught


@pytest.fixture
def collection(taught: Taught, tmp_path: Path) -> Path:
    shutil.copytree(taught.folder, tmp_path / "concepts" / "mug")
    return tmp_path / "concepts"


@pytest.fixture
def desk(taught: Taught, tmp_path: Path) -> Path:
    picture = pictures(taught.kit.present[:1])[0]
    picture.save(tmp_path / "desk.png")
    return tmp_path / "desk.png"


def _present(collection: Path, picture: Path) -> bool:
    return Concept.load(collection / "mug").head.score(str(picture))[0].present


def test_a_folder_learns_from_a_picture_and_forgets_it(
    myvlm: Myvlm, taught: Taught, collection: Path, desk: Path
) -> None:
    assert _present(collection, desk)
    run = myvlm("correct", desk, taught.word, "--not-there", "-c", collection, "--json", "--quiet")
    assert run.code == 0, run.stderr
    said = run.document
    assert (said["picture"], said["present"]) == ("desk.png", False)
    assert (said["held"], said["corrections"]) == (True, 1)
    assert said["score"]["before"] >= 0.5 > said["score"]["after"]
    assert all(one["after"] >= 0.5 for one in said["photos"])
    assert len(said["photos"]) == 4
    assert not _present(collection, desk)
    assert "desk.png: not there" in (collection / "mug" / "README.md").read_text()
    run = myvlm("correct", desk, taught.word, "--undo", "-c", collection)
    assert run.code == 0, run.stderr
    assert "may again be in desk.png" in run.stdout
    assert _present(collection, desk)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --there, --not-there and --undo"),
        (["--undo", "--there"], "one of --there, --not-there and --undo"),
        (["--there", "--box", "1,2,3"], "four numbers"),
        (["--there", "--box", "0,0,9999,10"], "is not a part"),
        (["--undo"], "has no correction by desk.png"),
    ],
)
def test_what_cannot_be_said_is_an_error_and_changes_nothing(
    myvlm: Myvlm, taught: Taught, collection: Path, desk: Path, words: list[str], message: str
) -> None:
    before = (collection / "mug" / "concept.json").read_bytes()
    run = myvlm("correct", desk, taught.word, *words, "-c", collection)
    assert run.code == 2
    assert message in run.stderr
    assert (collection / "mug" / "concept.json").read_bytes() == before


def test_no_such_concept_and_several_pictures(
    myvlm: Myvlm, taught: Taught, collection: Path, desk: Path
) -> None:
    run = myvlm("correct", desk, "gone", "--there", "-c", collection)
    assert run.code == 3
    assert "There is no concept 'gone'" in run.stderr
    shutil.copy(desk, desk.with_name("other.png"))
    run = myvlm("correct", desk.parent, taught.word, "--there", "-c", collection)
    assert run.code == 2
    assert "one picture at a time" in run.stderr
