"""Wrong command lines: an error with got, expected and fix, and no files left behind."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.command import Myvlm
from tests.support.taught import Taught

PHOTO = Image.effect_noise((40, 40), 60).convert("RGB")
COMMANDS: dict[str, tuple[list[str], int]] = {
    "caption nothing there": (["caption", "gone.jpg"], 2),
    "caption no picture": (["caption", "notes.txt"], 2),
    "caption an empty folder": (["caption", "empty"], 2),
    "caption no model": (["caption", "1.png", "--backbone", "no/such"], 3),
    "caption an embedded one": (["caption", "1.png", "--backbone", "tinyworld/nothing"], 3),
    "caption a file as a model": (["caption", "1.png", "--backbone", "notes.txt"], 3),
    "caption no concepts": (["caption", "1.png", "--concepts", "empty"], 2),
    "caption concepts of a file": (["caption", "1.png", "--concepts", "notes.txt"], 2),
    "caption a batch of none": (["caption", "1.png", "--batch", "0"], 2),
    "album more than are in memory": (["album", "1.png", "--batch", "17"], 2),
    "caption a dtype": (["caption", "1.png", "--dtype", "int8"], 2),
    "caption a rate of nothing": (["caption", "1.png", "--false-names", "0"], 2),
    "caption a rate that is no number": (["caption", "1.png", "--false-names", "nan"], 2),
    "ask nothing": (["ask", "1.png", " "], 2),
    "ask without a question": (["ask", "1.png", "1.png"], 2),
    "ask with a placeholder": (["ask", "1.png", "what is <image> ?"], 2),
    "locate nobody": (["locate", "1.png", "nobody"], 3),
    "locate without a name": (["locate", "1.png", "1.png"], 2),
    "locate nothing there": (["locate", "gone.jpg", "sks"], 2),
    "learn a slash": (["learn", "a/b", "1.png", "--category", "mug"], 2),
    "learn no photo": (["learn", "sks", "gone.jpg", "--category", "mug"], 2),
    "learn a text": (["learn", "sks", "notes.txt", "--category", "mug"], 2),
    "learn no captions": (["learn", "sks", "1.png", "--category", "mug", "--captions", "gone.json"], 2),
    "learn captions of text": (["learn", "sks", "1.png", "--category", "mug", "--captions", "a.json"], 2),
    "learn a caption without it": (["learn", "sks", "1.png", "--category", "mug", "--captions", "a mug"], 2),
    "learn questions of text": (["learn", "sks", "1.png", "--category", "mug", "--questions", "a.json"], 2),
    "learn a kind": (["learn", "sks", "1.png", "--category", "mug", "--kind", "gait"], 2),
    "learn an encoder": (["learn", "sks", "1.png", "--category", "mug", "--encoder", "nothing"], 2),
    "learn onto a file": (["learn", "sks", "1.png", "--category", "mug", "--out", "notes.txt"], 2),
    "learn into another": (["learn", "sks", "1.png", "--category", "mug", "--out", "album"], 2),
    "learn negatives": (["learn", "sks", "1.png", "--category", "mug", "--negatives", "gone"], 2),
    "learn steps": (["learn", "sks", "1.png", "--category", "mug", "--steps", "0"], 2),
    "introduce a slash": (["introduce", "a/b", "1.png", "--category", "mug"], 2),
    "introduce no photo": (["introduce", "sks", "gone.jpg", "--category", "mug"], 2),
    "introduce a token": (["introduce", "sks", "1.png", "--category", "mug", "--description", "<image>"], 2),
    "introduce onto a file": (["introduce", "sks", "1.png", "--category", "mug", "--out", "notes.txt"], 2),
    "learn-all of nothing": (["learn-all", "gone.yaml"], 2),
    "learn-all of no recipes": (["learn-all", "notes.txt"], 2),
    "learn-all of a folder": (["learn-all", "known"], 2),
    "relearn nothing": (["relearn", "gone", "1.png"], 2),
    "relearn a file": (["relearn", "notes.txt", "1.png"], 2),
    "relearn no photos": (["relearn", "known"], 2),
    "questions no photo": (["questions", "sks", "gone.jpg", "--category", "mug"], 2),
    "questions a form": (["questions", "sks", "1.png", "--category", "mug", "--ask", "what ?"], 2),
    "questions onto a file": (["questions", "sks", "1.png", "--category", "mug", "--out", "notes.txt"], 2),
    "correct nobody": (["correct", "1.png", "nobody", "--not-there"], 3),
    "correct nothing there": (["correct", "gone.jpg", "sks", "--not-there"], 2),
    "album nothing": (["album", "gone"], 2),
    "album no concepts": (["album", "1.png", "--concepts", "gone"], 2),
    "album a category": (["album", "1.png", "--import-names", "--category", "dog"], 2),
    "app no model": (
        ["app", "--backbone", "tinyworld/nothing", "--no-browser"],
        3 if find_spec("gradio") else 2,
    ),
    "app concepts of a file": (["app", "--concepts", "notes.txt", "--no-browser"], 2),
    "evaluate nothing": (["evaluate", "gone"], 2),
    "evaluate a file": (["evaluate", "notes.txt"], 2),
    "evaluate an empty folder": (["evaluate", "empty"], 2),
    "evaluate a method": (["evaluate", "tinyworld", "--methods", "magic"], 2),
    "evaluate a report": (["evaluate", "tinyworld", "--report", "out.pdf"], 2),
    "evaluate a sweep": (["evaluate", "tinyworld", "--sweep", "nonsense"], 2),
    "evaluate a sweep file": (["evaluate", "tinyworld", "--sweep-file", "gone.yaml"], 2),
    "completeness draw nothing": (["completeness", "draw", "gone.jpg", "sks", "--out", "bo.json"], 2),
    "completeness count nothing": (["completeness", "count", "gone"], 2),
    "serve to all without a token": (["serve", "--host", "0.0.0.0"], 2),
    "serve owners without folders": (["serve", "--owners", "a.json"], 2),
    "serve owners of text": (["serve", "--owners", "notes.txt", "--libraries", "empty"], 2),
    "serve a port": (["serve", "--port", "99999"], 2),
    "token onto a folder": (["token", "me", "--owners", "empty"], 2),
    "token of a text": (["token", "me", "--owners", "notes.txt"], 2),
    "doctor of something": (["doctor", "me"], 2),
    "demo onto a folder": (["demo", "--out", "empty"], 2),
    "demo nowhere": (["demo", "--out", "gone/page.html"], 2),
    "list nothing": (["concepts", "list", "--concepts", "gone"], 2),
    "list a file": (["concepts", "list", "--concepts", "notes.txt"], 2),
    "show nobody": (["concepts", "show", "nobody"], 3),
    "add nothing": (["concepts", "add", "gone"], 2),
    "add a file": (["concepts", "add", "notes.txt"], 2),
    "add an empty folder": (["concepts", "add", "empty"], 2),
    "push nobody": (["concepts", "push", "nobody", "memory://shelf/nobody"], 3),
    "push to a folder": (["concepts", "push", "sks", "notes.txt"], 2),
    "rename nobody": (["concepts", "rename", "nobody", "sks"], 3),
    "remove nobody": (["concepts", "remove", "nobody"], 3),
    "erase nobody": (["concepts", "remove", "nobody", "--erase"], 3),
}
"""Wrong command lines and their exit codes."""


def test_every_command_that_is_typed_wrong_says_what_is_wrong(myvlm: Myvlm, taught: Taught) -> None:
    Path("notes.txt").write_text("no picture")
    Path("a.json").write_text("no JSON")
    Path("empty").mkdir()
    Path("album").mkdir()
    PHOTO.save("album/1.png")
    PHOTO.save("1.png")
    shutil.copytree(taught.folder, "known")
    before = sorted(str(one) for one in Path().rglob("*"))
    wrong: list[str] = []
    for name, (words, code) in COMMANDS.items():
        run = myvlm(*words)
        said = all(line in run.stderr for line in ("got:", "expected:", "fix:")) or "Usage" in run.stderr
        if run.code != code or not said or "Traceback" in run.stderr or run.stdout:
            wrong.append(f"{name}: exit {run.code}, {run.stdout} {run.stderr[-300:]}")
    assert wrong == []
    after = {str(one) for one in Path().rglob("*") if not str(one).startswith("myvlm-evaluation")}
    assert after == set(before)


def test_every_command_has_a_row() -> None:
    from typer.main import get_command

    from myvlm.cli import app

    def leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        inside = getattr(command, "commands", {})
        return [leaf for name, one in inside.items() for leaf in leaves(one, (*words, name))] or [words]

    typed = {
        tuple(words[: 2 if words[0] in ("concepts", "completeness") else 1]) for words, _ in COMMANDS.values()
    }
    assert typed == set(leaves(get_command(app)))
