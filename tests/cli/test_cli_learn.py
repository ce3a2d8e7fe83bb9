"""`myvlm learn` and `myvlm concepts`: what they write, and that bad input writes nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from myvlm.cli import opening
from myvlm.cli.commands import demo
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk import storage as concept_folder
from myvlm.learning import teach
from tests.support.command import Myvlm, files_under
from tests.support.records import rewrite
from tests.support.taught import Taught

PHOTOS = Path(__file__).parents[3] / "shared" / "photos"


# ---------------------------------------------------------------- learn


def test_learn_writes_a_concept_that_caption_uses(myvlm: Myvlm, taught: Taught, tmp_path: Path) -> None:
    captions = {f"{n}.png": own for n, own in enumerate(taught.kit.captions(), start=1)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    learn = ["learn", taught.word, taught.photos, "--category", taught.kit.category, "--steps", 2]
    learn += ["--captions", tmp_path / "captions.json"]
    run = myvlm(*learn, "--rows", 2, "--json")
    assert run.code == 0, run.stderr
    folder = Path(run.document["folder"])
    assert folder == Path("concepts") / f"{taught.word}-{taught.kit.category}"
    assert run.document["captions"] == list(captions.values())
    assert run.document["captions_by"] == "user"
    assert run.document["head_figures"]["left_out_found"] == 1.0
    concept = Concept.load(folder)
    assert concept.embeddings["tinyworld/llava"].directions.shape[0] == 2
    assert concept.embeddings["tinyworld/llava"].settings["steps"] == 2
    assert "photos" not in files_under(folder)
    taken = myvlm(*learn, "--out", "concepts/another")
    assert taken.code == 2
    assert "is already in use" in taken.stderr
    again = myvlm(*learn, "--seed", 1, "--keep-photos", "--quiet")
    assert again.code == 0, again.stderr
    assert again.stderr == ""
    assert [name for name in files_under(folder) if name.startswith("photos/")] == [
        f"photos/{n}.png" for n in range(1, 5)
    ]
    assert files_under(Path("concepts"))[0] == folder.name
    used = myvlm("caption", taught.photos, "--json")
    assert used.document["concepts"] == [taught.word]


def test_bad_input_to_learn_writes_nothing(myvlm: Myvlm, taught: Taught, tmp_path: Path) -> None:
    word, photos = taught.word, taught.photos
    (tmp_path / "short.json").write_text(json.dumps([f"{word} here"]))
    (tmp_path / "stray.json").write_text(json.dumps({"1.png": word, "9.png": word}))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "number.json").write_text("[1, 2, 3, 4]")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    shutil.copytree(taught.folder, tmp_path / "concepts" / "other")
    before = files_under(tmp_path)
    cases: list[tuple[list[Any], str]] = [
        ([word, tmp_path / "gone"], "There is no file"),
        ([word, tmp_path / "full"], "contains no pictures"),
        ([" ", photos], "Invalid identifier"),
        (["qwertz", photos], "cannot write 'qwertz'"),
        ([word, photos, "--captions", f"{word} here"], "1 captions"),
        ([word, photos, *4 * ["--captions", "a mug"]], "does not name the concept"),
        ([word, photos, "--captions", tmp_path / "no.json"], "There is no file"),
        ([word, photos, "--captions", tmp_path / "short.json"], "1 captions"),
        ([word, photos, "--captions", tmp_path / "stray.json"], "no entry for"),
        ([word, photos, "--captions", tmp_path / "broken.json"], "is not JSON"),
        ([word, photos, "--captions", tmp_path / "number.json"], "a caption that is not text"),
        ([word, photos, "--questions", tmp_path / "short.json"], "Questions are given per photo"),
        ([word, photos, "--out", tmp_path / "full"], "No concept can be written"),
        ([word, photos, "--out", tmp_path / "file" / "concept"], "is a file"),
        (["sks", photos, "--out", tmp_path / "concepts" / "other"], "contains another concept"),
        ([word.upper(), photos, "--out", tmp_path / "concepts" / "new"], "is already in use"),
        ([word, photos, "--negatives", tmp_path / "gone"], "There is no file"),
    ]
    for words, message in cases:
        run = myvlm("learn", *words, "--category", "mug", "--steps", 2)
        assert run.code == 2, (words, run.stderr)
        assert message in run.stderr, (words, run.stderr)
        assert run.stdout == ""
        assert files_under(tmp_path) == before


def test_what_does_not_fit_is_found_before_the_model_is_loaded(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "open_model", None)
    stray = tmp_path / "stray.json"
    stray.write_text(json.dumps({"1.png": [], "9.png": []}))
    for options, said in (
        (["--category", "mug", "--captions", stray], f"The captions in {stray} do not match the photos"),
        (["--category", "mug", "--questions", stray], f"The questions in {stray} do not match the photos"),
        (["--category", " "], "Invalid category"),
    ):
        run = myvlm("learn", taught.word, taught.photos, *options)
        assert run.code == 2, run.stderr
        assert said in run.stderr


def test_a_place_that_may_not_be_written_is_found_before_the_model_is_loaded(
    myvlm: Myvlm, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "open_model", None)
    monkeypatch.setattr(demo, "open_model", None)
    monkeypatch.setattr(os, "access", lambda place, mode: not mode & os.W_OK)
    for words in (
        ["learn", taught.word, taught.photos, "--category", "mug", "--out", "new/cup"],
        ["relearn", taught.folder, taught.photos],
        ["questions", taught.word, taught.photos, "--category", "mug", "--out", "new/asked.json"],
        ["evaluate", taught.photos.parent, "--keep", "new/runs"],
        ["demo"],
    ):
        run = myvlm(*words)
        assert run.code == 2, run.stderr
        assert "cannot be written" in run.stderr
        assert "you may" in run.stderr or "writable" in run.stderr
    assert list(Path().iterdir()) == []


def test_a_concept_is_learned_again_with_captions_of_ones_own(
    myvlm: Myvlm, taught: Taught, tmp_path: Path
) -> None:
    shutil.copytree(taught.folder, "mug")
    rewrite(Path("mug"), lambda record: record["embeddings"]["tinyworld/llava"]["settings"].update(steps=2))
    (tmp_path / "own.json").write_text(json.dumps({"1.png": f"{taught.word} here"}))
    again = ["relearn", "mug", taught.photos / "1.png"]
    for captions in (tmp_path / "own.json", f"{taught.word} here"):
        run = myvlm(*again, "--captions", captions, "--json", "--keep-photos")
        assert run.code == 0, run.stderr
        assert run.document["captions"] == [[f"{taught.word} here"]]
    kept = myvlm("relearn", "mug", "--captions", tmp_path / "own.json", "--json")
    assert kept.code == 0, kept.stderr
    stray = myvlm("relearn", "mug", taught.photos / "2.png", "--captions", tmp_path / "own.json")
    assert stray.code == 2
    assert "do not match the photos" in stray.stderr


@pytest.mark.slow
def test_ctrl_c_writes_the_best_so_far_and_says_so(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        def report(step: int, *_: float) -> None:
            raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(teach, "learning_progress", interrupted)
    learn = ["learn", taught.word, taught.photos, "--category", "mug", "--out", "stopped"]
    run = myvlm(*learn, "--json")
    assert run.code == 130
    assert run.document["interrupted"] is True
    assert run.document["figures"]["steps"] == 1
    figures = Concept.load("stopped").embeddings["tinyworld/llava"].figures
    assert figures["interrupted"] is True
    before = Path("stopped/concept.json").read_bytes()
    again = myvlm(*learn, "--seed", 1)
    assert again.code == 130
    assert "Stopped. The concept in stopped is unchanged; the new one was not saved." in again.stderr
    quiet = myvlm(*learn, "--seed", 1, "--quiet", "--json")
    assert "The concept in stopped is unchanged" in quiet.stderr
    assert quiet.document == {"interrupted": True}
    assert Path("stopped/concept.json").read_bytes() == before
    shutil.rmtree("stopped")
    told = myvlm(*learn)
    assert told.code == 130
    assert "Stopped after 1 steps; the best embedding so far was saved." in told.stdout


def test_ctrl_c_before_the_first_step_writes_nothing(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(teach, "learn_embeddings", interrupted)
    before = files_under(tmp_path)
    run = myvlm("learn", taught.word, taught.photos, "--category", "mug")
    assert run.code == 130
    assert "Nothing was written" in run.stderr
    assert run.stdout == ""
    assert files_under(tmp_path) == before


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs JPEG folders in ../shared/photos beside the checkout")
def test_real_photographs_go_end_to_end(myvlm: Myvlm) -> None:
    learned = myvlm("learn", "sks", PHOTOS / "teapot", "--category", "teapot", "--steps", 2, "--json")
    assert learned.code == 0, learned.stderr
    assert learned.document["captions_by"] == "model"
    said = myvlm("caption", PHOTOS / "teapot", "--json")
    assert said.code == 0, said.stderr
    assert len(said.document["pictures"]) >= 3
    assert all(one["text"] for one in said.document["pictures"])


# ---------------------------------------------------------------- concepts on disk


def test_list_show_add_rename_remove(myvlm: Myvlm, taught: Taught) -> None:
    assert myvlm("concepts", "list", "--json").document == {
        "collection": "concepts", "concepts": [], "damaged": []
    }  # fmt: skip
    added = myvlm("concepts", "add", taught.folder, "--json")
    assert added.code == 0
    assert added.document["added"][0]["folder"] == "concepts/mug"
    [one] = myvlm("concepts", "list", "--json").document["concepts"]
    assert one["identifier"] == taught.word
    assert one["backbones"] == ["tinyworld/llava"]
    assert taught.word in myvlm("concepts", "list").stdout
    shown = myvlm("concepts", "show", taught.word, "--json").document
    assert shown["record"]["category"] == taught.kit.category
    assert "tinyworld/clip" in myvlm("concepts", "show", taught.word).stdout
    renamed = myvlm("concepts", "rename", taught.word, "Cuppa")
    assert renamed.code == 0
    loaded = Concept.load("concepts/mug")
    assert (loaded.identifier, loaded.spoken) == ("Cuppa", taught.word)
    assert "Cuppa" in Path("concepts/mug/README.md").read_text()
    for again in (
        ["learn", taught.word, taught.photos, "--category", "mug"],
        ["concepts", "add", taught.folder],
    ):
        refused = myvlm(*again)
        assert refused.code == 2
        assert "is already in use" in refused.stderr
        assert f"learned as '{taught.word}'" in refused.stderr
    removed = myvlm("concepts", "remove", "Cuppa", "--json")
    assert removed.document == {"removed": "Cuppa", "folder": "concepts/.removed/mug"}
    assert myvlm("concepts", "list", "--json").document["concepts"] == []
    assert myvlm("concepts", "remove", "Cuppa").code == 3
    assert myvlm("concepts", "add", "concepts/.removed/mug").code == 0
    erased = myvlm("concepts", "remove", "Cuppa", "--erase", "--json")
    assert erased.document["folders"] == ["concepts/mug", "concepts/.removed/mug"]
    assert files_under(Path("concepts")) == [".removed"]


def test_what_was_removed_comes_back_to_its_collection(myvlm: Myvlm, taught: Taught) -> None:
    myvlm("concepts", "add", taught.folder, "-c", "my things")
    removed = myvlm("concepts", "remove", taught.word, "-c", "my things")
    _, _, command = removed.stdout.partition("To restore it: myvlm ")
    assert myvlm(*shlex.split(command)).code == 0
    assert files_under(Path("my things"))[:2] == [".removed", ".removed/mug"]
    assert Path("my things/mug/concept.json").is_file()
    assert not Path("concepts").exists()


def test_a_damaged_concept_is_in_nobodys_way(myvlm: Myvlm, taught: Taught, tmp_path: Path) -> None:
    place = ["-c", "my things"]
    myvlm("concepts", "add", taught.folder, *place)
    shutil.copytree(taught.folder, "my things/old cup")
    record = Path("my things/old cup/concept.json")
    record.write_bytes(record.read_bytes()[:200])
    listed = myvlm("concepts", "list", *place)
    assert listed.code == 0
    assert "–\t–\tdamaged\t–\tmy things/old cup" in listed.stdout
    assert f"skipping my things/old cup, which is damaged: {record} is not JSON." in listed.stderr
    document = myvlm("concepts", "list", *place, "--json").document
    assert [one["identifier"] for one in document["concepts"]] == [taught.word]
    assert document["damaged"] == [{"folder": "my things/old cup", "what": f"{record} is not JSON."}]
    for words in (
        ["concepts", "show", taught.word, *place],
        ["concepts", "rename", taught.word, "Cuppa", *place],
        ["caption", taught.photos / "1.png", *place],
    ):
        run = myvlm(*words)
        assert run.code == 0, run.stderr
        assert "skipping my things/old cup" in run.stderr
    learn = ["learn", "sks", taught.photos, "--category", "mug", "--steps", 1, "--out"]
    assert "skipping my things/old cup" in myvlm(*learn, "my things/new").stderr
    there = myvlm(*learn, "my things/old cup")
    assert there.code == 2
    assert "fix: move my things/old cup elsewhere, or choose another folder with --out" in there.stderr
    named = myvlm("caption", taught.photos / "1.png", "-c", "my things/old cup")
    assert named.code == 2
    _, _, command = listed.stderr.partition("Move it elsewhere, or run: myvlm ")
    removed = myvlm(*shlex.split(command), "--json")
    assert removed.document == {"removed": "old cup", "folder": "my things/.removed/old cup"}
    assert myvlm("concepts", "list", *place).stderr == ""


def test_renaming_where_nothing_can_be_written(
    myvlm: Myvlm, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def forbidden(*_: Any) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied")
        yield

    myvlm("concepts", "add", taught.folder)
    monkeypatch.setattr(concept_folder, "replacing", forbidden)
    run = myvlm("concepts", "rename", taught.word, "Cuppa")
    assert run.code == 2
    assert "got: PermissionError: Permission denied" in run.stderr
    assert "fix: check who owns the folder, and whether the disk is full" in run.stderr


def test_two_that_were_learned_with_one_word_are_refused(myvlm: Myvlm, taught: Taught) -> None:
    myvlm("concepts", "add", taught.folder)
    myvlm("concepts", "rename", taught.word, "Cuppa")
    shutil.copytree(taught.folder, "concepts/twin")
    for words in (["concepts", "list"], ["caption", taught.photos]):
        run = myvlm(*words)
        assert run.code == 2
        assert f"'{taught.word}'" in run.stderr
    assert "mug and twin" in myvlm("concepts", "list").stderr


def test_renaming_keeps_every_number_and_what_is_the_users(myvlm: Myvlm, taught: Taught) -> None:
    myvlm("concepts", "add", taught.folder)
    (Path("concepts/mug") / "notes.txt").write_text("from grandma")
    before = {name: (Path("concepts/mug") / name).read_bytes() for name in _tensors(Path("concepts/mug"))}
    assert myvlm("concepts", "rename", taught.word, "Cuppa").code == 0
    assert len(before) == 3
    assert {name: (Path("concepts/mug") / name).read_bytes() for name in before} == before
    assert (Path("concepts/mug") / "notes.txt").read_text() == "from grandma"


def _tensors(folder: Path) -> list[str]:
    return [name for name in files_under(folder) if name.endswith(".safetensors")]


def test_bad_input_to_concepts(myvlm: Myvlm, taught: Taught, tmp_path: Path) -> None:
    myvlm("concepts", "add", taught.folder)
    shutil.copytree(taught.folder, tmp_path / "cut")
    (tmp_path / "cut" / "head.safetensors").write_bytes(b"")
    before = files_under(tmp_path)
    cases: list[tuple[list[Any], int, str]] = [
        (["add", taught.folder], 2, "is already in use"),
        (["add", tmp_path / "nowhere"], 2, "There is no concept folder"),
        (["add", tmp_path / "cut"], 2, "was truncated or modified"),
        (["add", tmp_path / "here"], 2, "is not a concept folder"),
        (["rename", taught.word, "a/b"], 2, "Invalid identifier"),
        (["rename", "nobody", "x"], 3, "There is no concept 'nobody'"),
        (["show", taught.word.upper()], 3, "There is no concept"),
        (["list", "--concepts", tmp_path / "nowhere"], 2, "There is no folder"),
        (["list", "--concepts", taught.folder], 2, "is a single concept"),
        (["remove", taught.word, "--concepts", taught.folder], 2, f"{taught.folder.parent}"),
    ]
    for words, code, message in cases:
        run = myvlm("concepts", *words)
        assert run.code == code, (words, run.stderr)
        assert message in run.stderr, (words, run.stderr)
        assert files_under(tmp_path) == before
    assert myvlm("concepts", "list", "--json").document["concepts"][0]["identifier"] == taught.word
