"""The embedded model and a concept learned for it; the state of a model that calls must preserve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myvlm import Concept, MyVLM
from myvlm.concepts.embedding import Embedding
from myvlm.heads.base import HeadMeta
from myvlm.heads.encoders import register_encoder
from myvlm.heads.objects.head import ObjectHead
from myvlm.learning.likelihood import TAUGHT_LOSS
from myvlm.tinyworld import FewShot, few_shot, sample_picture
from tests.support.fake_encoder import ColourEncoder

COLOURS = "fake/api"
register_encoder(COLOURS, lambda device: ColourEncoder(COLOURS))


@dataclass(frozen=True, eq=False)
class Taught:
    """A concept of tinyworld, learned with the default settings and saved."""

    kit: FewShot
    concept: Concept
    folder: Path
    photos: Path

    @property
    def word(self) -> str:
        return self.kit.identifier


def load() -> MyVLM:
    """The embedded model on the CPU, warmed up."""
    loaded = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    loaded.caption(sample_picture(0))  # transformers adds hooks of its own at a model's first call
    return loaded


def around(vlm: MyVLM, *, encoder: str | None = None) -> MyVLM:
    backbone = vlm.backbone
    return MyVLM(backbone.model, backbone.processor, name=backbone.name, encoder=encoder)


def learned(vlm: MyVLM, place: Path) -> Taught:
    """The first concept of tinyworld, learned from four photos on disk."""
    kit = few_shot(0, seed=0, photos=4, tests=6)
    photos = place / "photos"
    photos.mkdir()
    for number, photo in enumerate(kit.photos(), start=1):
        photo.save(photos / f"{number}.png")
    concept = around(vlm).learn(
        kit.identifier, photos, category=kit.category, captions=kit.captions(), progress=False
    )
    folder = concept.save(place / "concepts" / "mug")
    return Taught(kit, Concept.load(folder), folder, photos)


def held_to(taught: Taught, limit: float | None, **changes: Any) -> Concept:
    """The concept with this training loss, against which `verify` compares its replies; None: not
    verified."""
    figures = {} if limit is None else {TAUGHT_LOSS: limit}
    learned = {
        name: Embedding(one.directions, one.norm, one.prompt, one.fingerprint, figures=figures)
        for name, one in taught.concept.embeddings.items()
    }
    return replace(taught.concept, embeddings=learned, folder=None, **changes)


def by_hand() -> Concept:
    """A concept made by hand: six features, and two rows of five numbers for `org/model`."""
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


def numbered(number: int) -> Concept:
    """A concept whose category and embedding both contain `number`."""
    concept = by_hand()
    old = concept.embeddings["org/model"]
    directions = np.full((2, 5), number, np.float32)
    concept.embeddings = {"org/model": Embedding(directions, old.norm, old.prompt, old.fingerprint)}
    concept.category = f"mug {number}"
    return concept


def is_whole(concept: Concept) -> bool:
    """Whether the category and the embedding of a `numbered` concept belong together."""
    return concept.category == f"mug {concept.embeddings['org/model'].directions[0, 0]:.0f}"


def elsewhere(taught: Taught, word: str) -> Concept:
    """A concept of that name that is detected in no picture."""
    concept = Concept.load(taught.folder)
    concept.identifier = concept.spoken = word
    concept.head.threshold_ = 1e6  # type: ignore[attr-defined]
    return concept


def state_of(model: Any) -> dict[str, Any]:
    """Everything that a call must preserve: weights, flags, hooks, attention implementations, tokenizer."""
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
