"""`myvlm evaluate` with a fake model and fake methods: documents, reports, and early refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from myvlm import MyVLM
from myvlm.cli import app
from myvlm.evaluation.protocol import bench as trial
from tests.support.pretending import FAILS, TAUGHT, Pretending, PretendVLM, subject


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    TAUGHT.clear()
    FAILS.clear()
    monkeypatch.setattr(trial, "make_method", Pretending)
    monkeypatch.setattr(MyVLM, "from_pretrained", lambda *_, **__: PretendVLM())
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The paper's layout with one subject."""
    mug = subject(tmp_path / "MyVLM", "mug", "sks")
    captions = {photo.file.name: list(photo.captions) for photo in mug.photos}
    (tmp_path / "MyVLM" / "mug" / "captions.json").write_text(json.dumps(captions))
    return tmp_path / "MyVLM"


def myvlm(*words: object) -> Any:
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return runner.invoke(app, ["evaluate", *map(str, words)])


def test_it_measures_writes_both_reports_and_says_all_as_json(data: Path, tmp_path: Path) -> None:
    options = ("--splits", 2, "--photos", "1,4", "--sweep", "rows=4", "--quiet")
    done = myvlm(data, *options, "--report", "out.html", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [table["title"] for table in document["tables"]] == [
        "Methods, 4 photos",
        "Training photos, myvlm",
        "Ablation, myvlm",
    ]
    ours, plain = document["tables"][0]["rows"]
    assert (ours["method"], ours["recall"]) == ("myvlm", [1.0, 1.0, 1.0])
    assert plain["recall"][0] == 0
    assert "<table>" in (tmp_path / "out.html").read_text()
    taught = len(TAUGHT)
    assert taught == 2 * 4
    again = myvlm(data, *options, "--report", "out.md")
    assert again.exit_code == 0
    assert "Methods, 4 photos" in again.stdout
    assert (tmp_path / "out.md").read_text().startswith("# Evaluation of the concepts")
    assert len(TAUGHT) == taught, "finished runs are kept"


def test_an_evaluation_with_other_options_is_not_blocked_by_the_first(data: Path, tmp_path: Path) -> None:
    words = (data, "--splits", 1, "--quiet")
    assert myvlm(*words).exit_code == 0
    taught = len(TAUGHT)
    other = myvlm(*words, "--absent", 1)
    assert other.exit_code == 0, other.stderr
    assert len(TAUGHT) == 2 * taught
    assert myvlm(*words).exit_code == 0
    assert len(TAUGHT) == 2 * taught, "the runs of the first are still there"
    chosen = (*words, "--keep", tmp_path / "runs")
    assert myvlm(*chosen).exit_code == 0
    blocked = myvlm(*chosen, "--absent", 1)
    assert blocked.exit_code == 2
    assert "runs of another evaluation" in blocked.stderr


def test_ctrl_c_keeps_what_is_done(data: Path) -> None:
    FAILS.add("sks")
    stopped = myvlm(data, "--splits", 1)
    assert stopped.exit_code == 130
    FAILS.clear()
    assert myvlm(data, "--splits", 1).exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--methods", "magic"), "There is no method 'magic'"),
        (("--report", "out.pdf"), ".html or .md"),
        (("--report", "nowhere/out.html"), "nowhere does not exist"),
        (("--sweep", "colour=red"), "The sweep 'colour=red' is invalid"),
        (("--photos", "0"), "positive integers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    data: Path, words: tuple[str, ...], told: str
) -> None:
    refused = myvlm(data, *words)
    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.split())
    assert TAUGHT == []


def test_problems_of_the_data_come_with_file_and_key(data: Path) -> None:
    (data / "mug" / "captions.json").write_text('{"9.png": ["sks"]}')
    refused = myvlm(data, "--json", "--quiet")
    assert refused.exit_code == 2
    assert "mug/captions.json: 9.png: there is no such photo" in json.loads(refused.stdout)["error"]["got"]
