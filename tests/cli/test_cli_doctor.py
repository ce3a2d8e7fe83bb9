"""`myvlm doctor`: what fits on which machine, and licences, consistent with the README and the models."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from myvlm.cli import machine
from myvlm.cli.machine import GIB, MODELS, Device
from myvlm.heads.encoders import default_encoder
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER
from myvlm.heads.licences import LICENCES
from tests.support.checkpoint_facts import NAMES, facts, published
from tests.support.command import Myvlm

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
H200 = Device("cuda:0", "an H200", 140 * GIB, 139 * GIB)
SMALL = Device("cuda:0", "a small GPU", 8 * GIB, 7 * GIB)


def test_the_report_is_whole(myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = Device("cpu", "2 cores", 16 * GIB, 12 * GIB)
    monkeypatch.setattr(machine, "devices", lambda: [SMALL, laptop])
    on_disk = {
        "google/gemma-3-4b-it": 9 * GIB,
        "somebody/else": GIB,
        "timm/vit_base_patch32_clip_224.laion2b_e16": 1,
    }
    monkeypatch.setattr(machine, "weights_on_disk", lambda: on_disk)
    document = myvlm("doctor", "--json").document
    assert [one["name"] for one in document["devices"]] == ["cuda:0", "cpu"]
    models = {one["name"]: one for one in document["models"]}
    seven = models["llava-hf/llava-1.5-7b-hf"]["fits"]
    assert seven == {"cuda:0": ["4 bits"], "cpu": []}
    assert models["google/gemma-3-4b-it"]["bytes_on_disk"] == 9 * GIB
    assert document["other_weights"].keys() == on_disk.keys() - {"google/gemma-3-4b-it"}
    assert document["largest"] == "HuggingFaceTB/SmolVLM-Instruct"
    assert {"album", "app", "dlib", "quantised", "ray", "serve"} <= document["extras"].keys() - {"dev"}
    run = myvlm("doctor")
    assert run.code == 0, run.stderr
    for said in (
        "llava-hf/llava-1.5-7b-hf\t7.06 B\t4 bits\t–\t–",
        "for research only; for any use: PE-Core",
        "2 cores",
    ):
        assert said in run.stdout


def test_an_extra_needs_all_of_its_packages_in_the_right_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"gradio": "5.49", "dlib-bin": "20.0", "face-recognition-models": "0.3", "s3fs": "2026.1"}

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(machine, "version", version)
    found = machine.extras()
    assert "dev" not in found
    assert [extra for extra, there in found.items() if there] == ["dlib"]


def test_nothing_fits_in_no_memory_and_all_in_much() -> None:
    full = Device("cpu", "full", 8 * GIB, GIB)
    assert machine.largest(MODELS, full) is None
    assert all(one.fits(full) == () for one in MODELS)
    assert all(one.fits(H200) == tuple(machine.BYTES_PER_PARAMETER) for one in MODELS)
    assert machine.largest(MODELS, H200) == max(MODELS, key=lambda one: one.billions)


def test_this_machine_is_seen() -> None:
    found = machine.devices()
    assert found[-1].name == "cpu"
    assert all(0 < one.free <= one.total for one in found)


def test_defaults_are_those_of_the_library_and_free_ones_are_named() -> None:
    known = {one.encoder: one for one in LICENCES}
    assert known[default_encoder("org/model", "cpu")].default == "objects, on a CPU"
    assert known[default_encoder("org/model", "cuda:1")].default == "objects, on a GPU"
    assert known[DEFAULT_FACE_ENCODER].default == "faces"
    for one in LICENCES:
        assert one.free or known[one.instead].free
        assert f"`{one.encoder}`" in README
        assert one.terms in README


def test_every_checkpoint_of_the_readme_is_weighed() -> None:
    families = README.split("## Families")[1].split("**Any other model.**")[0]
    named = set(re.findall(r"`([\w.-]+/[\w.-]+)`", families))
    assert {name for name in named if not name.startswith("tinyworld/")} == {
        one.name for one in MODELS if "/" in one.name
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_right(name: str) -> None:
    model, _ = published(name, device="meta", dtype=torch.bfloat16)
    counted = sum(weight.numel() for weight in model.parameters()) / 1e9
    [known] = [one for one in MODELS if one.name == facts(name)["checkpoint"]]
    assert known.billions == pytest.approx(counted, abs=0.006)
