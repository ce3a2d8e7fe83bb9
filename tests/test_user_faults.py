"""What users of neighbouring programs met: each was a raw error or a wrong result once."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from myvlm import LearnSettings, MyVLM
from myvlm.backbones.loading import load_model
from myvlm.cli.inputs import captions_for
from myvlm.errors import UnknownBackboneError
from myvlm.learning.dataset import in_order
from myvlm.tinyworld import assets, few_shot


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_learning_switches_gradients_on(
    quick: MyVLM, off: Callable[[], AbstractContextManager[None]]
) -> None:
    kit = few_shot(0, photos=1)
    captions = [f"{kit.identifier} on a table ."]
    settings = LearnSettings(steps=2, views=1)
    with off():
        learned = quick.learn(
            kit.identifier, kit.photos(), category=kit.category, captions=captions, settings=settings,
            progress=False,
        )  # fmt: skip
        assert not torch.is_grad_enabled()
    with_gradients = quick.relearn(learned, kit.photos(), settings=settings, progress=False)
    name = quick.backbone.name
    assert np.array_equal(learned.embeddings[name].directions, with_gradients.embeddings[name].directions)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"version https://git-lfs"]
)
def test_damaged_weights_are_an_error_of_ours(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(assets.path("llava"), folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UnknownBackboneError, match=r"(?s)cannot be loaded.*fetch the weights again"):
        load_model(str(folder), device="cpu", dtype=None, model_options={})


def test_a_missing_package_is_named() -> None:
    options = {"attn_implementation": "flash_attention_2"}
    with pytest.raises(UnknownBackboneError, match=r"(?s)FlashAttention2.*install the package"):
        load_model("tinyworld/llava", device="cpu", dtype=None, model_options=options)


def test_a_path_is_a_models_name(tmp_path: Path) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(assets.path("llava"), folder)
    assert MyVLM.from_pretrained(folder, device="cpu").backbone.family == "llava"


def test_names_are_one_however_their_accents_are_written() -> None:
    apart, composed = (unicodedata.normalize(form, "Zo\xeb-0.png") for form in ("NFD", "NFC"))
    assert apart != composed
    assert in_order({composed: "a"}, [(apart,)], "captions") == ["a"]
    assert in_order({apart: "a"}, [(composed,)], "captions") == ["a"]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"1.jpg": "sks"}), encoding="utf-8-sig")
    assert captions_for([Path("1.jpg")], [str(file)]) == [["sks"]]
