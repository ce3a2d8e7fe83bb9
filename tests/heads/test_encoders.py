"""Image encoders and their windows, with a tiny random open_clip model; the registry of heads."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from myvlm.boxes import iou, overlap
from myvlm.errors import InputError, NameTakenError, UnknownHeadError
from myvlm.heads import base, head_class, head_kinds, register_head
from myvlm.heads.encoders import OpenClipEncoder, get_encoder, read_bank
from myvlm.heads.features import features, windows
from myvlm.heads.objects.bank import write_bank
from myvlm.heads.objects.head import ObjectHead
from myvlm.heads.vision_models import PatchEncoder
from myvlm.images import load_images
from myvlm.runtime.process import encoder_dtype
from tests.support.fake_encoder import ColourEncoder, scene, scenes

POSITIVES = [scene(seed) for seed in range(1000, 1040)]


# windows


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (480, 640), (3000, 200), (20, 7), (1, 1), (101, 103)])
@pytest.mark.parametrize("crops", ["auto", "none", 1, 5, 12])
def test_windows_lie_inside_are_distinct_and_bounded(size: tuple[int, int], crops: object) -> None:
    boxes = windows(*size, crops)  # type: ignore[arg-type]
    assert boxes[0] == (0, 0, *size)
    assert len(boxes) <= {"auto": 48, "none": 1}.get(str(crops), crops)  # type: ignore[operator]
    assert len(set(boxes)) == len(boxes)
    assert all(
        0 <= left < right <= size[0] and 0 <= top < bottom <= size[1] for left, top, right, bottom in boxes
    )
    if crops == "auto" and min(size) > 50:
        finest = [box for box in boxes if box[2] - box[0] == min(size) // 3]
        assert len(finest) or size == (3000, 200)
        assert {box[0] for box in boxes} >= {0.0}
        assert max(box[2] for box in boxes[1:]) == size[0]
        assert max(box[3] for box in boxes[1:]) == size[1]


@pytest.mark.parametrize("crops", [0, -1, 2.5, True, "all", None])
def test_impossible_crops(crops: object) -> None:
    with pytest.raises(InputError, match="number of windows"):
        windows(10, 10, crops)  # type: ignore[arg-type]


def test_small_object_fills_most_of_some_window() -> None:
    for _, box in POSITIVES:
        assert box is not None
        assert max(iou(box, window) for window in windows(160, 160)) > 0.3
        assert max(overlap(box, window) for window in windows(160, 160)[10:]) > 0.6


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def clip(clip_folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder(f"local-dir:{clip_folder}", dtype="float32")


def test_open_clip_features_are_unit_and_batches_agree(clip: OpenClipEncoder) -> None:
    pictures = scenes(0, 5)
    random_before = torch.random.get_rng_state()
    rows = clip.encode(pictures, batch_size=2)
    assert torch.equal(random_before, torch.random.get_rng_state())
    assert rows.shape == (5, 32)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, clip.encode(pictures), atol=1e-5)
    text = clip.encode_text(["a mug", "a dog"])
    assert text is not None
    assert text.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    assert clip.bank() is None


def test_loading_an_encoder_leaves_logging_to_the_user(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip logs by `logging.info`, which configures the root logger if nobody has."""
    monkeypatch.setattr(logging.root, "handlers", [])
    OpenClipEncoder(f"local-dir:{clip_folder}")
    assert logging.root.handlers == []


def test_code_in_the_folder_of_an_encoder_is_not_run(clip_folder: Path, tmp_path: Path) -> None:
    """A concept file names its encoder, which may be a folder that came with it."""
    folder, ran = tmp_path / "clip", tmp_path / "ran"
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "any", "tokenizer_kwargs": {"trust_remote_code": True},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    )
    with pytest.raises(InputError, match="cannot be loaded"):
        OpenClipEncoder(f"local-dir:{folder}").encode_text(["a mug"])
    assert not ran.exists()


def test_the_last_block_runs_for_the_class_token_alone(clip: OpenClipEncoder) -> None:
    model, preprocess, _ = clip._loaded
    pictures = [one.resize((60, 60)) for one in scenes(0, 3)]  # too small to be downscaled first
    lengths: list[int] = []
    mlp = clip._class_token.transformer.resblocks[-1].mlp  # type: ignore[attr-defined]
    mlp.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    rows, patches = clip.encode(pictures), clip.encode_patches(pictures)
    assert lengths == [1], "patch tokens are asked of the whole tower"
    with torch.inference_mode():
        whole = torch.nn.functional.normalize(model.encode_image(preprocess(pictures)), dim=-1)
    np.testing.assert_allclose(rows, whole, atol=1e-6)
    assert patches.shape[1] > 1
    shared = {one.data_ptr() for one in clip._class_token.parameters()}  # type: ignore[attr-defined]
    assert shared == {one.data_ptr() for one in model.visual.parameters()}, "no weight is held twice"


def test_a_tower_that_pools_its_patches_is_run_whole(clip: OpenClipEncoder) -> None:
    model, preprocess, _ = clip._loaded
    pictures = [one.resize((60, 60)) for one in scenes(0, 2)]
    averaging = copy.deepcopy(model)
    averaging.visual.pool_type = "avg"
    other = OpenClipEncoder(clip.name, dtype="float32")
    other._model = (averaging, preprocess, None)
    rows = other.encode(pictures)
    with torch.inference_mode():
        whole = torch.nn.functional.normalize(averaging.encode_image(preprocess(pictures)), dim=-1)
    np.testing.assert_allclose(rows, whole, atol=1e-6)
    assert np.abs(rows - clip.encode(pictures)).max() > 1e-3


def test_pictures_are_prepared_together_bit_for_bit_as_one_by_one(clip: OpenClipEncoder) -> None:
    preprocess = clip._loaded[1]
    sizes = [(40, 50), (32, 32), (90, 33)]
    pictures = [one.resize(size) for one, size in zip(scenes(0, 3), sizes, strict=True)]
    together = preprocess(pictures)
    assert together.shape == (3, 3, 32, 32)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([preprocess([one]) for one in pictures]))


def test_encoders_run_in_half_precision_where_the_hardware_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, dtype in [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert encoder_dtype("cpu") == dtype
    assert encoder_dtype("cuda:1") in (torch.bfloat16, torch.float16)
    assert encoder_dtype("meta") == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in older releases of torch
    assert encoder_dtype("cpu") == torch.float32


def test_half_precision_sees_what_float32_sees(clip_folder: Path, clip: OpenClipEncoder) -> None:
    half = OpenClipEncoder(f"local-dir:{clip_folder}", dtype="bfloat16")
    pictures = scenes(0, 4)
    rows = half.encode(pictures)
    assert half._loaded[0].visual.conv1.weight.dtype == torch.bfloat16
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert not np.array_equal(rows, clip.encode(pictures))
    assert (rows * clip.encode(pictures)).sum(axis=1).min() > 0.999
    texts = ["a mug", "a dog"]
    assert (half.encode_text(texts) * clip.encode_text(texts)).sum(axis=1).min() > 0.999  # type: ignore[operator]
    learned = ObjectHead(clip, crops=10).fit(scenes(0, 3), scenes(700, 6, None))
    meta, tensors = learned.state()
    again = ObjectHead.from_state(meta, tensors)
    again.encoder = half
    likely = [[one.probability for one in head.score(pictures)] for head in (learned, again)]
    np.testing.assert_allclose(*likely, atol=0.1)


def test_open_clip_gives_patch_tokens_row_by_row(clip: OpenClipEncoder) -> None:
    assert isinstance(clip, PatchEncoder)
    left, right = Image.new("RGB", (32, 32), "white"), Image.new("RGB", (32, 32), "white")
    left.paste((200, 0, 0), (0, 0, 8, 8))
    right.paste((200, 0, 0), (24, 8, 32, 16))
    rows = clip.encode_patches([left, right, left], batch_size=2)
    assert rows.shape == (3, 16, 32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-5)
    plain = clip.encode_patches([Image.new("RGB", (32, 32), "white")])[0]
    changed = [int((one * plain).sum(axis=1).argmin()) for one in rows[:2]]
    assert changed == [0, 7]


def test_open_clip_averages_what_is_far_larger_than_its_input(clip: OpenClipEncoder) -> None:
    sizes: list[tuple[int, int]] = []
    model, preprocess, tokenizer = clip._loaded
    clip._model = (
        model,
        lambda images: sizes.extend(one.size for one in images) or preprocess(images),
        tokenizer,
    )
    [scene] = scenes(0, 1)
    rows = clip.encode([scene.resize((1300, 1000), Image.Resampling.LANCZOS), scene.resize((120, 100))])
    assert sizes == [(87, 67), (120, 100)]  # input size 32: below four times it, no downscaling first
    whole = clip.encode([scene.resize((130, 100), Image.Resampling.LANCZOS)])
    assert float((rows[0] * whole[0]).sum()) > 0.999


def test_open_clip_head_learns_from_random_features(clip: OpenClipEncoder) -> None:
    head = ObjectHead(clip, crops=10).fit(scenes(0, 3), scenes(700, 6, None), category="red square")
    assert [0 <= one.probability <= 1 for one in head.score(scenes(50, 2))] == [True, True]


def test_loading_is_lazy_and_shared(clip_folder: Path) -> None:
    name = f"local-dir:{clip_folder}"
    assert get_encoder(name) is get_encoder(name)
    assert get_encoder(name) is not get_encoder(name, device="meta")
    assert "_model" not in vars(get_encoder("local-dir:/nowhere"))
    with pytest.raises(InputError, match=r"local-dir:/nowhere cannot be loaded"):
        get_encoder("local-dir:/nowhere").encode(scenes(0, 1))


def test_unknown_encoders_say_what_is_known() -> None:
    with pytest.raises(InputError, match=r"got: +clip(.|\n)*tinyworld/clip, ViT-B-32@openai"):
        get_encoder("clip")
    with pytest.raises(InputError, match="laion2b_s34b_b79k"):
        OpenClipEncoder("ViT-B-32@nonsense").encode(scenes(0, 1))


def test_weights_of_a_known_tag_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.create_model_from_pretrained", offline)
    with pytest.raises(InputError, match=r"(?s)OSError: no network.*expected: its weights, on disk or downl"):
        OpenClipEncoder("ViT-B-32@laion2b_s34b_b79k").encode(scenes(0, 1))


def test_a_folder_without_weights_is_not_run_at_random(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        OpenClipEncoder(f"local-dir:{tmp_path}").encode(scenes(0, 1))


def test_bank_beside_an_encoder(clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    encoder = OpenClipEncoder(f"local-dir:{tmp_path}")
    pictures = features(encoder, load_images([*scenes(0, 2), Image.new("RGB", (64, 40))]))
    write_bank(tmp_path, [one.features for one in pictures])
    bank = encoder.bank()
    assert bank is not None
    assert bank.shape == (3, max(len(one.boxes) for one in pictures), 32)
    np.testing.assert_allclose(bank[0, :35], pictures[0].features, atol=2e-3)
    (tmp_path / "bank.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="bank"):
        read_bank(tmp_path)
    assert encoder.encode(scenes(0, 1)).shape == (1, 32), "open_clip must not take the bank for weights"


def test_features_follow_the_pixels_and_very_large_pictures_are_reduced() -> None:
    encoder = ColourEncoder()
    first, second = load_images(scenes(0, 2))
    ahead, again, same = features(encoder, [first, second, first])
    assert not np.array_equal(again.features, ahead.features)
    assert np.array_equal(same.features, ahead.features)
    assert encoder.calls == [70], "the windows of all pictures in one batch, of one that is there twice once"
    ahead.features[:] = 0
    assert features(encoder, [first])[0].features.any(), "what is handed out is a copy"
    ahead = same
    assert np.array_equal(
        ahead.features[5], encoder.encode([first.image.crop(tuple(map(int, ahead.boxes[5])))])[0]
    )
    huge = first.image.resize((2400, 2400))
    [large] = features(encoder, load_images(huge))
    assert large.boxes[0] == (0, 0, 2400, 2400)
    assert float((large.features[0] * ahead.features[0]).sum()) > 0.97
    assert len(features(encoder, load_images(scenes(100, 70)), "none")) == 70, "more than are remembered"


# the registry


def test_registry() -> None:
    assert head_class("object") is ObjectHead
    assert "object" in head_kinds()
    with pytest.raises(UnknownHeadError, match=r"'gait'(.|\n)*object"):
        head_class("gait")

    class Gait(ObjectHead):
        kind = "gait"  # type: ignore[misc]

    class Thief(ObjectHead):
        pass

    class Spaced(ObjectHead):
        kind = "a b"  # type: ignore[misc]

    another = type("Gait", (Gait,), {})
    with base.heads.restored():
        register_head("gait", Gait)
        register_head("gait", Gait)
        assert head_class("gait") is Gait
        for kind, head in (("object", Thief), ("gait", another)):
            with pytest.raises(NameTakenError):
                register_head(kind, head)
        for kind, head in (("face", Gait), ("a b", Gait), ("a b", Spaced)):
            with pytest.raises(InputError):
                register_head(kind, head)
        register_head("gait", another, replace=True)
        assert head_class("gait") is another
    with pytest.raises(UnknownHeadError, match=r"no head 'objct'(.|\n)*write object"):
        head_class("objct")


def test_heads_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("colour", "fake_head:ColourHead", "myvlm.heads")

    class ColourHead(ObjectHead):
        kind = "colour"  # type: ignore[misc]

    monkeypatch.setattr(EntryPoint, "load", lambda self: ColourHead)
    monkeypatch.setattr("myvlm.plugins.registry.entry_points", lambda group: [point])
    with base.heads.restored():
        assert "colour" in head_kinds()
        assert head_class("colour") is ColourHead
