"""Heads without negatives: everyday photographs, their stored features, and the mean of the photos."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file

from myvlm.errors import ConceptFileError, InputError
from myvlm.heads import ObjectHead
from myvlm.heads.features import features
from myvlm.heads.objects import everyday as shipped
from myvlm.heads.objects import prototype
from myvlm.heads.objects.everyday import PHOTOS, cache_folder, everyday
from myvlm.images import load_images
from tests.support.fake_encoder import ColourEncoder, raw_scores, scenes
from tests.support.sample_photos import scikit_image_photo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MYVLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def views(name: str, seed: int, count: int) -> list[Image.Image]:
    """Crops of one photo, each about four fifths of it, as further photos of the object."""
    photo, rng = scikit_image_photo(name).resize((320, 320)), np.random.default_rng(seed)
    corners = rng.integers(0, 64, (count, 2)).tolist()
    return [photo.crop((left, top, left + 256, top + 256)) for left, top in corners]


def test_each_everyday_photograph_has_its_source_and_all_are_small() -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))
    sources = (PHOTOS / "SOURCES.md").read_text(encoding="utf-8")
    assert len(photos) >= 20
    assert [photo.name for photo in photos if photo.name not in sources] == []
    assert sum(photo.stat().st_size for photo in photos) < 4e6


def test_an_encoder_sees_them_once_and_what_it_saw_is_kept(cache: Path) -> None:
    first, again = ColourEncoder("fake/kept"), ColourEncoder("fake/kept")
    seen = everyday(first).windows
    assert 200 < len(seen) < 300
    assert everyday(first).windows is seen
    encoded = sum(first.calls)
    assert encoded == len(seen) + 1, "and the picture of the fingerprint"
    [file] = (cache / "everyday").iterdir()
    assert np.array_equal(load_file(file)["features"], seen)
    assert np.array_equal(everyday(again).windows, seen)
    assert sum(again.calls) == 1, "the fingerprint alone"


@pytest.mark.parametrize("damage", ["cut", "other weights", "no file"])
def test_what_is_damaged_or_of_other_weights_is_made_again(cache: Path, damage: str) -> None:
    seen = everyday(ColourEncoder("fake/damaged")).windows
    [file] = (cache / "everyday").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "other weights":
        kept = load_file(file)
        shipped._write_cache(file, {**kept, "fingerprint": kept["fingerprint"][::-1].copy()})
    else:
        file.unlink()
    again = ColourEncoder("fake/damaged")
    assert np.array_equal(everyday(again).windows, seen)
    assert sum(again.calls) == len(seen) + 1
    assert np.array_equal(load_file(file)["features"], seen)


def test_without_a_place_to_write_it_works_all_the_same(cache: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    assert len(everyday(ColourEncoder("fake/nowhere")).windows) > 200


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MYVLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "myvlm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "myvlm"


def test_the_mean_of_photos_knows_them_and_no_everyday_photograph() -> None:
    encoder = ColourEncoder("fake/mean")
    head = ObjectHead(encoder).fit(views("motorcycle_left.png", 0, 3))
    assert float(np.linalg.norm(head.coef_)) == pytest.approx(1, abs=1e-5)
    assert head.figures_["left_out_found"] == 1.0
    assert head.figures_["negative_pictures"] == 0
    assert head.refine_margin_ == 0
    seen = [one.present for one in head.score(views("motorcycle_left.png", 1, 10))]
    assert np.mean(seen) >= 0.9
    others = head.score(sorted(map(str, PHOTOS.glob("*.jpg"))))
    assert np.mean([one.present for one in others]) <= 0.1
    assert head.figures_["left_out_false_alarms"] <= head.false_alarm_rate


def test_the_threshold_lies_between_everyday_photographs_and_left_out_photos() -> None:
    encoder, photos = ColourEncoder("fake/place"), views("motorcycle_left.png", 0, 4)
    head = ObjectHead(encoder).fit(photos)
    known = everyday(encoder)
    usual = known.whitening(known.windows)
    ceiling = np.quantile(usual @ head.coef_, 0.99, method="higher")
    way = np.median(head.figures_["left_out_scores"]) - ceiling
    assert head.threshold_ == pytest.approx(ceiling + prototype.PLACE * way, abs=1e-3)
    assert head.slope_ == pytest.approx(prototype.STEEPNESS / way, rel=1e-3)
    one = ObjectHead(encoder).fit(photos[0])
    ceiling = np.quantile(usual @ one.coef_, 0.99, method="higher")
    [own] = one.figures_["left_out_scores"]
    assert one.threshold_ == pytest.approx(ceiling + prototype.PLACE_OF_ONE * (own - ceiling), abs=1e-3)
    assert one.boxes_ == [(0, 0, 256, 256)], "nothing says which part of a single photo it is"


def test_it_costs_no_encoder_pass_beyond_the_photos_own_windows() -> None:
    encoder = ColourEncoder("fake/cost")
    everyday(encoder)
    encoder.calls.clear()
    ObjectHead(encoder).fit(views("coffee.png", 0, 3))
    assert sum(encoder.calls) == 3 * 35


def test_photos_that_do_not_agree_make_a_head_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    apart = [Image.open(PHOTOS / f"{name}.jpg") for name in ("grass", "rocket", "wine")]
    encoder = ColourEncoder("fake/apart")
    head = ObjectHead(encoder).fit(apart)
    known = everyday(encoder)
    deviation = (known.whitening(known.windows) @ head.coef_).std()
    assert head.slope_ == pytest.approx(prototype.STEEPNESS / (prototype.MIN_SPAN * deviation), rel=1e-4)
    assert head.figures_["left_out_found"] < 0.5
    assert "pass more or closer photos" in caplog.text


def test_a_head_without_negatives_is_the_same_from_disk() -> None:
    encoder = ColourEncoder("fake/disk")
    head = ObjectHead(encoder).fit(views("coffee.png", 0, 3))
    meta, tensors = head.state()
    again = ObjectHead.from_state(meta, tensors)
    again.encoder = encoder
    unseen = views("coffee.png", 5, 4)
    assert again.score(unseen) == head.score(unseen)


def test_a_strength_asks_for_a_regression() -> None:
    encoder, photos = ColourEncoder("fake/regression"), views("coffee.png", 0, 3)
    mean = ObjectHead(encoder).fit(photos)
    others = views("motorcycle_left.png", 0, 3)
    assert not np.allclose(ObjectHead(encoder, C=10.0).fit(photos, others).coef_, mean.coef_)
    assert not np.allclose(ObjectHead(encoder, C=10.0).fit(photos).coef_, mean.coef_)
    with pytest.raises(InputError, match="C=-1"):
        ObjectHead(encoder, C=-1).fit(photos)


def test_given_negatives_that_it_is_found_in_are_named_and_told_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder, photos = ColourEncoder("fake/given"), scenes(20, 4)
    mean, alike = ObjectHead(encoder).fit(photos), scenes(500, 40, (255, 60, 60))
    passing = [one for one, score in zip(alike, mean.score(alike), strict=True) if score.present]
    assert len(passing) >= 2
    easy = scenes(700, 3, None)
    assert not any(one.present for one in mean.score(easy))
    head = ObjectHead(encoder).fit(photos, [*easy, *passing])
    assert "detects the object in them: images[3], images[4]" in caplog.text
    assert head.figures_["negative_pictures"] == 3 + len(passing)
    assert np.mean([one.present for one in head.score(passing)]) < 0.5
    assert [one.present for one in head.score(photos)] == [True] * 4
    assert head.examples_ is not None
    assert head.examples_.corrections == [], "nothing that could be undone"
    assert len(head.examples_.others) > len(mean.examples_.others)  # type: ignore[union-attr]
    same = ObjectHead(encoder).fit(photos, easy)
    assert np.array_equal(same.coef_, mean.coef_), "what is absent already tells nothing"


def test_of_one_photo_what_only_just_passes_is_unsure_and_its_probability_says_so() -> None:
    encoder = ColourEncoder("fake/one")
    one = ObjectHead(encoder).fit(views("coffee.png", 0, 1))
    assert one.threshold_ < one.sure_ < one.figures_["left_out_scores"][0]
    assert ObjectHead(encoder).fit(views("coffee.png", 0, 3)).sure_ == 0.0
    photo = views("coffee.png", 0, 1)
    assert one.score(photo)[0].verdict == "present"
    [seen] = raw_scores(one, photo)
    verdicts, probabilities = [], []
    for part in (0.001, 0.5, 0.999, 1.001):  # from the threshold (0) to where the head is certain (1)
        near = copy(one)
        way = one.sure_ - one.threshold_
        near.threshold_, near.sure_ = seen - part * way, seen + (1 - part) * way
        [score] = near.score(photo)
        assert score.present
        verdicts.append(score.verdict)
        probabilities.append(score.probability)
    assert verdicts == ["unsure", "unsure", "unsure", "present"]
    assert probabilities == sorted(probabilities)
    assert probabilities[1] == pytest.approx(0.625, abs=1e-3)
    meta, tensors = one.state()
    assert ObjectHead.from_state(meta, tensors).sure_ == one.sure_
    del meta.calibration["sure"]
    assert ObjectHead.from_state(meta, tensors).sure_ == 0.0, "files of older releases know nothing of it"


class Narrow(ColourEncoder):
    """Its features lie in a narrow cone, and one direction, brightness, varies more than all others."""

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        rows = super().encode(images, batch_size=batch_size)
        light = np.array([np.asarray(image.convert("L")).mean() / 255 for image in images])
        wide = np.column_stack([0.3 * rows, 3.0 * light, np.full(len(rows), 3.0)])
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def test_an_encoder_whose_pictures_all_look_alike_is_read_off_what_they_share() -> None:
    encoder = Narrow("fake/narrow")
    known = everyday(encoder)
    raw, read = known.windows, known.whitening(known.windows)
    assert (raw @ raw.T).min() > 0.5, "all alike"
    assert np.median(read @ read.T) < 0.1
    assert np.linalg.norm(read, axis=1) == pytest.approx(np.ones(len(read)), abs=1e-5)
    head = ObjectHead(encoder).fit(views("motorcycle_left.png", 0, 3))
    assert np.mean([one.present for one in head.score(views("motorcycle_left.png", 1, 10))]) >= 0.9
    others = [view for name in ("coffee.png", "chelsea.png") for view in views(name, 0, 5)]
    assert np.mean([one.present for one in head.score(others)]) <= 0.1


def test_a_head_is_read_by_the_edition_of_photographs_that_it_was_learned_by() -> None:
    assert (shipped.EDITION, shipped._digest()[:16]) == (1, "0d036d0ce41c4866"), (
        "other photographs are another edition, and heads that are on users' disks need the ones they know"
    )
    encoder = ColourEncoder("fake/edition")
    head = ObjectHead(encoder).fit(views("coffee.png", 0, 3))
    meta, tensors = head.state()
    assert meta.calibration["everyday"] == shipped.EDITION
    meta.calibration["everyday"] = 2.0
    with pytest.raises(ConceptFileError, match="edition 2"):
        ObjectHead.from_state(meta, tensors)
    older = {name: value for name, value in meta.calibration.items() if name != "everyday"}
    raw = ObjectHead.from_state(meta.model_copy(update={"calibration": older}), tensors)
    raw.encoder = encoder
    assert raw.gate_key != head.gate_key, "what is read in another way is another gate's"
    photo = load_images(views("coffee.png", 0, 1))
    [seen] = features(encoder, photo)
    assert raw.gate([raw]).raw(photo)[0][0, 0] == pytest.approx((seen.features @ raw.coef_).max(), abs=1e-5)


class ClassTokens(ColourEncoder):
    """An encoder that can give patch tokens, which are not used."""

    def encode_patches(
        self, images: Sequence[Image.Image], *, batch_size: int = 32
    ) -> npt.NDArray[np.float32]:
        raise AssertionError("patch tokens are not asked for")


def test_of_one_photo_all_large_windows_count_where_features_are_class_tokens() -> None:
    plain, tokens = ColourEncoder("fake/plain"), ClassTokens("fake/tokens")
    photos, known = views("motorcycle_left.png", 0, 3), everyday(tokens)
    [seen] = features(tokens, load_images(photos[:1]))
    rows = known.whitening(seen.features)
    whole, one = ObjectHead(plain).fit(photos[0]), ObjectHead(tokens).fit(photos[0])
    np.testing.assert_allclose(whole.coef_, rows[0], atol=1e-5)
    large = rows[:10]  # the whole, and nine windows of half its side
    likeness = large @ large.mean(axis=0) / np.linalg.norm(large.mean(axis=0))
    wanted = (np.clip(likeness, 0, None)[:, None] * large).sum(axis=0)
    np.testing.assert_allclose(one.coef_, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert float(one.coef_ @ whole.coef_) < 0.999
    assert one.boxes_ == whole.boxes_
    ceiling = np.quantile(known.whitening(known.windows) @ one.coef_, 0.99, method="higher")
    way = one.figures_["left_out_scores"][0] - ceiling
    assert one.threshold_ == pytest.approx(ceiling + prototype.PLACE_OF_WEIGHED * way, abs=1e-3)
    assert one.sure_ == pytest.approx(ceiling + prototype.SURE_OF_WEIGHED * way, abs=1e-3)


def test_of_several_photos_or_where_words_are_read_class_tokens_change_nothing() -> None:
    photos = views("motorcycle_left.png", 0, 3)
    for shown, reads in ((photos, False), (photos[:1], True)):
        plain = ObjectHead(ColourEncoder("fake/plain", reads=reads)).fit(shown)
        tokens = ObjectHead(ClassTokens("fake/tokens", reads=reads)).fit(shown)
        assert np.array_equal(plain.coef_, tokens.coef_)
        assert (plain.threshold_, plain.sure_) == (tokens.threshold_, tokens.sure_)


def test_unlike_windows_of_a_photo_count_nothing() -> None:
    rows = np.array([[1, 0], [0.8, 0.6], [-1, 0]], dtype=np.float32)
    mean = np.array([0.8, 0.6]) / 1.0
    wanted = rows[0] * (rows[0] @ mean) + rows[1] * (rows[1] @ mean)
    np.testing.assert_allclose(prototype._weighted_sum(rows), [wanted / np.linalg.norm(wanted)], atol=1e-6)
