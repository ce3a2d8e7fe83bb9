"""Quantized models, and models that accelerate keeps partly on disk, learn and speak like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, LlavaForConditionalGeneration

from myvlm.backbones import Backbone, ConceptRows, backbone_for
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding
from tests.support.tiny import pictures, tiny_llava
from tests.support.tiny_blip2 import tiny_blip2

pytest.importorskip("accelerate", reason='needs accelerate: pip install -e ".[quantised]"')

CLASSES: dict[str, Any] = {"llava": LlavaForConditionalGeneration, "blip2": Blip2ForConditionalGeneration}
PROMPTS = {"llava": "Describe the image.", "blip2": ""}


def whole(family: str) -> tuple[Any, Any]:
    return tiny_llava() if family == "llava" else tiny_blip2()


def reloaded(family: str, folder: Path, **options: Any) -> tuple[Backbone, Backbone]:
    """A model, and the same model loaded again with these options."""
    model, processor = whole(family)
    model.save_pretrained(folder)
    again = CLASSES[family].from_pretrained(folder, dtype=torch.float32, **options).eval()
    return backbone_for(model, processor, name="one"), backbone_for(again, processor, name="one")


def direction(backbone: Backbone) -> Tensor:
    return torch.randn(1, backbone.dim, generator=torch.Generator().manual_seed(3))


def loss(backbone: Backbone, family: str, rows: Tensor) -> Tensor:
    prompts, answers = [PROMPTS[family]] * 2, ["a photo of sks", "sks on a table"]
    features = backbone.encode(pictures(2))
    found = backbone.answer_loss(features, prompts, answers, [[ConceptRows(rows)], [ConceptRows(rows)]])
    return found.cross_entropy + 0.25 * found.attention


def gradient(backbone: Backbone, family: str) -> Tensor:
    rows = direction(backbone).requires_grad_()
    [found] = torch.autograd.grad(loss(backbone, family, rows), [rows])
    return found.flatten()


def losses_of_learning(backbone: Backbone) -> list[float]:
    examples = gather_examples("sks", load_images(pictures(2)), ["sks on a table", "sks and a mug"])
    losses: list[float] = []
    learned = learn_embedding(
        backbone,
        examples,
        LearnSettings(steps=50, views=2, learning_rate=0.2, augment=False, regularizer=0.0),
        report=lambda step, cross_entropy, *_: losses.append(cross_entropy),
    )
    assert learned.directions.dtype == torch.float32
    assert torch.isfinite(learned.directions).all()
    return losses


@pytest.mark.parametrize("family", ["llava", "blip2"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_model_learns_and_speaks(family: str, bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason='needs bitsandbytes: pip install -e ".[quantised]"')
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    how = BitsAndBytesConfig(**four if bits == 4 else {"load_in_8bit": True})
    full, small = reloaded(family, tmp_path, quantization_config=how, device_map="cpu")
    for part in small.model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # Its fast path needs matrices with multiples of 32 rows, which only tiny models lack.
            part.support_avx512bf16_for_cpu = False
    kinds = {type(part).__name__ for part in small.model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert small.fingerprint() == full.fingerprint()
    slope = gradient(small, family)
    if bits == 4:  # computes in float32, so finite differences are exact enough
        start, step = direction(small), 0.003 * slope / slope.norm()
        with torch.no_grad():
            rise = loss(small, family, start + step) - loss(small, family, start - step)
        assert float(rise) / 0.006 == pytest.approx(float(slope.norm()), rel=0.05)
    else:
        assert torch.cosine_similarity(gradient(full, family), slope, dim=0) > 0.95
    losses = losses_of_learning(small)
    assert losses[-1] < losses[0] - 0.3
    rows = [[ConceptRows(direction(small))]]
    [said] = small.generate(pictures(1), [PROMPTS[family]], rows, max_new_tokens=4)
    assert len(said.token_ids) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match")  # a parameter, not a module
@pytest.mark.parametrize("family", ["llava", "blip2"])
def test_a_model_kept_partly_on_disk_is_the_model_itself(family: str, tmp_path: Path) -> None:
    far = "model.language_model" if family == "llava" else "language_model"
    near = {
        "llava": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
        "blip2": ["query_tokens", "vision_model", "qformer", "language_projection"],
    }
    places = {**dict.fromkeys(near[family], "cpu"), far: "disk"}
    full, offloaded = reloaded(
        family, tmp_path / "model", device_map=places, offload_folder=tmp_path / "away"
    )
    assert offloaded.model.get_input_embeddings().weight.is_meta
    assert offloaded.device == torch.device("cpu")
    assert offloaded.fingerprint() == full.fingerprint()
    torch.testing.assert_close(gradient(offloaded, family), gradient(full, family))
    rows = [[ConceptRows(direction(full))], []]
    prompts = [PROMPTS[family]] * 2
    theirs, ours = (b.generate(pictures(2), prompts, rows, max_new_tokens=5) for b in (full, offloaded))
    assert [g.token_ids.tolist() for g in ours] == [g.token_ids.tolist() for g in theirs]
    losses = losses_of_learning(offloaded)
    assert losses == pytest.approx(losses_of_learning(full), rel=1e-4)
