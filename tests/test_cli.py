"""The `myvlm` command, in process: stdout, stderr, exit codes, and what is written to disk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Taught, around
from typer.testing import CliRunner

from myvlm import MyVLM, api
from myvlm.cli import app
from myvlm.concept import Concept
from myvlm.tinyworld.fewshot import pictures

PHOTOS = Path(__file__).parents[2] / "shared" / "photos"


class Run:
    """What one run of the command left: exit code, stdout, and stderr with its frames and wraps undone."""

    def __init__(self, result: Any) -> None:
        self.code = result.exit_code
        self.stdout = result.stdout
        self.stderr = " ".join(re.sub(r"[─│╭╮╰╯]", " ", result.stderr).split())

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


Myvlm = Callable[..., Run]


@pytest.fixture
def myvlm(vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Myvlm:
    """Runs the command in an empty working folder, around the model that is already loaded."""
    from_pretrained = MyVLM.from_pretrained
    here = tmp_path / "here"
    here.mkdir()

    def loaded(name: str, **options: Any) -> MyVLM:
        return around(vlm) if name == "tinyworld/llava" else from_pretrained(name, **options)

    monkeypatch.setattr(MyVLM, "from_pretrained", loaded)
    monkeypatch.chdir(here)
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *words: Run(runner.invoke(app, [str(word) for word in words]))


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    """Three pictures with the concept, two with nothing like it, and a file that is no picture."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(pictures([*taught.kit.present[:3], *taught.kit.other[:2]]), start=1):
        picture.save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def files_under(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


# ---------------------------------------------------------------- help


def test_help_is_quick_and_imports_no_model_library() -> None:
    seen = "print({'torch', 'transformers', 'open_clip', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    run = "from myvlm.cli import app\ntry: app()\nfinally: "
    for words in (["--help"], ["learn", "--help"], ["concepts", "--help"]):
        code = f"import sys; sys.argv = ['myvlm', *{words!r}]\n{run}{seen}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        assert done.stderr.strip().endswith("set()"), done.stderr


def test_python_m_myvlm_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "myvlm", "--version"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert re.fullmatch(r"myvlm \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ["caption"],
        ["learn", "sks"],
        ["nonsense"],
        ["learn", "sks", "a.png"],
        [*"learn sks a.png --category mug --steps some".split()],
    ],
)
def test_a_command_that_is_not_whole_is_a_usage_error(myvlm: Myvlm, words: list[str]) -> None:
    run = myvlm(*words)
    assert run.code == 2
    assert run.stdout == ""
    assert "Usage" in run.stderr


# ---------------------------------------------------------------- caption and ask


def test_one_picture_is_told_in_words(myvlm: Myvlm, taught: Taught, album: Path) -> None:
    run = myvlm("caption", album / "1.png", "--concepts", taught.folder)
    assert run.code == 0
    said = myvlm("caption", album / "1.png", "--concepts", taught.folder, "--json")
    assert said.code == 0
    assert run.stdout.splitlines()[0] == said.document["pictures"][0]["text"]
    plain = myvlm("caption", album / "1.png")
    assert plain.code == 0
    assert "No concepts are loaded" in plain.stderr
    assert "seen" not in plain.stdout


def test_an_album_is_a_table_of_what_the_api_says(
    myvlm: Myvlm, taught: Taught, album: Path, fresh: MyVLM
) -> None:
    fresh.concepts.add(taught.folder)
    replies = fresh.caption(album)
    run = myvlm("caption", album, "--concepts", taught.folder.parent, "--batch", 2, "--json")
    assert run.code == 0
    document = run.document
    assert document["backbone"] == "tinyworld/llava"
    assert document["concepts"] == [taught.word]
    assert [Path(one["picture"]).name for one in document["pictures"]] == [f"{n}.png" for n in range(1, 6)]
    assert [one["text"] for one in document["pictures"]] == [reply.text for reply in replies]
    assert [tuple(one["seen"]) for one in document["pictures"]] == [reply.seen for reply in replies]
    assert sum(taught.word in one["seen"] for one in document["pictures"]) >= 2
    for one in document["pictures"]:
        [detection] = one["detections"]
        assert 0 <= detection["probability"] <= 1
        assert (detection["box"] is None) or len(detection["box"]) == 4
    table = myvlm("caption", f"{album}/*.png", "--concepts", taught.folder, "--quiet")
    assert table.code == 0
    assert table.stderr == ""
    head, *rows = table.stdout.splitlines()
    assert head.split() == ["picture", "seen", "caption"]
    assert sum(".png" in row for row in rows) == 5


def test_plain_and_default_concepts(myvlm: Myvlm, taught: Taught, album: Path) -> None:
    assert myvlm("concepts", "add", taught.folder).code == 0
    with_concepts = myvlm("caption", album / "1.png", "--json").document
    assert with_concepts["concepts"] == [taught.word]
    assert len(with_concepts["pictures"][0]["detections"]) == 1
    plain = myvlm("caption", album / "1.png", "--plain", "--json").document
    assert plain["concepts"] == []
    assert plain["pictures"][0]["detections"] == []


def test_ask(myvlm: Myvlm, taught: Taught, album: Path, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.folder)
    question = f"where is {taught.word} ?"
    run = myvlm("ask", album / "1.png", album / "4.png", question, "--concepts", taught.folder, "--json")
    assert run.code == 0
    assert run.document["question"] == question
    expected = [reply.text for reply in fresh.ask([album / "1.png", album / "4.png"], question)]
    assert [one["text"] for one in run.document["pictures"]] == expected
    forgotten = myvlm("ask", album / "1.png", album / "4.png")
    assert forgotten.code == 2
    assert "put the question last" in forgotten.stderr


def test_a_broken_picture_does_not_stop_an_album(myvlm: Myvlm, album: Path) -> None:
    (album / "3.png").write_bytes(b"\x89PNG nothing")
    run = myvlm("caption", album, "--batch", 2, "--json")
    assert run.code == 2
    assert "3.png cannot be read as a picture" in run.stderr
    said = run.document["pictures"]
    assert [("text" in one, "error" in one) for one in said].count((True, False)) == 4
    assert said[2]["error"]["kind"] == "ImageError"
    alone = myvlm("caption", album / "3.png", "--json")
    assert alone.code == 2
    assert "3.png" in alone.document["error"]["what"]


def test_what_is_not_there(myvlm: Myvlm, album: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[Any], int, str]] = [
        (["caption", tmp_path / "gone.jpg"], 2, "There is no file"),
        (["caption", tmp_path / "empty"], 2, "holds no pictures"),
        (["caption", album / "1.png", "--concepts", tmp_path / "empty"], 2, "holds no concept"),
        (["caption", album / "1.png", "--concepts", tmp_path / "nowhere"], 2, "There is no concept folder"),
        (["caption", album / "1.png", "--backbone", "tinyworld/lava"], 3, "no embedded model tinyworld/lava"),
        (["caption", album / "1.png", "--backbone", "no/such-model"], 3, "no/such-model"),
        (["caption", album / "1.png", "--device", "abacus"], 2, "There is no device 'abacus'"),
        (["concepts", "show", "nobody"], 3, "No concept 'nobody'"),
    ]
    for words, code, message in cases:
        run = myvlm(*words)
        assert run.code == code, run.stderr
        assert message in run.stderr
        assert run.stdout == ""
        assert "Traceback" not in run.stderr
        assert "fix" in run.stderr
        assert set(myvlm(*words, "--json").document) == {"error"}


def test_a_fault_of_ours_is_not_dressed_up(
    myvlm: Myvlm, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(MyVLM, "caption", fault)
    run = myvlm("caption", album / "1.png", "--json")
    assert run.code == 1
    assert "Traceback" in run.stderr
    assert run.document == {"error": {"kind": "ZeroDivisionError", "what": "oh"}}


def test_a_concept_for_another_model(myvlm: Myvlm, taught: Taught, album: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mixed" / "foreign"
    shutil.copytree(taught.folder, foreign)
    record = json.loads((foreign / "concept.json").read_text())
    record["embeddings"]["tinyworld/llava"]["fingerprint"] = "0" * 64
    (foreign / "concept.json").write_text(json.dumps(record))
    named = myvlm("caption", album / "1.png", "--concepts", foreign)
    assert named.code == 2
    assert "learned for another model" in named.stderr
    found = myvlm("caption", album / "1.png", "--concepts", foreign.parent, "--json")
    assert found.code == 0
    assert found.document["concepts"] == []
    assert "passing over" in found.stderr


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
    concept = Concept.load(folder)
    assert concept.embeddings["tinyworld/llava"].directions.shape[0] == 2
    assert concept.embeddings["tinyworld/llava"].settings["steps"] == 2
    assert "photos" not in files_under(folder)
    taken = myvlm(*learn, "--out", "concepts/another")
    assert taken.code == 2
    assert "is taken" in taken.stderr
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
        ([word, tmp_path / "full"], "holds no pictures"),
        ([" ", photos], "cannot be the identifier"),
        (["qwertz", photos], "cannot write 'qwertz'"),
        ([word, photos, "--captions", f"{word} here"], "1 captions"),
        ([word, photos, *4 * ["--captions", "a mug"]], "does not name the concept"),
        ([word, photos, "--captions", tmp_path / "no.json"], "There is no file"),
        ([word, photos, "--captions", tmp_path / "short.json"], "1 captions"),
        ([word, photos, "--captions", tmp_path / "stray.json"], "nothing for"),
        ([word, photos, "--captions", tmp_path / "broken.json"], "is not JSON"),
        ([word, photos, "--captions", tmp_path / "number.json"], "a caption that is no text"),
        ([word, photos, "--questions", tmp_path / "short.json"], "Questions are given by photo"),
        ([word, photos, "--out", tmp_path / "full"], "No concept can be written"),
        ([word, photos, "--out", tmp_path / "file" / "concept"], "is a file"),
        (["sks", photos, "--out", tmp_path / "concepts" / "other"], "holds another concept"),
        ([word.upper(), photos, "--out", tmp_path / "concepts" / "new"], "is taken"),
        ([word, photos, "--negatives", tmp_path / "gone"], "There is no file"),
    ]
    for words, message in cases:
        run = myvlm("learn", *words, "--category", "mug", "--steps", 2)
        assert run.code == 2, (words, run.stderr)
        assert message in run.stderr, (words, run.stderr)
        assert run.stdout == ""
        assert files_under(tmp_path) == before


def test_ctrl_c_writes_the_best_so_far_and_says_so(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        def report(step: int, *_: float) -> None:
            raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(api, "learning_progress", interrupted)
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
    assert "stopped keeps the concept that it had. Stopped. Nothing was written." in again.stderr
    assert Path("stopped/concept.json").read_bytes() == before
    shutil.rmtree("stopped")
    told = myvlm(*learn)
    assert told.code == 130
    assert "Stopped after 1 steps; the best so far is kept." in told.stdout


def test_ctrl_c_before_the_first_step_writes_nothing(
    myvlm: Myvlm, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "learn_embeddings", interrupted)
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
    assert myvlm("concepts", "list", "--json").document == {"collection": "concepts", "concepts": []}
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
    removed = myvlm("concepts", "remove", "Cuppa", "--json")
    assert removed.document == {"removed": "Cuppa", "folder": "concepts/.removed/mug"}
    assert myvlm("concepts", "list", "--json").document["concepts"] == []
    assert myvlm("concepts", "remove", "Cuppa").code == 3
    assert myvlm("concepts", "add", "concepts/.removed/mug").code == 0
    erased = myvlm("concepts", "remove", "Cuppa", "--erase", "--json")
    assert erased.document["folders"] == ["concepts/mug", "concepts/.removed/mug"]
    assert files_under(Path("concepts")) == [".removed"]


def test_renaming_keeps_every_number_and_what_is_the_users(myvlm: Myvlm, taught: Taught) -> None:
    myvlm("concepts", "add", taught.folder)
    (Path("concepts/mug") / "notes.txt").write_text("from grandma")
    before = {name: (Path("concepts/mug") / name).read_bytes() for name in _tensors(Path("concepts/mug"))}
    assert myvlm("concepts", "rename", taught.word, "Cuppa").code == 0
    assert len(before) == 2
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
        (["add", taught.folder], 2, "is taken"),
        (["add", tmp_path / "nowhere"], 2, "There is no concept folder"),
        (["add", tmp_path / "cut"], 2, "was cut or altered"),
        (["add", tmp_path / "here"], 2, "is no concept folder"),
        (["rename", taught.word, "a/b"], 2, "cannot be the identifier"),
        (["rename", "nobody", "x"], 3, "No concept 'nobody'"),
        (["show", taught.word.upper()], 3, "No concept"),
        (["list", "--concepts", tmp_path / "nowhere"], 2, "There is no folder"),
    ]
    for words, code, message in cases:
        run = myvlm("concepts", *words)
        assert run.code == code, (words, run.stderr)
        assert message in run.stderr, (words, run.stderr)
        assert files_under(tmp_path) == before
    assert myvlm("concepts", "list", "--json").document["concepts"][0]["identifier"] == taught.word
