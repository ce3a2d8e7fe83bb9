"""`benchmarks/on_gpu.py` in small: every part measures what it states, and a failing part stops no other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import on_gpu
import pytest
import random_models
import torch
import typer

STEP = {"build_seconds", "step_ratio", "step_ms", "generate_ratio", "row_ms_per_token", "limit_part"}
WHOLE = {
    f"learn_whole_seconds{size}{given}" for size in ("", "_12mp") for given in ("", "_captions_given")
} | {
    "gate_ratio_of_caption", "ms_per_token", "album_gate_ratio_of_captions", "album_gate_seconds",
    "windows_a_picture",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-next-7b", "blip2-opt-2.7b"])
def test_a_step_is_the_papers_in_every_size(name: str, tmp_path: Path) -> None:
    on_gpu.run_part(name, tmp_path / "part.json", dry=True)
    figures = json.loads((tmp_path / "part.json").read_text(encoding="utf-8"))
    assert set(figures) >= STEP
    assert min(figures[key] for key in STEP - {"limit_part"}) > 0
    assert figures["loss_difference"] <= 1e-5
    assert figures["gradient_difference"] <= 1e-5


@pytest.mark.slow
def test_the_whole_wait_is_measured(tmp_path: Path) -> None:
    on_gpu.run_part("whole llava-1.5-7b", tmp_path / "part.json", dry=True)
    figures = json.loads((tmp_path / "part.json").read_text(encoding="utf-8"))
    assert set(figures) == WHOLE
    assert min(figures.values()) > 0
    assert figures["windows_a_picture"] >= 10


def test_a_part_that_fails_or_takes_too_long_stops_no_other(tmp_path: Path) -> None:
    write = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps({'a': 1}))"
    wait = "import time; time.sleep(600)"
    programs = {"fails": f"{write}; raise OSError('no')", "waits": wait, "works": write}
    parts = {name: on_gpu.Part(on_gpu.step, "cpu", 2 if name == "waits" else 200) for name in programs}

    def command(name: str, file: Path) -> list[str]:
        if name == "waits":  # written here: in two seconds a busy machine may not have started
            file.write_text(json.dumps({"a": 1}))
        return [sys.executable, "-c", programs[name], str(file)]

    out = tmp_path / "all.json"
    figures = on_gpu.measure_all(parts, out, {"device": "none"}, command)
    assert json.loads(out.read_text(encoding="utf-8")) == figures
    assert list(figures) == ["device", *programs]
    assert all(figures[name]["a"] == 1 for name in programs), "what was measured by then is kept"
    assert figures["fails"]["error"].endswith("OSError: no")
    assert figures["waits"]["error"] == "it was not done after 2 s"
    assert "error" not in figures["works"]


def test_all_parts_together_take_less_than_eight_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_gpu.SECONDS < 480
    assert sum(part.seconds for part in on_gpu.PARTS.values()) <= on_gpu.SECONDS
    monkeypatch.setattr(on_gpu, "SECONDS", 0)
    figures = on_gpu.measure_all(on_gpu.PARTS, tmp_path / "all.json", {}, lambda name, file: ["false"])
    assert {own["error"] for own in figures.values()} == {"no time was left for it"}


def test_parts_are_of_presets_that_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = {part.preset for part in on_gpu.PARTS.values()}
    assert presets == {name for name, one in random_models.PRESETS.items() if one.gpu}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.BadParameter, match="--dry"):
        on_gpu.main()
