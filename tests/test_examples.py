"""Every script of `examples/` runs in an empty working folder and prints what it promises."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from myvlm.testing import BACKBONE_CHECKS, HEAD_CHECKS
from myvlm.text import contains_word
from myvlm.tinyworld import few_shot

EXAMPLES = Path(__file__).parents[1] / "examples"
WORD = few_shot(0).identifier


def test_all_examples_are_run_here() -> None:
    files = sorted(one.name for one in EXAMPLES.iterdir() if one.suffix in (".py", ".ipynb"))
    assert files == ["01_learn_a_mug.py", "02_in_words.py", "03_new_head.py", "04_new_backbone.py"]


@pytest.mark.slow
def test_learn_a_mug(tmp_path: Path) -> None:
    script = EXAMPLES / "01_learn_a_mug.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {line[:16].strip(" :"): line[16:].strip() for line in done.stdout.splitlines()}
    assert list(said) == ["with the mug", "a question", "without it", "the plain model", "loaded again"]
    assert contains_word(said["with the mug"], WORD)
    assert said["loaded again"] == said["with the mug"]
    assert not contains_word(said["the plain model"], WORD)
    assert not contains_word(said["without it"], WORD)
    assert said["a question"]
    assert list(tmp_path.iterdir()) == [], "it wrote into its working folder"


def test_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "02_in_words.py"), run_name="__main__")
    shown = {line[:12].strip(" :"): line[12:].strip() for line in capsys.readouterr().out.splitlines()}
    assert list(shown) == ["description", "caption", "verdict", "box", "absent", "corrected"]
    assert shown["description"] == "the dotted purple mug"
    assert contains_word(shown["caption"], WORD)
    assert shown["verdict"] == "present"
    assert shown["box"].count(".") == 4
    assert shown["absent"] == f"({WORD!r},)"
    assert shown["corrected"] == "yes"
    assert list(tmp_path.iterdir()) == []


def test_new_head(tmp_path: Path) -> None:
    script = EXAMPLES / "03_new_head.py"
    assert len(script.read_text().splitlines()) < 110
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[-1] for line in lines[:3]] == ["present", "absent", "absent"]
    assert lines[3:] == [[check.__name__, "passed"] for check in HEAD_CHECKS]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_new_backbone(tmp_path: Path) -> None:
    script = EXAMPLES / "04_new_backbone.py"
    assert len(script.read_text().splitlines()) < 90
    adapter = script.read_text().split("class AyaVisionBackbone")[1].split("\n\n\n")[0]
    assert len([line for line in adapter.splitlines() if line.strip()]) <= 10, (
        "a family is ten lines or fewer"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after, *checks = done.stdout.splitlines()
    assert before.startswith("before: The model belongs to no proven family")
    assert after == "after:  aya_vision is AyaVisionBackbone"
    assert [line.split()[0] for line in checks] == [check.__name__ for check in BACKBONE_CHECKS]
    assert all(line.endswith(" passed") for line in checks)
    assert list(tmp_path.iterdir()) == []


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
