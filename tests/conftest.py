"""What all tests share: no network, two threads, the embedded model loaded once, one concept learned once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client

import pytest
import torch
from fake_encoder import ColourEncoder

from myvlm import Concept, MyVLM
from myvlm.heads.encoders import register_encoder
from myvlm.tinyworld import FewShot, few_shot, sample_picture

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
COLOURS = "fake/api"
register_encoder(COLOURS, lambda device: ColourEncoder(COLOURS))


@dataclass(frozen=True, eq=False)
class Taught:
    """One concept of tinyworld, learned with the settings that ship, and saved."""

    kit: FewShot
    concept: Concept
    folder: Path
    photos: Path

    @property
    def word(self) -> str:
        return self.kit.identifier


@pytest.fixture(scope="session")
def vlm() -> MyVLM:
    """The embedded model, loaded once. Tests that change the library take `fresh`."""
    loaded = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    loaded.caption(sample_picture(0))  # transformers puts hooks of its own on a model at its first call
    return loaded


@pytest.fixture
def fresh(vlm: MyVLM) -> MyVLM:
    """The same model with a library of its own."""
    return around(vlm)


@pytest.fixture
def quick(vlm: MyVLM) -> MyVLM:
    """The same model, its heads on an encoder that sees only colours: learns in a moment, if not much."""
    return around(vlm, encoder=COLOURS)


def around(vlm: MyVLM, *, encoder: str | None = None) -> MyVLM:
    backbone = vlm.backbone
    return MyVLM(backbone.model, backbone.processor, name=backbone.name, encoder=encoder)


@pytest.fixture(scope="session")
def taught(vlm: MyVLM, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """The first concept of tinyworld, learned from four photos on disk."""
    kit = few_shot(0, seed=0, photos=4, tests=6)
    place = tmp_path_factory.mktemp("taught")
    photos = place / "photos"
    photos.mkdir()
    for number, photo in enumerate(kit.photos(), start=1):
        photo.save(photos / f"{number}.png")
    concept = around(vlm).learn(
        kit.identifier, photos, category=kit.category, captions=kit.captions(), progress=False
    )
    folder = concept.save(place / "concepts" / "mug")
    return Taught(kit, Concept.load(folder), folder, photos)


@pytest.fixture
def unchanged(vlm: MyVLM) -> Iterator[None]:
    """After the test the frozen model is to the bit what it was before."""
    before = state_of(vlm.backbone.model)
    yield
    check_same(before, state_of(vlm.backbone.model))


def state_of(model: Any) -> dict[str, Any]:
    """All that a call must leave alone: weights, flags, hooks, attention implementations, tokenizer."""
    return {
        "weights": {name: weight.detach().clone() for name, weight in model.named_parameters()},
        "requires_grad": [weight.requires_grad for weight in model.parameters()],
        "gradients": [weight.grad is not None for weight in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        "attention": [
            module.config._attn_implementation for module in model.modules() if hasattr(module, "config")
        ],
    }


def check_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["weights"]
    assert before["hooks"]
    for name, weight in before.pop("weights").items():
        assert torch.equal(weight, after["weights"][name]), name
    after.pop("weights")
    assert before == after
