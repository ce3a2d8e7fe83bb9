"""Heads: windows, encoders, calibration, the object probe, the gate, the registry."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from fake_encoder import ColourEncoder, everyday_bank, scene, scenes
from PIL import Image
from safetensors.torch import save_file

from myvlm.errors import ConceptFileError, ImageError, InputError, NotFittedError, UnknownHeadError
from myvlm.heads import Head, head_class, head_kinds, register_head, registry
from myvlm.heads.bank import read_bank, write_bank
from myvlm.heads.calibration import calibrate
from myvlm.heads.choosing import choose_windows
from myvlm.heads.clip_probe import ObjectHead
from myvlm.heads.encoders import (
    OpenClipEncoder,
    features,
    get_encoder,
    register_encoder,
)
from myvlm.heads.probing import fit_probe
from myvlm.heads.windows import iou, overlap, windows
from myvlm.images import load_images

BANK = everyday_bank()
POSITIVES = [scene(seed) for seed in range(1000, 1040)]
NEGATIVES = scenes(5000, 60, None)


@pytest.fixture(scope="module")
def fitted() -> ObjectHead:
    return ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 4))


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
    with pytest.raises(InputError, match="how many windows"):
        windows(10, 10, crops)  # type: ignore[arg-type]


def test_small_object_fills_most_of_some_window() -> None:
    for _, box in POSITIVES:
        assert box is not None
        assert max(iou(box, window) for window in windows(160, 160)) > 0.3
        assert max(overlap(box, window) for window in windows(160, 160)[10:]) > 0.6


# calibration


def test_threshold_holds_the_false_alarm_rate_and_probability_is_half_there() -> None:
    rng = np.random.default_rng(0)
    negatives = rng.normal(0, 1, 1000)
    found = calibrate(rng.normal(2, 1, 5), negatives, 0.05)  # they overlap
    assert (negatives >= found.threshold).mean() <= 0.05
    assert (negatives >= found.threshold).mean() > 0.03
    assert found.probability(np.array([found.threshold])) == pytest.approx(0.5)
    apart = calibrate(np.array([5.0, 6.0]), negatives - 5, 0.01)
    assert -5 < apart.threshold < 5
    assert apart.probability(np.array([5.5]))[0] > 0.8
    assert apart.probability(np.array([-6.0]))[0] < 0.2
    assert np.isfinite(apart.probability(np.array([-1e9, 1e9]))).all()


def test_few_overlapping_negatives_do_not_push_the_threshold_over_all_positives() -> None:
    found = calibrate(np.array([1.0, 2.0, 3.0]), np.array([-2.0, -1.0, 3.5]), 0.01)
    assert found.threshold == pytest.approx(0.5)


# choosing and learning


def test_the_shared_object_is_chosen_without_words_or_negatives() -> None:
    drawn = [scene(seed) for seed in range(4)]
    chosen = features(ColourEncoder(), load_images([image for image, _ in drawn]))
    boxes = [one.boxes[i] for one, i in zip(chosen, choose_windows(chosen), strict=True)]
    assert all(overlap(box, true) > 0.5 for box, (_, true) in zip(boxes, drawn, strict=True) if true)


def test_words_decide_where_there_is_one_photo() -> None:
    image, true = scene(3)
    head = ObjectHead(ColourEncoder(reads=True, bank=BANK)).fit(image, category="red square")
    assert true is not None
    assert overlap(head.boxes_[0], true) > 0.5


def test_recognises_unseen_pictures_at_the_stated_rate(fitted: ObjectHead) -> None:
    seen = fitted.score([image for image, _ in POSITIVES])
    unseen = fitted.score(NEGATIVES)
    assert np.mean([one.present for one in seen]) >= 0.95
    assert np.mean([one.present for one in unseen]) <= 0.02
    assert all(one.present == (one.probability >= 0.5) for one in seen + unseen)
    inside = [overlap(one.box, true) > 0.5 for one, (_, true) in zip(seen, POSITIVES, strict=True)]  # type: ignore[arg-type]
    assert np.mean(inside) > 0.9
    assert fitted.figures_["photos"] == 4
    assert fitted.figures_["negative_pictures"] == len(BANK)
    assert fitted.figures_["left_out_false_alarms"] <= 0.01 + 1 / len(BANK)


def test_works_with_no_negatives_at_all() -> None:
    head = ObjectHead(ColourEncoder()).fit(scenes(0, 4))
    assert np.mean([one.present for one in head.score([image for image, _ in POSITIVES])]) > 0.7
    assert np.mean([one.present for one in head.score(NEGATIVES)]) < 0.1


def test_a_head_that_does_not_know_its_own_photos_says_so(caplog: pytest.LogCaptureFixture) -> None:
    bank_of_the_object = scenes(200, 30)
    head = ObjectHead(ColourEncoder()).fit(scenes(0, 3), bank_of_the_object)
    assert head.figures_["left_out_found"] < 0.5
    assert "give it more photos" in caplog.text


def test_given_negatives_tell_apart_what_is_alike() -> None:
    lookalike = [scene(seed, colour=(200, 0, 40))[0] for seed in range(300, 340)]
    naive = ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5))
    taught = ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5), lookalike[:20])
    assert taught.figures_["negative_pictures"] == len(BANK) + 20
    before = np.mean(naive.decision_function(lookalike[20:]) - naive.threshold_)
    after = np.mean(taught.decision_function(lookalike[20:]) - taught.threshold_)
    assert after < before
    assert np.mean([one.present for one in taught.score(lookalike[20:])]) < 0.1


@pytest.mark.parametrize("crops", ["auto", "none", 6])
@pytest.mark.parametrize("photos", [scenes(0, 1), scenes(0, 1) * 4, [Image.new("RGB", (30, 30), "red")] * 2])
def test_one_photo_identical_photos_and_plain_photos_work(crops: object, photos: list[Image.Image]) -> None:
    head = ObjectHead(ColourEncoder(), crops=crops).fit(photos)  # type: ignore[arg-type]
    [score] = head.score(photos[0])
    assert 0 <= score.probability <= 1
    assert (score.box is None) == (crops == "none")
    assert score.present


def test_same_seed_same_head_and_fit_leaves_settings_alone() -> None:
    first, second = (ObjectHead(ColourEncoder(bank=BANK), seed=3).fit(scenes(0, 3)) for _ in range(2))
    assert np.array_equal(first.coef_, second.coef_)
    assert first.threshold_ == second.threshold_
    other = ObjectHead(ColourEncoder(bank=BANK), seed=4).fit(scenes(0, 3))
    assert not np.array_equal(first.coef_, other.coef_)
    assert (first.seed, first.crops, first.C) == (3, "auto", 10.0)


def test_hard_negatives_are_mined_from_a_large_pool() -> None:
    rng = np.random.default_rng(0)
    positives = rng.normal(0, 0.1, (20, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[0]
    easy = rng.normal(0, 0.1, (6000, 8)).astype(np.float32) - np.eye(8, dtype=np.float32)[0]
    hard = rng.normal(0, 0.05, (40, 8)).astype(np.float32) + 0.9 * np.eye(8, dtype=np.float32)[0]
    hard[:, 1] += 1
    probe = fit_probe(positives, np.concatenate([easy, hard]), 10.0, 0)
    assert probe.windows(hard).max() < probe.windows(positives).min()


def test_before_fit_and_bad_settings() -> None:
    head = ObjectHead(ColourEncoder())
    for use in (lambda: head.score(scenes(0, 1)), head.state, lambda: ObjectHead.gate([head])):
        with pytest.raises(NotFittedError, match="ObjectHead has learned nothing"):
            use()
    for bad in ({"false_alarm_rate": 0.0}, {"C": -1.0}, {"crops": "every"}):
        with pytest.raises(InputError):
            ObjectHead(ColourEncoder(), **bad).fit(scenes(0, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no photos"):
        head.fit([])
    with pytest.raises(ImageError):
        head.fit(np.zeros((2, 2)))


def test_state_round_trip(fitted: ObjectHead) -> None:
    encoder = fitted._encoder()
    meta, tensors = fitted.state()
    assert {name: array.shape for name, array in tensors.items()} == {
        "coef": (125,),
        "intercept": (1,),
        "witness": (125,),
    }
    meta = type(meta).model_validate_json(meta.model_dump_json())
    again = ObjectHead.from_state(meta.model_copy(update={"encoder": "fake/round-trip"}), tensors)
    _register_once("fake/round-trip", encoder)
    pictures = scenes(1000, 3)
    assert np.array_equal(again.decision_function(pictures), fitted.decision_function(pictures))
    assert again.score(pictures) == fitted.score(pictures)
    assert isinstance(fitted, Head)


def _register_once(id: str, encoder: ColourEncoder) -> None:
    register_encoder(id, lambda device: encoder)
    assert get_encoder(id) is encoder
    with pytest.raises(InputError, match="taken"):
        register_encoder(id, lambda device: encoder)


@pytest.mark.parametrize("spoil", ["missing", "shape", "nan", "length", "settings"])
def test_spoilt_state(fitted: ObjectHead, spoil: str) -> None:
    meta, tensors = fitted.state()
    if spoil == "missing":
        del tensors["coef"]
    elif spoil == "shape":
        tensors["coef"] = tensors["coef"][None]
    elif spoil == "nan":
        tensors["coef"] = tensors["coef"] * np.nan
    elif spoil == "length":
        tensors["witness"] = tensors["witness"][:5]
    else:
        meta = meta.model_copy(update={"settings": {"crops": "auto"}})
    with pytest.raises(ConceptFileError):
        ObjectHead.from_state(meta, tensors)


def test_a_head_does_not_run_on_other_weights(fitted: ObjectHead) -> None:
    class Inverted(ColourEncoder):
        def encode(self, images: object, *, batch_size: int = 32) -> np.ndarray:
            return super().encode([Image.eval(image, lambda level: 255 - level) for image in images])  # type: ignore[attr-defined]

    meta, tensors = fitted.state()
    head = ObjectHead.from_state(meta, tensors)
    head.encoder = Inverted("fake/other")
    with pytest.raises(ConceptFileError, match=r"other weights of fake/other(.|\n)*cosine"):
        head.score(scenes(0, 1))


# the gate


def test_gate_equals_single_heads_with_one_pass() -> None:
    encoder = ColourEncoder(bank=BANK)
    heads = [
        ObjectHead(encoder).fit(scenes(10 * i, 3, colour)) for i, colour in enumerate(["red", "lime", "blue"])
    ]
    pictures = [*scenes(2000, 5), Image.new("RGB", (90, 60), "lime")]
    alone = np.concatenate([head.decision_function(pictures)[:, None] for head in heads], axis=1)
    encoder.calls.clear()
    gate = ObjectHead.gate(heads)
    scores = gate.score(scenes(3000, 4))
    assert len(encoder.calls) == 1, "one pass, however many heads"
    assert scores.probabilities.shape == scores.present.shape == (4, 3)
    assert scores.boxes.shape == (4, 3, 4)
    np.testing.assert_allclose(gate.raw(pictures)[0], alone, rtol=1e-4, atol=1e-4)
    encoder.calls.clear()
    gate.score(scenes(3000, 4))
    assert encoder.calls == [], "a picture that was just seen is remembered"


def test_gate_refuses_heads_that_share_nothing(fitted: ObjectHead) -> None:
    other = ObjectHead(ColourEncoder(), crops="none").fit(scenes(0, 1))
    with pytest.raises(InputError, match="share one encoder"):
        ObjectHead.gate([fitted, other])


# encoders, with a tiny random open_clip model


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
    return OpenClipEncoder(f"local-dir:{clip_folder}")


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
    assert again.features is not ahead.features
    assert same.features is ahead.features
    assert sum(encoder.calls) == 70
    assert np.array_equal(
        ahead.features[5], encoder.encode([first.image.crop(tuple(map(int, ahead.boxes[5])))])[0]
    )
    huge = first.image.resize((2400, 2400))
    [large] = features(encoder, load_images(huge))
    assert large.boxes[0] == (0, 0, 2400, 2400)
    assert float((large.features[0] * ahead.features[0]).sum()) > 0.97
    assert len(features(encoder, load_images(scenes(100, 70)), "none")) == 70, "more than are remembered"


# the registry


def test_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert head_class("object") is ObjectHead
    assert "object" in head_kinds()
    with pytest.raises(UnknownHeadError, match=r"'gait'(.|\n)*object"):
        head_class("gait")

    class Gait(ObjectHead):
        kind = "gait"  # type: ignore[misc]

    class Thief(ObjectHead):
        pass

    monkeypatch.setattr(registry, "_registered", {})
    register_head("gait", Gait)
    register_head("gait", Gait)
    assert head_class("gait") is Gait
    for kind, head in (("object", Thief), ("gait", type("Gait", (Gait,), {})), ("face", Gait), ("a b", Gait)):
        with pytest.raises(InputError):
            register_head(kind, head)


def test_heads_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("colour", "fake_head:ColourHead", "myvlm.heads")

    class ColourHead(ObjectHead):
        kind = "colour"  # type: ignore[misc]

    monkeypatch.setattr(EntryPoint, "load", lambda self: ColourHead)
    monkeypatch.setattr(
        registry, "entry_points", lambda **wanted: [point] if wanted.get("name", "colour") == "colour" else []
    )
    monkeypatch.setattr(registry, "_registered", {})
    assert "colour" in head_kinds()
    assert head_class("colour") is ColourHead
