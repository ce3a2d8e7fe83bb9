"""The benchmark of a learning step: its reference is independent, and its presets have the stated sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import learning_step
import pytest
import random_models
import torch
import typer
from paper_step import PaperStep
from waiting import launches_per_layer

LAUNCHES = 75
"""Kernels of a layer in bfloat16. At most 80 are wanted; if there are fewer, lower this number. Two of them
are for scores in float32, without which a large bias makes the result wrong."""
FIGURES = [
    "step_ratio", "loss_difference", "gradient_difference", "learn_seconds", "peak_over_weights",
    "generate_ratio", "limit_part", "learn_whole_seconds", "learn_whole_seconds_12mp",
    "launches_per_layer", "gate_ratio_of_caption", "ms_per_token",
]  # fmt: skip


def small_llava() -> object:
    """The preset's configuration, smaller, with weights that make attention matter."""
    config = random_models.small_llava()
    config.text_config.num_hidden_layers = 2
    config.text_config.initializer_range = 0.2
    config.vision_config.image_size, config.image_seq_length = 20, 25
    return config


def small_processor() -> object:
    return random_models.llava_processor(side=20, patch=4)


def test_the_cpu_preset_is_what_it_says() -> None:
    preset = random_models.PRESETS["cpu"]
    model, processor = preset.build("meta")
    text = model.config.text_config
    assert (text.num_hidden_layers, text.hidden_size) == (32, 256)
    step = PaperStep(model, processor, learning_step.make_batch(preset, preset.samples), 1.0)
    assert step.ids.shape == (4, 700)


def test_a_layer_of_a_step_launches_no_more_than_it_did() -> None:
    preset = replace(
        random_models.PRESETS["cpu"], configuration=small_llava, processor=small_processor, side=20
    )
    assert launches_per_layer(preset, learning_step.preset_step) == LAUNCHES


def test_both_sides_agree_and_the_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = random_models.PRESETS["cpu"]
    small = replace(preset, configuration=small_llava, processor=small_processor, side=20, answer=12)
    monkeypatch.setitem(random_models.PRESETS, "cpu", small)
    learning_step.main(preset="cpu", repeats=1, whole=False, tokens=2)
    told = capsys.readouterr().out.strip().splitlines()
    assert any("4 samples, T = 48" in line for line in told)
    figures = json.loads(told[-1])
    assert list(figures) == FIGURES
    assert figures["step_ratio"] > 0
    assert figures["generate_ratio"] > 0
    assert figures["loss_difference"] <= 1e-5
    assert figures["gradient_difference"] <= 1e-5
    assert figures["learn_seconds"] is figures["peak_over_weights"] is figures["limit_part"] is None


@pytest.mark.parametrize(
    ("preset", "billions", "tokens"),
    [("llava-1.5-7b", 7.063, 576), ("llava-next-7b", 7.063, 2928), ("blip2-opt-2.7b", 3.745, 32)],
)
def test_the_big_presets_have_the_real_sizes_and_ask_for_a_gpu(
    preset: str, billions: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random_models.PRESETS[preset]
    model, processor = chosen.build("meta")
    assert round(learning_step.parameters(model) / 1e9, 3) == billions
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    batch = learning_step.make_batch(chosen, chosen.samples)
    inputs = processor(images=batch.images[:1], text=["<image> the image"], return_tensors="pt")
    expected = model.config.image_token_id
    assert int((inputs["input_ids"] == expected).sum()) in (tokens, tokens + 1)  # BLIP-2 adds its own
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.BadParameter, match="needs a GPU"):
        learning_step.main(preset=preset)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(typer.BadParameter, match=r"'gpu' is no preset.*cpu.*blip2-opt-2.7b"):
        learning_step.main(preset="gpu")
