"""The head for objects: calibration, fitting, detection, boxes, state and gate."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from myvlm.boxes import overlap
from myvlm.errors import ConceptFileError, ImageError, InputError, NotFittedError
from myvlm.heads import Head
from myvlm.heads.calibration import calibrate, calibrate_whitened
from myvlm.heads.detections import GateScores
from myvlm.heads.encoders import get_encoder, register_encoder
from myvlm.heads.features import features
from myvlm.heads.objects import gate as object_gate
from myvlm.heads.objects.fit import LinearProbe, fit_probe
from myvlm.heads.objects.head import ObjectHead
from myvlm.heads.objects.localize import choose_windows
from myvlm.images import load_images
from tests.support.fake_encoder import ColourEncoder, everyday_bank, raw_scores, scene, scenes

BANK = everyday_bank()
POSITIVES = [scene(seed) for seed in range(1000, 1040)]
NEGATIVES = scenes(5000, 60, None)


@pytest.fixture(scope="module")
def fitted() -> ObjectHead:
    return ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 4))


# calibration


def test_threshold_holds_the_false_alarm_rate_and_probability_is_half_there() -> None:
    rng = np.random.default_rng(0)
    negatives = rng.normal(0, 1, 1000)
    found = calibrate(rng.normal(2, 1, 5), negatives, 0.05)  # overlapping scores
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


def test_given_negatives_move_the_place_of_whitened_features_by_how_near_they_come() -> None:
    photos, everyday = np.array([0.9, 1.0, 1.0, 1.1]), np.linspace(-1, 0, 400)

    def place(given: list[float]) -> float:
        found = calibrate_whitened(photos, everyday, np.array(given), 0.01, 4)
        return (found.threshold - found.ceiling) / (1.0 - found.ceiling)

    free = place([])
    assert free == pytest.approx(0.83, abs=1e-3)
    assert place([-0.5] * 20) == free, "easy negatives say nothing of look-alikes"
    assert 0.6 < place([0.3] * 20) < place([0.3] * 2) < free, "few that stay away let it down a little"
    assert free < place([0.9] * 20) < place([5.0] * 20) < 1, "those that come near push it up, within bounds"


def test_whitened_probabilities_are_a_half_at_the_threshold_and_sure_at_the_ends() -> None:
    found = calibrate_whitened(np.array([3.0, 4.0]), np.linspace(0, 1, 100), np.array([]), 0.01, 4)
    assert found.probability(np.array([found.threshold]))[0] == pytest.approx(0.5)
    assert found.probability(np.array([3.5]))[0] > 0.99
    assert found.probability(np.array([found.ceiling]))[0] < 1e-6
    hopeless = calibrate_whitened(np.array([0.0]), np.linspace(0, 1, 100), np.array([0.5]), 0.01, 1)
    assert hopeless.threshold > 0.98, "photos below everyday pictures: the threshold stays above those"
    assert np.isfinite(hopeless.slope)


# model choice and fitting


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
    head = ObjectHead(ColourEncoder(), C=10.0).fit(scenes(0, 4))  # C selects a regression
    assert np.mean([one.present for one in head.score([image for image, _ in POSITIVES])]) > 0.7
    assert np.mean([one.present for one in head.score(NEGATIVES)]) < 0.1


def test_a_head_that_does_not_know_its_own_photos_says_so(caplog: pytest.LogCaptureFixture) -> None:
    bank_of_the_object = scenes(200, 30)
    head = ObjectHead(ColourEncoder(), C=10.0).fit(scenes(0, 3), bank_of_the_object)
    assert head.figures_["left_out_found"] < 0.5
    assert "pass more or closer photos" in caplog.text


def test_negatives_that_show_the_object_are_named_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    given = NEGATIVES[:20]
    ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5), given)
    assert "fitted without these negatives" not in caplog.text
    head = ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5), [*given[:7], scene(1001)[0], *given[8:]])
    assert "fitted without these negatives detects the object in them: images[7]. " in caplog.text
    assert head.figures_["negative_pictures"] == len(BANK) + 20


def test_given_negatives_tell_apart_what_is_alike() -> None:
    lookalike = [scene(seed, colour=(200, 0, 40))[0] for seed in range(300, 340)]
    naive = ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5))
    taught = ObjectHead(ColourEncoder(bank=BANK)).fit(scenes(0, 5), lookalike[:20])
    assert taught.figures_["negative_pictures"] == len(BANK) + 20
    before = np.mean(raw_scores(naive, lookalike[20:]) - naive.threshold_)
    after = np.mean(raw_scores(taught, lookalike[20:]) - taught.threshold_)
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
    assert (first.seed, first.crops, first.C) == (3, "auto", None)


def test_hard_negatives_are_mined_from_a_large_pool() -> None:
    rng = np.random.default_rng(0)
    positives = rng.normal(0, 0.1, (20, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[0]
    easy = rng.normal(0, 0.1, (6000, 8)).astype(np.float32) - np.eye(8, dtype=np.float32)[0]
    hard = rng.normal(0, 0.05, (40, 8)).astype(np.float32) + 0.9 * np.eye(8, dtype=np.float32)[0]
    hard[:, 1] += 1
    probe = fit_probe(positives, np.concatenate([easy, hard]), 10.0, 0)
    assert probe.windows(hard).max() < probe.windows(positives).min()


def test_a_prior_keeps_the_probe_along_the_mean_where_the_photos_share_something_else_too() -> None:
    rng = np.random.default_rng(0)
    thing, companion = np.eye(8, dtype=np.float32)[:2]
    positives = (3 * thing + companion + 0.3 * rng.normal(size=(24, 8))).astype(np.float32)
    negatives = (2.5 * thing + 0.3 * rng.normal(size=(60, 8))).astype(np.float32)
    alone, leaning = (fit_probe(positives, negatives, 0.1, 0, prior=prior) for prior in (0.0, 10.0))

    def along(probe: LinearProbe, direction: np.ndarray) -> float:
        return float(probe.coef @ direction / np.linalg.norm(probe.coef))

    assert along(alone, companion) > along(alone, thing), "the companion tells photos from look-alikes best"
    assert along(leaning, thing) > along(leaning, companion) > 0
    assert np.median(leaning.windows(positives)) > leaning.windows(negatives).max()


def test_before_fit_and_bad_settings() -> None:
    head = ObjectHead(ColourEncoder())
    for use in (lambda: head.score(scenes(0, 1)), head.state, lambda: ObjectHead.gate([head])):
        with pytest.raises(NotFittedError, match="ObjectHead is not fitted"):
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
    assert np.array_equal(raw_scores(again, pictures), raw_scores(fitted, pictures))
    assert again.score(pictures) == fitted.score(pictures)
    assert isinstance(fitted, Head)


def _register_once(id: str, encoder: ColourEncoder) -> None:
    register_encoder(id, lambda device: encoder)
    assert get_encoder(id) is encoder
    with pytest.raises(InputError, match="taken"):
        register_encoder(id, lambda device: encoder)


@pytest.mark.parametrize("spoil", ["missing", "shape", "nan", "length", "slope", "settings"])
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
    elif spoil == "slope":
        meta = meta.model_copy(update={"calibration": {**meta.calibration, "slope": 0.0}})
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


def test_gate_equals_single_heads_with_three_passes_at_most() -> None:
    encoder = ColourEncoder(bank=BANK)
    heads = [
        ObjectHead(encoder).fit(scenes(10 * i, 3, colour)) for i, colour in enumerate(["red", "lime", "blue"])
    ]
    pictures = [*scenes(2000, 5), Image.new("RGB", (90, 60), "lime")]
    alone = np.concatenate([raw_scores(head, pictures)[:, None] for head in heads], axis=1)
    encoder.calls.clear()
    gate = ObjectHead.gate(heads)
    scores = gate.score(load_images(scenes(3000, 4)))
    assert encoder.calls[0] == 4 * 10, "one pass over the large windows, however many heads"
    assert len(encoder.calls) <= 3, "one over small ones, one over the refined ones"
    assert scores.probabilities.shape == scores.present.shape == (4, 3)
    assert scores.boxes.shape == (4, 3, 4)
    np.testing.assert_allclose(gate.raw(load_images(pictures))[0], alone, rtol=1e-4, atol=1e-4)
    encoder.calls.clear()
    gate.score(load_images(scenes(3000, 4)))
    assert encoder.calls == [], "a picture that was just seen is remembered"


def test_a_gate_is_renewed_with_the_rows_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ColourEncoder(bank=BANK)
    colours = ["red", "lime", "blue", "cyan"]
    heads = [ObjectHead(encoder).fit(scenes(10 * i, 3, colour)) for i, colour in enumerate(colours)]
    pictures = load_images([*scenes(2000, 3), *scenes(2100, 3, "lime")])
    gate = ObjectHead.gate(heads[:3])
    before = gate.score(pictures)
    checked: list[int] = []
    check = object_gate.check_encoder_fingerprint
    monkeypatch.setattr(
        object_gate,
        "check_encoder_fingerprint",
        lambda who, kept: (checked.append(len(kept)), check(who, kept)),
    )
    turned = [heads[3], heads[2], heads[0]]  # one added, one removed, another order
    renewed = gate.renewed(turned)
    assert_same(renewed.score(pictures), ObjectHead.gate(turned).score(pictures))
    assert checked == [1, 3], "of the renewed gate only the new head is checked"
    assert_same(gate.score(pictures), before)

    heads[0].fit(scenes(500, 3, "lime"))
    assert_same(gate.score(pictures), before)
    again = renewed.renewed(turned)
    assert_same(again.score(pictures), ObjectHead.gate(turned).score(pictures))
    assert again.score(pictures).present[3:, 2].all(), "a head that was fitted again is new"
    heads[0].threshold_ = np.inf
    assert not again.renewed(turned).score(pictures).present[:, 2].any()


def test_a_renewed_gate_checks_what_is_new(fitted: ObjectHead) -> None:
    gate = ObjectHead.gate([fitted])
    other = ObjectHead(ColourEncoder(), crops="none").fit(scenes(0, 1))
    with pytest.raises(InputError, match="the same encoder"):
        gate.renewed([fitted, other])
    with pytest.raises(NotFittedError, match="is not fitted"):
        gate.renewed([fitted, ObjectHead(fitted.encoder)])
    meta, tensors = fitted.state()
    short = ObjectHead.from_state(meta, {**tensors, "coef": tensors["coef"][:2], "witness": np.ones(2)})
    short.encoder = fitted.encoder
    with pytest.raises(ConceptFileError, match=r"lengths \[2, "):
        gate.renewed([fitted, short])
    strange = ObjectHead.from_state(meta, {**tensors, "witness": -tensors["witness"]})
    strange.encoder = fitted.encoder
    with pytest.raises(ConceptFileError, match="other weights"):
        gate.renewed([fitted, strange]).score(load_images(scenes(0, 1)))
    assert gate.score(load_images(scenes(0, 1))).present.all()


def assert_same(found: GateScores, expected: GateScores) -> None:
    assert found.probabilities.size
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert found.present.tolist() == expected.present.tolist()
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_gate_refuses_heads_that_share_nothing(fitted: ObjectHead) -> None:
    other = ObjectHead(ColourEncoder(), crops="none").fit(scenes(0, 1))
    with pytest.raises(InputError, match="the same encoder"):
        ObjectHead.gate([fitted, other])


# unsure, and boxes


def test_unsure_is_near_the_threshold_and_old_heads_never_are(fitted: ObjectHead) -> None:
    pictures = [image for image, _ in POSITIVES] + NEGATIVES + scenes(300, 40, (200, 0, 40))
    scores = fitted.score(pictures)
    unsure = [one for one in scores if one.unsure]
    assert unsure
    assert len(unsure) < len(scores) / 3
    assert all(0.25 < one.probability < 0.75 for one in unsure)
    assert all(not 0.25 < one.probability < 0.75 for one in scores if not one.unsure)
    assert {one.verdict for one in scores} == {"present", "absent", "unsure"}
    meta, tensors = fitted.state()
    assert meta.calibration["unsure"] == 0.25
    older = {name: value for name, value in meta.calibration.items() if name != "unsure"}
    old = ObjectHead.from_state(meta.model_copy(update={"calibration": older}), tensors)
    old.encoder = fitted.encoder
    before = old.score(pictures)
    assert not any(one.unsure for one in before)
    assert [one.probability for one in before] == [one.probability for one in scores]
    assert "unsure" not in old.state()[0].calibration


def test_a_photo_among_its_negatives_is_named() -> None:
    own = scenes(0, 3)
    with pytest.raises(InputError, match=r"among its negatives(.|\n)*images\[1\] is images\[2\]"):
        ObjectHead(ColourEncoder()).fit(own, [scene(9, colour=None)[0], own[2].copy()])
