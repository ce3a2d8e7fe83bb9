"""`benchmarks/real_sizes.py` on tiny models: its measurements, and that a failing model stops no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import real_sizes
import torch

from myvlm.learning import LearnSettings
from tests.support.checkpoint_facts import NAMES, published
from tests.support.tiny import tiny_llava
from tests.support.tiny_blip2 import tiny_blip2

Built = tuple[Any, Any, tuple[int, ...]]


def llava() -> Built:
    return (*tiny_llava(), (40, 30))


def blip2() -> Built:
    return (*tiny_blip2(language="opt"), (40, 30))


def broken() -> Built:
    raise RuntimeError("no such weights")


def test_models_are_measured_and_one_that_fails_is_counted_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sizes.json"
    builders = {"first": llava, "second": broken, "third": blip2}
    figures = real_sizes.run(builders, LearnSettings(steps=2, views=2), tokens=5, device="cpu", out=out)
    assert json.loads(out.read_text(encoding="utf-8")) == figures
    assert (figures["device"], figures["models"], figures["failed"]) == ("cpu", 3, 1)
    assert figures["second"]["error"] == "RuntimeError: no such weights"
    for name in ("first", "third"):
        own = figures[name]
        assert "error" not in own
        assert own["identical"]
        assert own["repeated"]
        assert own["untouched"]
        assert own["new_tokens"] == {"plain": 5, "row": 5}
        assert min(own["target_tokens"]) >= 8
        assert own["learn_seconds"] > 0
        assert own["plain_ms"] == pytest.approx(200 * own["plain_seconds"], abs=0.2)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line[:5] in ("first", "secon", "third")] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert "RuntimeError: no such weights" in said


def test_what_was_measured_before_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("no answer")

    monkeypatch.setattr(real_sizes, "answer", refuse)
    figures = real_sizes.run({"one": llava}, LearnSettings(steps=1, views=1), tokens=2, device="cpu")
    assert figures["failed"] == 1
    assert figures["one"]["learn_seconds"] > 0
    assert figures["one"]["error"] == "ValueError: no answer"


@pytest.mark.parametrize("name", real_sizes.NAMES)
def test_a_shrunk_checkpoint_differs_from_the_published_in_its_layers_only(name: str) -> None:
    assert name in NAMES
    model, _ = published(name, layers=2, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    whole, _ = published(name)
    assert len(list(model.parameters())) < len(list(whole.parameters())) / 5
    shapes = {weight.shape for weight in whole.parameters()}
    assert {weight.shape for weight in model.parameters()} <= shapes
