"""The package as a whole: public names, no network, no model at import, benchmarks that run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import myvlm
from myvlm.backbones import known_backbones
from myvlm.cli import app

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there_and_documented() -> None:
    assert len(myvlm.__all__) >= 9
    for name in myvlm.__all__:
        assert getattr(myvlm, name).__doc__, name


def test_help_imports_no_torch() -> None:
    code = "import sys, myvlm.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something, including those of groups."""
    inside = getattr(command, "commands", {})
    for name, one in inside.items():
        yield from commands(one, *path, name)
    if not inside:
        yield path


def test_the_readme_names_every_command() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    known = list(commands(get_command(app), "myvlm"))
    assert len(known) > 20
    said = {
        path: any(
            set(path) <= set(re.findall(r"[\w-]+", line)) for line in lines if f"myvlm {path[1]}" in line
        )
        for path in known
    }
    assert [path for path, named in said.items() if not named] == []


def test_the_readme_has_a_row_for_every_family() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = [line for line in readme.partition("## Families")[2].splitlines() if line.startswith("| ")]
    named = re.sub(r"[^a-z0-9]", "", "".join(line.split("|")[1] for line in table).lower())
    called = {"qwen_vl": "qwen2vl", "glm_v": "glm41v"}  # named after the first of their models
    own = {name: one for name, one in known_backbones().items() if one.__module__.startswith("myvlm.")}
    assert len(own) > 15
    assert [name for name in own if called.get(name, name.replace("_", "")) not in named] == []


def test_no_figure_of_the_readme_was_left_out() -> None:
    assert "@@" not in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_first_lines_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code, *_] = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    named, *_, plain = capsys.readouterr().out.strip().splitlines()
    assert "ulmo" in named
    assert "ulmo" not in plain
    assert (tmp_path / "ulmo-mug" / "concept.json").is_file()


@pytest.mark.slow
def test_the_recall_benchmark_ends_in_one_json_line() -> None:
    command = [sys.executable, "benchmarks/recall.py", "--concepts", "1", "--seeds", "1", "--tests", "2"]
    done = subprocess.run(
        [*command, "--ablated", "0", "--workers", "2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    keys = (
        "recall", "recall_2", "recall_1", "recall_gated_open", "false_lookalike", "false_other",
        "context_kept", "leakage", "plain_identical", "learn_seconds",
    )  # fmt: skip
    assert all(isinstance(figures[key], float) for key in keys)
    assert figures["plain_identical"] == 1.0


@pytest.mark.slow
def test_the_heads_benchmark_ends_in_one_json_line() -> None:
    command = [sys.executable, "benchmarks/heads.py", "--concepts", "1", "--seeds", "1", "--tests", "2"]
    done = subprocess.run(
        [*command, "--many", "20", "--repeats", "1", "--people", "5", "--splits", "0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    keys = (
        "recall", "rejection", "recall_negatives", "rejection_negatives", "small_recall",
        "small_recall_no_crops", "calibration_error", "gate_ratio", "load_seconds", "faces_right",
        "faces_wrong",
    )  # fmt: skip
    assert all(isinstance(figures[key], float) for key in keys)
    assert all(0 <= figures[key] <= 1 for key in keys if key not in ("gate_ratio", "load_seconds"))
    assert figures["photos_weighted_accuracy"] is None, "no photos were given"
    assert figures["faces_right"] > 0.9
