"""Which backbone belongs to which model: registered, found, named by its weights, or refused."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from myvlm.backbones import backbone_for, known_backbones, register_backbone, registry
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.backbones.fingerprint import weights_fingerprint
from myvlm.errors import BackboneError, NameTakenError, UnknownBackboneError
from tests.support.tiny import tiny_llava


@pytest.mark.slow
def test_another_process_gives_the_same_fingerprint_and_imports_transformers_only_when_asked(
    llava: tuple[Any, Any],
) -> None:
    code = """
import sys
from myvlm.backbones import backbone_for
import myvlm.backbones.causal.attention
print("transformers" in sys.modules)
from tests.support.tiny import tiny_llava
print(backbone_for(*tiny_llava()).fingerprint())
"""
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(here), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", backbone_for(*llava).fingerprint()]
    assert backbone_for(*tiny_llava(seed=1)).fingerprint() != backbone_for(*llava).fingerprint()


def test_the_fingerprint_survives_underflow_and_another_order() -> None:
    weights = [torch.tensor([-1e-9, 1e-9, -0.3]), torch.tensor([[0.1, -0.2]])]
    name = weights_fingerprint(weights)
    assert weights[0].half()[0] == 0
    assert weights_fingerprint(weight.half() for weight in reversed(weights)) == name
    assert weights_fingerprint([weights[0], weights[1].T]) != name


@pytest.mark.parametrize(
    "changed", ["multi_modal_projector.linear_1.bias", "vision_tower.post_layernorm.bias"]
)
def test_two_models_of_one_embedding_table_have_two_fingerprints(
    llava: tuple[Any, Any], changed: str
) -> None:
    model = copy.deepcopy(llava[0])
    weight = model.model.get_parameter(changed)
    with torch.no_grad():
        weight[0] = 1.0
        first = LlavaBackbone(model, llava[1]).fingerprint()
        weight[0] = -1.0
    assert LlavaBackbone(model, llava[1]).fingerprint() != first


def test_a_backbone_is_found_by_model_type_and_named(llava: tuple[Any, Any]) -> None:
    assert known_backbones()["llava"] is LlavaBackbone
    assert isinstance(backbone_for(*llava), LlavaBackbone)
    assert backbone_for(*llava).name == "llava"
    assert backbone_for(*llava, name="mine").name == "mine"
    with pytest.raises(
        UnknownBackboneError, match=r"(?s)LlamaModel, model_type 'llama'.*of type blip-2, .*llava,"
    ):
        backbone_for(llava[0].model.language_model, llava[1])


def test_a_model_without_a_head_is_refused(llava: tuple[Any, Any]) -> None:
    with pytest.raises(BackboneError, match=r"LlavaModel"):
        backbone_for(llava[0].model, llava[1])


def test_a_pixtral_tower_is_not_the_llavas(llava: tuple[Any, Any]) -> None:
    model = copy.deepcopy(llava[0])
    model.config.vision_config.model_type = "pixtral"
    assert not LlavaBackbone.matches(model)


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    with registry.backbones.restored():
        known_backbones()
        yield registry.backbones.registered


def test_registering_checks_names_and_completeness(registered: dict[str, Any]) -> None:
    with pytest.raises(NameTakenError, match="LlavaBackbone"):
        register_backbone(type("Other", (LlavaBackbone,), {"family": "other"}))
    with pytest.raises(NameTakenError, match=r"'llava' is taken(.|\n)*LlavaBackbone"):
        register_backbone(type("Other", (LlavaBackbone,), {"model_types": ("other",)}))
    with pytest.raises(BackboneError, match=r"missing methods .*'grid'"):
        register_backbone(type("Other", (CausalBackbone,), {"family": "other", "model_types": ("other",)}))
    narrow = {"family": "narrow", "matches": classmethod(lambda cls, model: False)}
    assert register_backbone(type("Narrow", (LlavaBackbone,), narrow)).model_types == ("llava",)
    other = type("Other", (LlavaBackbone,), {"family": "other", "model_types": ("other",)})
    assert register_backbone(other) is other
    assert registered["other"] is other


def test_entry_points_add_families_and_a_broken_one_is_named(
    registered: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    llava: tuple[Any, Any],
) -> None:
    plugin = type("Plugin", (LlavaBackbone,), {"family": "plugin", "model_types": ("plugin",)})
    monkeypatch.setattr(sys.modules[__name__], "Plugin", plugin, raising=False)
    points = [
        EntryPoint("absent", "no_such_module:Nothing", "myvlm.backbones"),
        EntryPoint("plugin", f"{__name__}:Plugin", "myvlm.backbones"),
    ]
    monkeypatch.setattr("myvlm.plugins.registry.entry_points", lambda group: points)
    with caplog.at_level(logging.WARNING):
        assert known_backbones()["plugin"] is plugin
        known_backbones()
    assert len(caplog.records) == 1
    assert "'absent'" in caplog.text
    with pytest.raises(UnknownBackboneError, match=r"plugin, .*; absent cannot be loaded .*no_such_module"):
        backbone_for(llava[0].model.language_model, llava[1])
