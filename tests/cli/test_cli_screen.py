"""Output of the `myvlm` command: in a terminal, in a pipe, interrupted, on a full disk."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from myvlm import MyVLM
from myvlm.cli.screen import Screen
from myvlm.errors import InputError
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.taught import Taught

LONG = "a long name of a folder " * 12 + "with two spaces"


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    """Four pictures, two of them with the concept, in a folder whose path is longer than a line."""
    folder = tmp_path / LONG[:200] / LONG[:100]
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures([*taught.kit.present[:2], *taught.kit.other[:2]]), start=1):
        picture.save(folder / f"{number}.png")
    return folder


def written(part: Text | Table) -> str:
    """What a screen writes to stdout."""
    stdout = io.StringIO()
    Screen(stdout, as_json=False, quiet=False).show({}, part)
    return stdout.getvalue()


def failing(method: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """The method, raising the error at its third picture."""
    seen: list[object] = []

    def failing_method(self: MyVLM, images: Any, *words: Any, **named: Any) -> Any:
        seen.extend(images if isinstance(images, list) else [images])
        if len(seen) > 2:
            raise error
        return method(self, images, *words, **named)

    return failing_method


# ---------------------------------------------------------------- in a pipe and in a terminal


def test_a_pipe_gets_one_line_a_picture(myvlm: Myvlm, taught: Taught, album: Path) -> None:
    words = [album, "--concepts", taught.folder]
    run = myvlm("caption", *words)
    assert run.code == 0, run.stderr
    said = myvlm("caption", *words, "--json").document
    assert said["interrupted"] is False
    head, *lines = run.stdout.splitlines()
    assert head == "picture\tseen\tcaption"
    assert [line.split("\t")[0] for line in lines] == [str(album / f"{n}.png") for n in range(1, 5)]
    assert [line.split("\t")[2] for line in lines] == [one["text"] for one in said["pictures"]]
    head, *lines = myvlm("locate", album, taught.word, *words[1:]).stdout.splitlines()
    assert head.split("\t") == ["picture", "left", "top", "right", "bottom", "source"]
    assert [line.split("\t")[0] for line in lines] == [str(album / f"{n}.png") for n in range(1, 5)]


def test_a_terminal_gets_a_table_with_whole_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    table = Table("picture", "caption", box=None)
    table.add_row(Text("x" * 100), Text("a mug"))
    assert written(table).count("x") == 100
    assert written(Text(LONG)) == LONG + "\n"


def test_notes_and_errors_are_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = Screen(io.StringIO(), as_json=False, quiet=False)
    shown.note(LONG)
    shown.fail(InputError("No.", fix=LONG))
    assert capsys.readouterr().err == f"{LONG}\nerror: No.\n  fix:      {LONG}\n"


# ---------------------------------------------------------------- stopped half way


@pytest.mark.parametrize("command", ["caption", "ask", "locate"])
def test_a_stopped_album_shows_what_was_made(
    myvlm: Myvlm, taught: Taught, album: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = {"caption": ["--batch", 2], "ask": ["what is this ?", "--batch", 2], "locate": [taught.word]}
    words = [command, album, *words[command], "--concepts", taught.folder]
    whole, lines = myvlm(*words, "--json").document, myvlm(*words).stdout.splitlines()
    method = getattr(MyVLM, command)
    monkeypatch.setattr(MyVLM, command, failing(method, KeyboardInterrupt()))
    run = myvlm(*words, "--json")
    assert run.code == 130
    assert run.document == {**whole, "interrupted": True, "pictures": whole["pictures"][:2]}
    monkeypatch.setattr(MyVLM, command, failing(method, KeyboardInterrupt()))
    told = myvlm(*words)
    assert told.code == 130
    assert told.stdout.splitlines() == lines[:3]
    assert "Stopped after 2 pictures." in told.stderr
    monkeypatch.setattr(MyVLM, command, failing(method, ZeroDivisionError("oh")))
    fault = myvlm(*words, "--json")
    assert fault.code == 1
    assert fault.document["pictures"] == whole["pictures"][:2]
    assert fault.document["error"] == {"kind": "ZeroDivisionError", "what": "oh"}
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(MyVLM, command, failing(method, KeyboardInterrupt()))
    shown = myvlm(*words, "--quiet")
    assert shown.code == 130
    assert shown.stdout.count(".png") == 2


# ---------------------------------------------------------------- a stdout that is not as usual


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_encoding_of_stdout_will_do(encoding: str, tmp_path: Path) -> None:
    place = tmp_path / "t\N{LATIN SMALL LETTER U WITH DIAERESIS}r \N{EN DASH} \udcff"
    place.mkdir()

    def stdout(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "myvlm", *words],
            env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(encoding)

    shown = str(place).encode(encoding, errors="backslashreplace").decode(encoding)
    assert stdout("concepts", "list", "-c", str(place)) == f"There are no concepts in {shown}.\n"
    assert json.loads(stdout("concepts", "list", "-c", str(place), "--json"))["collection"] == str(place)
    assert "Usage" in stdout("--help")
    assert "Usage" in stdout("learn", "--help")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "nobody", "--json"]])
def test_a_full_disk_is_said_once(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "myvlm", "concepts", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=600, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == (3 if "show" in words else 2), done.stderr
    assert done.stderr.count("cannot be written to the standard output") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_what_may_not_be_read_is_bad_input(myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "concepts/secret")

    monkeypatch.setattr("myvlm.concepts.collection.concept_folders", forbidden)
    run = myvlm("concepts", "list", "--json")
    assert run.code == 2
    assert "There is no permission to use concepts/secret." in run.stderr
    assert run.document["error"]["got"] == "Permission denied"


def test_no_bar_is_shown_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Screen(io.StringIO(), as_json=False, quiet=False)
    for total in (0, 2):
        with shown.progress("reading", total):
            pass
        assert ("reading" in capsys.readouterr().err) is (total > 0)
