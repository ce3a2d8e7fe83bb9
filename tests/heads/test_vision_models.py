"""Vision models of transformers as image encoders, with a tiny random DINOv2 and its own processor."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from myvlm.errors import InputError
from myvlm.heads import ObjectHead
from myvlm.heads.encoders import get_encoder
from myvlm.heads.vision_models import PatchEncoder, VisionModelEncoder
from tests.support.fake_encoder import scenes

SIDE, PATCH, WIDTH = 28, 7, 32
SIZES = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip


def saved(folder: Path, registers: int = 0) -> Path:
    torch.manual_seed(0)
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **SIZES))
        if registers
        else Dinov2Model(Dinov2Config(**SIZES))
    )
    model.save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    BitImageProcessor(size={"shortest_edge": SIDE + 4}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture
def dinov2(folder: Path) -> VisionModelEncoder:
    return VisionModelEncoder(f"transformers:{folder}", dtype="float32")


def test_the_class_token_and_the_patches_are_the_models_own(dinov2: VisionModelEncoder, folder: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    random_before = torch.random.get_rng_state()
    rows, patches = dinov2.encode(pictures, batch_size=2), dinov2.encode_patches(pictures, batch_size=2)
    assert torch.equal(random_before, torch.random.get_rng_state())
    assert isinstance(dinov2, PatchEncoder)
    assert (rows.shape, patches.shape) == ((3, WIDTH), (3, (SIDE // PATCH) ** 2, WIDTH))
    assert (rows.dtype, patches.dtype) == (np.float32, np.float32)
    model = Dinov2Model.from_pretrained(folder).eval()
    processor = BitImageProcessor.from_pretrained(folder, do_resize=False, do_center_crop=False)
    with torch.inference_mode():
        plain = model(**processor(pictures, return_tensors="pt"))
    wanted = torch.nn.functional.normalize(plain.last_hidden_state, dim=-1).numpy()
    np.testing.assert_allclose(rows, wanted[:, 0], atol=1e-5)
    np.testing.assert_allclose(patches, wanted[:, 1:], atol=1e-5)
    assert (dinov2.encode_text(["a mug"]), dinov2.bank(), dinov2.whitening()) == (None, None, None)


def test_registers_are_no_patches(tmp_path: Path) -> None:
    encoder = VisionModelEncoder(f"transformers:{saved(tmp_path, registers=3)}")
    assert encoder.encode_patches(scenes(0, 2)).shape == (2, 16, WIDTH)


def test_bfloat16_sees_what_float32_sees(dinov2: VisionModelEncoder, folder: Path) -> None:
    half = VisionModelEncoder(f"transformers:{folder}", dtype="bfloat16")
    rows = half.encode(scenes(0, 4))
    assert half._loaded[0].dtype == torch.bfloat16
    assert (rows * dinov2.encode(scenes(0, 4))).sum(axis=1).min() > 0.999
    assert not np.array_equal(rows, dinov2.encode(scenes(0, 4)))


def test_it_is_sent_to_other_processes_without_its_model(folder: Path) -> None:
    encoder = VisionModelEncoder(f"transformers:{folder}", dtype="bfloat16")
    rows = encoder.encode(scenes(0, 1))
    sent = pickle.dumps(encoder)
    assert len(sent) < 500
    again = pickle.loads(sent)
    assert (again.dtype, "_model" in vars(again)) == ("bfloat16", False)
    assert np.array_equal(again.encode(scenes(0, 1)), rows)


def test_one_with_the_default_dtype_arrives_as_the_shared_one(folder: Path) -> None:
    name = f"transformers:{folder}"
    sent = pickle.dumps(VisionModelEncoder(name))
    assert pickle.loads(sent) is pickle.loads(sent) is get_encoder(name)


def test_only_the_wanted_tokens_leave_the_device(
    dinov2: VisionModelEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[tuple[int, ...]] = []
    to_cpu = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tuple(tensor.shape))
        return to_cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    dinov2.encode(scenes(0, 2))
    dinov2.encode_patches(scenes(0, 2))
    assert moved == [(2, WIDTH), (2, (SIDE // PATCH) ** 2, WIDTH)]


def test_edges_of_a_long_picture_are_seen(dinov2: VisionModelEncoder) -> None:
    plain, marked = Image.new("RGB", (400, 100), "white"), Image.new("RGB", (400, 100), "white")
    marked.paste((0, 0, 0), (380, 0, 400, 100))
    assert (dinov2.encode([plain]) * dinov2.encode([marked])).sum() < 0.9999


def test_heads_are_learned_and_kept_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYVLM_CACHE", str(tmp_path))
    name = f"transformers:{folder}"
    assert get_encoder(name) is get_encoder(name)
    head = ObjectHead(name, crops=4).fit(scenes(0, 3))
    meta, tensors = head.state()
    assert meta.encoder == name
    assert ObjectHead.from_state(meta, tensors).score(scenes(9, 2)) == head.score(scenes(9, 2))


def test_dinov2_is_a_name_and_nothing_is_loaded_before_it_is_used() -> None:
    encoder = get_encoder("dinov2")
    assert encoder.id == "transformers:facebook/dinov2-base"
    assert "_model" not in vars(encoder)


@pytest.mark.parametrize("fault", ["no folder", "no processor", "no patches"])
def test_what_cannot_be_loaded_is_said(folder: Path, tmp_path: Path, fault: str) -> None:
    if fault != "no folder":
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    if fault == "no processor":
        (tmp_path / "preprocessor_config.json").unlink()
    if fault == "no patches":
        file = tmp_path / "preprocessor_config.json"
        settings = json.loads(file.read_bytes())
        file.write_text(json.dumps({**settings, "crop_size": {}, "size": {"longest_edge": 9}}))
    with pytest.raises(InputError, match=r"cannot be loaded(.|\n)*transformers:facebook/dinov2-base"):
        VisionModelEncoder(f"transformers:{tmp_path}").encode(scenes(0, 1))
