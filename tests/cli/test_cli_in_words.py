"""Concepts without an embedding for the model on the command line: used as introduced, and never lost."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myvlm import Concept, MyVLM
from myvlm.cli import opening
from myvlm.concepts.embedding import Embedding
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm, files_under
from tests.support.records import rewrite
from tests.support.taught import Taught

PHRASE = "the dotted purple mug"


@pytest.fixture
def desk(taught: Taught, tmp_path: Path) -> Path:
    pictures(taught.kit.present[:1])[0].save(tmp_path / "desk.png")
    return tmp_path / "desk.png"


@pytest.fixture(params=["introduced", "learned for another model"])
def foreign(request: pytest.FixtureRequest, taught: Taught, tmp_path: Path) -> Path:
    """A concept with a description and without an embedding for the model."""
    folder = tmp_path / "mixed" / "my cup"
    shutil.copytree(taught.folder, folder)

    def other(record: dict[str, Any]) -> None:
        record["recipe"]["description"] = PHRASE
        record["embeddings"]["tinyworld/llava"]["fingerprint"] = "0" * 64
        if request.param == "introduced":
            record["embeddings"].clear()

    rewrite(folder, other)
    return folder


def place_of(taught: Taught) -> Path:
    return Path("concepts") / f"{taught.word}-{taught.kit.category}"


def with_another(folder: Path) -> None:
    """Add an embedding for another model to a concept."""
    concept = Concept.load(folder)
    learned = Embedding(np.ones((1, 4), np.float32), "none", "Describe.", "f00d")
    concept.embeddings["org/other"] = learned
    concept.save(folder)


def test_what_was_not_learned_is_told_in_words_as_in_python(
    myvlm: Myvlm, taught: Taught, foreign: Path, desk: Path, fresh: MyVLM, caplog: pytest.LogCaptureFixture
) -> None:
    fresh.concepts.add(foreign)
    caplog.clear()
    asked = f"where is {taught.word} ?"
    for place in (foreign, foreign.parent):
        said = myvlm("caption", desk, "--concepts", place, "--json")
        assert said.code == 0, said.stderr
        assert said.document["concepts"] == [taught.word]
        assert said.document["pictures"][0]["text"] == fresh.caption(desk).text
        assert said.stderr.count("No embedding for") == 1
        assert f'"{taught.word} is {PHRASE}."' in said.stderr
        [command] = re.findall(r"`(myvlm relearn .*?)`", said.stderr)
        assert shlex.split(command)[2] == str(foreign)
    assert taught.word in said.document["pictures"][0]["text"]
    answer = myvlm("ask", desk, asked, "--concepts", foreign, "--json", "--quiet")
    assert answer.document["pictures"][0]["text"] == fresh.ask(desk, asked).text
    assert answer.stderr == ""
    found = myvlm("locate", desk, taught.word, "--concepts", foreign, "--json", "--quiet").document
    expected = fresh.locate(desk, taught.word)
    assert found["pictures"][0]["said"] == expected.said
    assert found["pictures"][0]["box"] == pytest.approx(expected.box, abs=0.1)
    page = desk.parent / "page.html"
    album = myvlm("album", desk, "--concepts", foreign.parent, "--report", page, "--json")
    assert album.document["seen"] == {taught.word: 1}
    assert "learned for another model" not in caplog.text, "the note says it"


def test_what_was_introduced_is_learned_by_the_command_that_is_shown(
    myvlm: Myvlm, taught: Taught, desk: Path
) -> None:
    made = myvlm("introduce", taught.word, taught.photos, "--category", "mug", "--keep-photos", "--json")
    assert made.code == 0, made.stderr
    told = myvlm("caption", desk, "--json")
    assert told.document["concepts"] == [taught.word]
    [command] = re.findall(r"`(myvlm relearn .*?)`", told.stderr)
    learned = myvlm(*shlex.split(command)[1:], "--json")
    assert learned.code == 0, learned.stderr
    assert learned.document["captions_by"] == "model"
    kept = Concept.load(made.document["folder"])
    assert kept.recipe["photos"] == [f"{number}.png" for number in range(1, 5)]
    assert kept.recipe["captions"] == learned.document["captions"]
    assert kept.description == made.document["description"]
    assert "No embedding for" not in myvlm("caption", desk, "--json").stderr


def test_introducing_destroys_nothing_that_was_learned(
    myvlm: Myvlm, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(taught.folder, place_of(taught))
    monkeypatch.setattr(opening, "open_model", None)
    before = {name: (Path() / name).stat().st_mtime_ns for name in files_under(Path())}
    words = ["introduce", taught.word, taught.photos, "--category", taught.kit.category]
    for place in ([], ["--out", place_of(taught)]):
        run = myvlm(*words, *place)
        assert run.code == 2
        assert f"{place_of(taught)} already holds {taught.word} as a learned concept." in run.stderr
        assert "got: learned for tinyworld/llava" in run.stderr
        assert f"fix: myvlm concepts remove {taught.word} first" in run.stderr
    assert {name: (Path() / name).stat().st_mtime_ns for name in files_under(Path())} == before


def test_what_was_introduced_is_introduced_again(myvlm: Myvlm, taught: Taught) -> None:
    words = ["introduce", taught.word, taught.photos, "--category", "mug", "--description"]
    assert myvlm(*words, "the mug").code == 0
    again = myvlm(*words, PHRASE, "--json", "--quiet")
    assert again.code == 0, again.stderr
    assert Concept.load(again.document["folder"]).description == PHRASE
    assert not Path("concepts/.removed").exists()


def test_learning_anew_puts_aside_what_it_replaces_and_says_so(
    myvlm: Myvlm, taught: Taught, desk: Path, fresh: MyVLM
) -> None:
    place = place_of(taught)
    shutil.copytree(taught.folder, place)
    (place / "notes.txt").write_text("from grandma")
    concept = fresh.concepts.add(place)
    fresh.correct(desk, taught.word, present=False)
    concept.save(place)
    with_another(place)
    learn = ["learn", taught.word, taught.photos, "--category", taught.kit.category, "--steps", 1]
    run = myvlm(*learn)
    assert run.code == 0, run.stderr
    before, _, after = run.stderr.partition(", which will be lost. ")
    texts = "the captions that you wrote"
    assert f"{place} has the embedding for org/other, 1 correction and {texts}" in before
    assert "Left out in turn, 4 of 4 photos are recognized by the others.\n" in run.stdout
    assert f"A copy goes to {place.parent}/.removed. To keep it, run instead: myvlm relearn {place}" in after
    assert f"{place} PHOTOS" in after
    aside = place.parent / ".removed" / place.name
    assert f"; a copy is in {aside}" in after
    assert list(Concept.load(place).embeddings) == ["tinyworld/llava"]
    assert (place / "notes.txt").read_text() == "from grandma"
    kept = Concept.load(aside)
    assert list(kept.embeddings) == ["tinyworld/llava", "org/other"]
    again = myvlm(*learn, "--quiet")
    assert again.code == 0, again.stderr
    assert [one.name for one in aside.parent.iterdir()] == [place.name], "nothing was lost this time"
    assert myvlm("concepts", "remove", taught.word, "--erase").code == 0
    assert list(aside.parent.iterdir()) == []
