"""The general adapter: a model without a family file, by its processor's own output; and refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from myvlm import MyVLM
from myvlm.backbones import backbone_for
from myvlm.backbones.causal.general import GeneralBackbone
from myvlm.errors import BackboneError
from myvlm.testing import BACKBONE_CHECKS, check_backbone
from tests.support.tiny import pictures
from tests.support.tiny_recipes import TYPES

# Some processors use a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SIZES = [(40, 40), (70, 30), (30, 64)]
SHAPES = [picture.resize(size) for picture, size in zip(pictures(3), SIZES, strict=True)]
UNKEPT = ["kept_prefixes_change_nothing"]
TILED = ["attention_map_is_a_map", "grid_lies_over_the_picture"]
KINDS = [
    ("aria", TILED), ("aya_vision", []), ("hyperclovax_vision_v2", TILED), ("ovis2", TILED),
    ("qwen3_5", UNKEPT), ("vipllava", []),
]  # fmt: skip
"""Types, and the checks that do not apply. Aria has experts; HyperCLOVA X counts columns itself."""


@pytest.mark.parametrize(("kind", "skipped"), KINDS)
def test_a_type_without_a_family_file_keeps_the_contract(
    kind: str, skipped: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="myvlm"):
        backbone = backbone_for(*TYPES[kind]())
    assert type(backbone) is GeneralBackbone
    [notice] = [record.getMessage() for record in caplog.records if record.name.startswith("myvlm")]
    assert kind in notice
    assert "belongs to no proven family" in notice
    assert ("does not use kept prefixes" in notice) == (skipped == UNKEPT)
    outcomes = check_backbone(backbone, SHAPES)
    assert len(outcomes) == len(BACKBONE_CHECKS)
    assert [outcome.check for outcome in outcomes if not outcome.passed] == skipped


def test_it_is_found_by_name(tmp_path: Path) -> None:
    model, processor = TYPES["aya_vision"]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vlm = MyVLM.from_pretrained(tmp_path, device="cpu")
    assert type(vlm.backbone) is GeneralBackbone
    assert vlm.caption(SHAPES[0], max_new_tokens=2).seen == ()


def test_every_part_of_the_encoders_output_is_kept() -> None:
    backbone = backbone_for(*TYPES["ovis2"]())
    [features] = backbone.encode(SHAPES[:1])
    assert set(features.shared) == {"visual_indicator_features"}
    assert features.shared["visual_indicator_features"].shape[-1] == backbone.dim


def test_a_model_on_which_rows_change_nothing_is_refused() -> None:
    model, processor = TYPES["aya_vision"]()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(BackboneError, match=r"(?s)adapter cannot use it.*same loss with and without rows"):
        backbone_for(model, processor)


def test_what_a_processor_cannot_read_is_named() -> None:
    model, processor = TYPES["aya_vision"]()
    processor.image_processor = None
    with pytest.raises(BackboneError, match=r"(?s)adapter cannot use it.*AyaVisionProcessor: "):
        backbone_for(model, processor)


def test_a_model_that_plain_transformers_cannot_run_is_told_from_one_that_we_cannot_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, processor = TYPES["aya_vision"]()

    def broken(*args: object, **kwargs: object) -> None:
        raise AttributeError("no attribute 'image_outputs'")

    monkeypatch.setattr(type(model.model.language_model), "forward", broken)
    with pytest.raises(BackboneError, match=r"(?s)Plain transformers.* cannot run.*'image_outputs'.*release"):
        backbone_for(model, processor)


@pytest.mark.skipif(transformers.__version__ != "5.24.0", reason="a fault of transformers 5.24.0")
def test_llama_4_is_such_a_one() -> None:
    with pytest.raises(BackboneError, match=r"(?s)Plain transformers.* cannot run.*5\.24\.0.*image_outputs"):
        backbone_for(*TYPES["llama4"]())


def test_all_that_a_processor_says_of_each_token_is_told() -> None:
    backbone = backbone_for(*TYPES["ernie4_5_vl_moe"]())
    inputs = backbone.prompter.processed(SHAPES[:1], ["Where?"])
    layouts = [feature.layout for feature in backbone.encode(SHAPES[:1])]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    told = backbone.arguments(ids, mask, [ids.shape[1]], layouts)
    said = [name for name, value in inputs.items() if value.shape == ids.shape and name in told]
    assert said == ["mm_token_type_ids", "moe_mm_token_type_ids"]  # the second selects the experts
    assert all(torch.equal(told[name], inputs[name]) for name in said)


def test_a_model_that_learning_would_tell_less_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = GeneralBackbone.arguments

    def fewer(self: GeneralBackbone, *given: Any) -> dict[str, torch.Tensor]:
        return {name: own for name, own in arguments(self, *given).items() if not name.startswith("moe")}

    monkeypatch.setattr(GeneralBackbone, "arguments", fewer)
    with pytest.raises(
        BackboneError, match=r"(?s)adapter cannot use it.*different logits with the processor's inputs"
    ):
        backbone_for(*TYPES["ernie4_5_vl_moe"]())
