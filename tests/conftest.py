"""What all tests share: no network, two threads, the embedded model loaded once, one concept learned once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client

import numpy as np
import pytest
import torch
from command import Myvlm, Run
from fake_encoder import ColourEncoder
from tiny import tiny_llava
from typer.testing import CliRunner

from myvlm import Concept, MyVLM
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.cli import app
from myvlm.concepts.concept import Embedding
from myvlm.heads.base import HeadMeta
from myvlm.heads.encoders import register_encoder
from myvlm.heads.objects.head import ObjectHead
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


@pytest.fixture(scope="module")
def kit() -> FewShot:
    """A user's four photos of a thing in tinyworld, and six unseen pictures of each kind."""
    return few_shot(0, photos=4, tests=6)


@pytest.fixture(scope="session")
def llava() -> tuple[Any, Any]:
    """A tiny random model and its processor, made once: a test that changes it takes `backbone`."""
    return tiny_llava()


@pytest.fixture
def backbone(llava: tuple[Any, Any]) -> LlavaBackbone:
    """A backbone around a copy of `llava`."""
    return LlavaBackbone(copy.deepcopy(llava[0]), llava[1])


@pytest.fixture
def concept() -> Concept:
    """A concept made by hand: six features, two rows of five numbers for `org/model`."""
    meta = HeadMeta(
        kind="object",
        encoder="ViT-B-32@openai",
        threshold=0.75,
        calibration={"slope": 2.0},
        settings={"crops": 9, "false_alarm_rate": 0.05, "C": 1.0, "seed": 7},
        figures={"photos": 3},
    )
    rng = np.random.default_rng(0)
    vector = rng.normal(size=6).astype(np.float32)
    head = ObjectHead.from_state(meta, {"coef": vector, "intercept": vector[:1], "witness": vector})
    embedding = Embedding(
        rng.normal(size=(2, 5)).astype(np.float32), "image", "Describe.", "f00d", {"steps": 3}, {"loss": 0.5}
    )
    return Concept("sks", "mug", head, {"org/model": embedding}, {"captions": [["sks"]]})


@pytest.fixture
def saved(concept: Concept, tmp_path: Path) -> Path:
    """The folder of `concept`."""
    return concept.save(tmp_path / "sks-mug")


@pytest.fixture
def myvlm(vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Myvlm:
    """Runs the command in an empty working folder, around the model that is already loaded."""
    from_pretrained = MyVLM.from_pretrained
    here = tmp_path / "here"
    here.mkdir()

    def loaded(name: str, **options: Any) -> MyVLM:
        return around(vlm) if name == "tinyworld/llava" else from_pretrained(name, **options)

    monkeypatch.setattr(MyVLM, "from_pretrained", loaded)
    monkeypatch.chdir(here)
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *words: Run(runner.invoke(app, [str(word) for word in words]))


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
