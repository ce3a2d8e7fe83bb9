"""The `myvlm` command in process: stdout, stderr, exit codes and files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from myvlm import MyVLM
from myvlm.concepts.gates import Gates
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.records import rewrite
from tests.support.taught import Taught


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    """Three pictures with the concept, two with nothing similar, and a file that is not a picture."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(pictures([*taught.kit.present[:3], *taught.kit.other[:2]]), start=1):
        picture.save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


# ---------------------------------------------------------------- help


def test_help_is_quick_and_imports_no_model_library() -> None:
    seen = "print({'torch', 'transformers', 'open_clip', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    run = "from myvlm.cli import app\ntry: app()\nfinally: "
    for words in (["--help"], ["learn", "--help"], ["concepts", "--help"]):
        code = f"import sys; sys.argv = ['myvlm', *{words!r}]\n{run}{seen}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        assert done.stderr.strip().endswith("set()"), done.stderr


def test_help_says_what_is_taken_where_nothing_is_given(myvlm: Myvlm) -> None:
    for words, said in (
        (["learn"], "Default: concepts/NAME-CATEGORY."),
        (["questions"], "Default: IDENTIFIER-questions.json."),
        (["concepts", "list"], "Default: ./concepts."),
        (["caption"], "folders (without subfolders)"),
        (["album"], "needs myvlm[ray]"),
        (["learn"], "starts, and if a concept would be replaced"),  # a line ends there in the docstring
    ):
        assert said in myvlm(*words, "--help").stdout


def test_python_m_myvlm_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "myvlm", "--version"], capture_output=True, text=True, timeout=600
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
    assert taught.word in fresh.ask(album / "4.png", question).absent
    assert [one["absent"] for one in run.document["pictures"]] == [[], [taught.word]]
    table = myvlm("ask", album / "1.png", album / "4.png", question, "--concepts", taught.folder)
    assert [row.split("\t")[1][:4] for row in table.stdout.splitlines()[1:]] == [taught.word, "not "]
    alone = myvlm("ask", album / "4.png", question, "--concepts", taught.folder)
    assert alone.stdout.splitlines()[1:] == [f"absent: {taught.word}"]
    forgotten = myvlm("ask", album / "1.png", album / "4.png")
    assert forgotten.code == 2
    assert "put the question last" in forgotten.stderr
    for only, said in ((album / "1.png", "put the question last"), (question, "question is missing")):
        alone = myvlm("ask", only)
        assert alone.code == 2
        assert said in alone.stderr


def test_a_question_may_be_longer_than_the_name_of_a_file(myvlm: Myvlm, album: Path) -> None:
    question = "what colour is it ? " * 20
    run = myvlm("ask", album / "1.png", question, "--plain", "--json")
    assert run.code == 0, run.stderr
    assert run.document["question"] == question
    nobody = myvlm("locate", album / "1.png", "a" * 300)
    assert nobody.code == 3, nobody.stderr
    assert "There is no concept 'aaa" in nobody.stderr


def test_whoever_asks_for_fewer_false_names_gets_fewer_names(
    myvlm: Myvlm, taught: Taught, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float | None] = []
    monkeypatch.setattr(Gates, "set_false_names", lambda self, rate: held.append(rate))
    for words in (
        ["caption", album / "1.png"],
        ["ask", album / "1.png", "What is next to it?"],
        ["locate", album / "1.png", taught.word],
        ["album", album, "--report", album / "page.html"],
    ):
        done = myvlm(*words, "--concepts", taught.folder, "--false-names", "2.5")
        assert done.code == 0, done.stderr
        assert held == [0.0025], words
        held.clear()
    monkeypatch.undo()
    seen = {
        rate: [
            one["detections"][0]["probability"]
            for one in myvlm(
                "caption", album, "--concepts", taught.folder, "--false-names", rate, "--json"
            ).document["pictures"]
        ]
        for rate in ("50", "1e-9")
    }
    assert max(seen["50"]) > 0.9 > 0.1 > max(seen["1e-9"])


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
        (["caption", tmp_path / "empty"], 2, "contains no pictures"),
        (["caption", album / "1.png", "--concepts", tmp_path / "empty"], 2, "contains no concept"),
        (["caption", album / "1.png", "--concepts", tmp_path / "nowhere"], 2, "There is no concept folder"),
        (["caption", album / "1.png", "--backbone", "tinyworld/lava"], 3, "no model tinyworld/lava"),
        (["caption", album / "1.png", "--backbone", "no/such-model"], 3, "no/such-model"),
        (["concepts", "show", "nobody"], 3, "There is no concept 'nobody'"),
    ]
    for words, code, message in cases:
        run = myvlm(*words)
        assert run.code == code, run.stderr
        assert message in run.stderr
        assert run.stdout == ""
        assert "Traceback" not in run.stderr
        assert "fix" in run.stderr
        assert set(myvlm(*words, "--json").document) == {"error"}


def test_one_folder_may_be_named_twice(myvlm: Myvlm, taught: Taught, album: Path) -> None:
    for again in (taught.folder, taught.folder.parent, taught.folder / ".." / taught.folder.name):
        run = myvlm("caption", album / "1.png", "-c", taught.folder.parent, "-c", again, "--json")
        assert run.code == 0, run.stderr
        assert run.document["concepts"] == [taught.word]


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


def test_a_concept_for_another_model_that_no_words_are_known_of(
    myvlm: Myvlm, taught: Taught, album: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "mixed" / "my cup"
    shutil.copytree(taught.folder, foreign)
    shutil.copytree(taught.photos, foreign / "photos")

    def other(record: dict[str, Any]) -> None:
        record["embeddings"]["tinyworld/llava"]["fingerprint"] = "0" * 64
        record["embeddings"]["tinyworld/llava"]["settings"]["steps"] = 2
        record["recipe"].pop("description", None)

    rewrite(foreign, other)
    named = myvlm("caption", album / "1.png", "--concepts", foreign)
    assert named.code == 2
    assert "learned for another model" in named.stderr
    [command] = re.findall(r"`(myvlm relearn .*?)`", named.stderr)
    assert shlex.split(command)[2:] == [str(foreign), "--backbone", "tinyworld/llava"]
    found = myvlm("caption", album / "1.png", "--concepts", foreign.parent, "--json")
    assert found.code == 0
    assert found.document["concepts"] == []
    assert f"skipping {foreign}" in found.stderr
    assert command in found.stderr
    pasted = myvlm(*shlex.split(command)[1:])
    assert pasted.code == 0, pasted.stderr
    assert myvlm("caption", album / "1.png", "--concepts", foreign, "--json").document["concepts"] == [
        taught.word
    ]
