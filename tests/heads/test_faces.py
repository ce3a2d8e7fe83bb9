"""The head for faces, with descriptors from known distributions: fitting, discrimination, refusals."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError, NotFittedError
from myvlm.heads import FaceHead, Head, HeadMeta
from myvlm.heads.faces.clustering import common_person, distances
from myvlm.heads.faces.encoders import find_faces
from myvlm.heads.faces.registry import get_face_encoder, register_face_encoder
from myvlm.images import load_images
from tests.support.fake_faces import DIM, FakeFaces, descriptor, photo, photos

ENCODER = FakeFaces("fake/people")
register_face_encoder("fake/people", lambda device: ENCODER)
ANNA, BEN, CY = 11, 22, 33


def learn(person: int, **settings: object) -> FaceHead:
    return FaceHead("fake/people", **settings).fit(photos(person))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def anna() -> FaceHead:
    return learn(ANNA)


# learning


def test_every_training_face_is_a_key_and_the_threshold_has_a_source(anna: FaceHead) -> None:
    assert anna.keys_.shape == (4, DIM)
    assert np.array_equal(anna.keys_, np.stack([descriptor(ANNA, draw) for draw in range(1, 5)]))
    assert anna.threshold_ == -1.04
    assert anna.boxes_ == [(0, 0, 20, 20)] * 4
    assert anna.figures_["threshold_distance"] == 1.04
    assert anna.figures_["threshold_source"] == "the test says so"
    assert anna.figures_["photos"] == anna.figures_["keys"] == 4
    assert anna.figures_["other_faces"] == 0
    assert isinstance(anna, Head)


def test_knows_the_person_and_nobody_else(anna: FaceHead) -> None:
    own = anna.score(photos(ANNA, first=50, count=30))
    others = anna.score([photo(person, draw=9) for person in range(100, 200)])
    assert np.mean([one.present for one in own]) >= 0.95
    assert np.mean([one.present for one in others]) <= 0.05
    assert all(one.present == (one.probability >= 0.5) for one in own + others)
    assert all(one.box == (0, 0, 20, 20) for one in own + others)
    [nobody] = anna.score(photo(0))
    assert (nobody.present, nobody.probability, nobody.box) == (False, 0.0, None)


def test_near_the_threshold_it_is_unsure() -> None:
    head = FaceHead(ENCODER).fit(photo(ANNA, draw=1))
    picture = photo(ANNA, draw=77)
    apart = float(np.linalg.norm(descriptor(ANNA, 77) - descriptor(ANNA, 1)))
    verdicts = []
    for limit in (0.9 * apart, apart - 1e-3, apart + 1e-3, 1.2 * apart):
        [score] = FaceHead(ENCODER, threshold=limit).fit(photo(ANNA, draw=1)).score(picture)
        verdicts.append((score.verdict, score.present))
    assert verdicts == [("absent", False), ("unsure", False), ("unsure", True), ("present", True)]
    assert head.state()[0].calibration["unsure"] == 0.25


def test_bystanders_are_left_out_and_count_as_other_people() -> None:
    group = [photo(ANNA, BEN, draw=1), photo(CY, ANNA, draw=2), photo(ANNA, 44, 55, draw=3)]
    head = FaceHead(ENCODER).fit(group)
    assert head.boxes_ == [(0, 0, 20, 20), (20, 0, 40, 20), (0, 0, 20, 20)]
    assert np.array_equal(head.keys_, np.stack([descriptor(ANNA, draw) for draw in (1, 2, 3)]))
    assert head.figures_["other_faces"] == 4
    assert head.figures_["nearest_other_face"] > 1.04


def test_photos_without_the_person_are_passed_over_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        head = FaceHead(ENCODER).fit([*photos(ANNA), photo(0), photo(BEN)])
    assert head.figures_["photos_with_the_person"] == 4
    assert head.boxes_[4:] == [None, None]
    assert "no face was found in images[4]" in caplog.text
    assert "the person was not found in images[5]" in caplog.text


def test_identical_photos_are_one_key() -> None:
    head = FaceHead(ENCODER).fit([photo(ANNA, draw=3)] * 4)
    assert head.keys_.shape == (1, DIM)
    assert head.score(photo(ANNA, draw=3))[0].probability > 0.99
    assert len(head.boxes_) == 4


def test_one_photo_is_enough_where_it_shows_one_face() -> None:
    head = FaceHead(ENCODER).fit(photo(ANNA, draw=1))
    assert head.figures_["farthest_own_face"] is None
    assert head.score(photo(BEN, draw=1))[0].present is False


def test_the_more_people_are_foreseen_the_stricter_it_is() -> None:
    class Stated(FakeFaces):
        threshold_error = 0.0035

    limits = [-FaceHead(Stated(), people=people).fit(photos(ANNA)).threshold_ for people in (1, 10, 1000)]
    assert 1.04 >= limits[0] > limits[1] > limits[2] > 0.8
    head = FaceHead(Stated(), people=100).fit(photos(ANNA))
    assert limits[2] < -head.threshold_ < limits[1]
    assert "one of 400 keys in 0.05 of cases" in head.figures_["threshold_source"]
    assert "the test says so" in head.figures_["threshold_source"]
    strangers = [photo(person, draw=draw) for person in range(100, 200) for draw in (5, 6, 7)]
    own = head.score(photos(ANNA, first=50, count=30))
    assert np.mean([one.present for one in own]) >= 0.9
    assert not any(one.present for one in head.score(strangers))


def test_the_more_people_a_library_holds_the_stricter_it_is_for_every_encoder() -> None:
    head = learn(ANNA)
    encoder = FakeFaces()
    alone, thirty, many = (-head.threshold_among(people, encoder) for people in (1, 30, 10_000))
    assert alone == 1.04 > thirty > many > 0.5, "no figure of this encoder's but its threshold is known"
    assert head.threshold_ == -1.04
    few, crowd = FaceHead.gate([head]), FaceHead.gate([head, *(learn(person) for person in range(40, 69))])
    assert few._threshold.tolist() == [-1.04]
    assert crowd._threshold == pytest.approx([-thirty] * 30)
    for settings, kept in (({"threshold": 0.9}, 0.9), ({"people": None}, 1.04), ({"people": 1}, 1.04)):
        assert -learn(ANNA, **settings).threshold_among(10_000, encoder) == kept


def test_a_measured_spread_goes_before_that_of_other_encoders() -> None:
    class Measured(FakeFaces):
        strangers = (1.4, 0.05)

    head = learn(ANNA)
    assert head.threshold_among(30, Measured()) == -1.04, "strangers are hardly ever so near"
    assert head.threshold_among(30, FakeFaces()) > -1.04


def test_the_published_threshold_can_be_kept_and_older_heads_keep_it() -> None:
    encoder = FakeFaces()
    encoder.threshold_error = 0.0035  # type: ignore[attr-defined]
    assert FaceHead(encoder, people=None).fit(photos(ANNA)).threshold_ == -1.04
    assert FaceHead(encoder, threshold=0.9).fit(photos(ANNA)).threshold_ == -0.9
    meta, tensors = learn(ANNA).state()
    older = {name: value for name, value in meta.settings.items() if name != "people"}
    again = FaceHead.from_state(meta.model_copy(update={"settings": older}), tensors)
    assert again.people is None
    assert again.threshold_ == meta.threshold
    for wrong in (0, -3):
        with pytest.raises(InputError, match=f"people={wrong}"):
            FaceHead(encoder, people=wrong).fit(photos(ANNA))


# negatives


def test_negatives_lower_the_threshold_only_where_they_pass_it(anna: FaceHead) -> None:
    strangers = [photo(person, draw=5) for person in range(100, 130)]
    far = [one for one, score in zip(strangers, anna.score(strangers), strict=True) if not score.present]
    assert len(far) > 25
    same = FaceHead(ENCODER).fit(photos(ANNA), far)
    assert same.threshold_ == -1.04
    assert same.figures_["other_faces"] == len(far)
    draw = next(d for d in range(5, 255) if _siblings(d))
    near = [photo(person, draw=draw) for person in _siblings(draw)]
    assert any(one.present for one in anna.score(near))
    taught = FaceHead(ENCODER).fit(photos(ANNA), far + near)
    assert not any(one.present for one in taught.score(near))
    assert -1.04 < taught.threshold_ < 0
    assert "calibrated on" in taught.figures_["threshold_source"]
    assert "the test says so" in taught.figures_["threshold_source"]


def _siblings(draw: int) -> list[int]:
    """Strangers whose face in that photo passes the threshold, as now and then happens."""
    keys = np.stack([descriptor(ANNA, one) for one in (1, 2, 3, 4)])
    rows = np.stack([descriptor(person, draw) for person in range(1, 256)])
    return [int(i) + 1 for i in np.flatnonzero(distances(rows, keys).min(axis=1) < 1.02) if i + 1 != ANNA]


def test_negatives_that_hold_the_person_are_named(tmp_path: Path) -> None:
    photo(CY, ANNA, draw=2).save(tmp_path / "party.png")
    with pytest.raises(InputError, match=r"negative shows the person(.|\n)*party\.png"):
        FaceHead(ENCODER).fit(photos(ANNA), [photo(BEN), tmp_path / "party.png"])


def test_hundreds_of_strangers_are_not_taken_for_the_person() -> None:
    strangers = [photo(person, draw=draw) for person in range(100, 250) for draw in (5, 6)]
    head = FaceHead(ENCODER).fit(photos(ANNA), strangers)
    assert head.figures_["other_faces"] == 300
    assert head.figures_["nearest_other_face"] < 1.04, "the draw has a stranger who passes the threshold"
    assert np.mean([one.present for one in head.score(strangers)]) <= 0.01


def test_negatives_without_faces_change_nothing(anna: FaceHead) -> None:
    assert FaceHead(ENCODER).fit(photos(ANNA), [photo(0)] * 3).threshold_ == anna.threshold_


# what cannot be learned


def test_no_face_in_any_photo_names_the_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(0).save(tmp_path / name)
    with pytest.raises(InputError, match=r"no face in any(.|\n)*a\.png(.|\n)*b\.png"):
        FaceHead(ENCODER).fit(tmp_path)


def test_two_common_faces_are_shown_by_their_boxes() -> None:
    group = [photo(ANNA, BEN, draw=draw) for draw in (1, 2, 3)]
    with pytest.raises(
        InputError, match=r"2 people(.|\n)*\(0, 0, 20, 20\)(.|\n)*\(20, 0, 40, 20\) of images\[0\]"
    ):
        FaceHead(ENCODER).fit(group)
    with pytest.raises(InputError, match="2 people"):
        FaceHead(ENCODER).fit([photo(ANNA, BEN, draw=1)] * 3)
    with pytest.raises(InputError, match="2 people"):
        FaceHead(ENCODER).fit(photo(ANNA, BEN))
    decided = FaceHead(ENCODER).fit([*group, photo(ANNA, draw=4)])
    assert len(decided.keys_) == 4


def test_no_common_face_says_what_is_in_the_photos() -> None:
    with pytest.raises(
        InputError, match=r"No face is common(.|\n)*images\[0\]: 1 faces; images\[1\]: 2 faces"
    ):
        FaceHead(ENCODER).fit([photo(ANNA), photo(BEN, CY), photo(44)])


def test_before_fit_and_bad_settings() -> None:
    head = FaceHead(ENCODER)
    for use in (lambda: head.score(photo(ANNA)), head.state, lambda: FaceHead.gate([head])):
        with pytest.raises(NotFittedError, match="FaceHead is not fitted"):
            use()
    for bad in ({"threshold": 0.0}, {"threshold": -1.0}, {"false_alarm_rate": 1.0}):
        with pytest.raises(InputError, match="out of range"):
            FaceHead(ENCODER, **bad).fit(photo(ANNA))
    with pytest.raises(InputError, match="no photos"):
        head.fit([])


def test_grouping_never_joins_two_faces_of_one_photo() -> None:
    twice = [photo(ANNA, ANNA, draw=1), photo(ANNA, draw=2), photo(ANNA, draw=3)]
    person = common_person(load_images(twice), find_faces(ENCODER, load_images(twice)), 1.04)
    assert sorted(person.faces) == [0, 1, 2]


# many people


def test_several_people_in_one_picture_each_with_a_box() -> None:
    heads = [learn(person) for person in (ANNA, BEN, CY)]
    gate = FaceHead.gate(heads)
    scores = gate.score(load_images([photo(BEN, 0, ANNA, 99, draw=40), photo(0), photo(CY, draw=41)]))
    assert scores.present.tolist() == [[True, True, False], [False] * 3, [False, False, True]]
    assert scores.at(0, 0).box == (40, 0, 60, 20)
    assert scores.at(0, 1).box == (0, 0, 20, 20)
    assert scores.at(1, 0).box is None


def test_a_face_is_given_to_one_person_only() -> None:
    """Two heads of the same person: the nearer one gets the face, and with two faces both are found."""
    first = FaceHead(ENCODER).fit(photo(ANNA, draw=1))
    second = FaceHead(ENCODER).fit(photo(ANNA, draw=2))
    picture = photo(ANNA, draw=1)
    assert first.score(picture)[0].present
    assert FaceHead(ENCODER, threshold=1.3).fit(photo(ANNA, draw=2)).score(picture)[0].present
    loose = FaceHead(ENCODER, threshold=1.3).fit(photo(ANNA, draw=2))
    for heads in ([first, loose], [loose, first]):
        scores = FaceHead.gate(heads).score(load_images([picture, photo(ANNA, 0, 0, draw=1)]))
        assert scores.present.sum(axis=1).tolist() == [1, 1]
        assert scores.at(0, heads.index(first)).present
        lost = scores.at(0, heads.index(loose))
        assert (lost.present, lost.probability) == (False, 0.0)
    both = Image.new("RGB", (100, 20))
    both.paste(photo(ANNA, draw=1).crop((0, 0, 20, 20)), (0, 0))
    both.paste(photo(ANNA, draw=2).crop((0, 0, 20, 20)), (40, 0))
    scores = FaceHead.gate([second, first]).score(load_images(both))
    assert scores.present.tolist() == [[True, True]]
    assert (scores.at(0, 0).box, scores.at(0, 1).box) == ((40, 0, 60, 20), (0, 0, 20, 20))


def test_the_gate_is_one_matrix_and_agrees_with_single_heads() -> None:
    heads = [learn(person, people=40) for person in range(1, 41)]  # same threshold alone and together
    pictures = [photo(person, person + 100, draw=60) for person in range(1, 41)]
    gate = FaceHead.gate(heads)
    ENCODER.calls.clear()
    together = gate.score(load_images(pictures))
    assert ENCODER.calls == [40], "one pass, however many heads"
    alone = [head.score(pictures) for head in heads]
    assert ENCODER.calls == [40], "pictures that were just seen are remembered"
    claimed = together.present.sum(axis=1)
    for picture in np.flatnonzero(claimed <= 1):
        for number in range(40):
            single = alone[number][picture]
            if not single.present or together.present[picture, number]:
                assert together.at(int(picture), number).probability == pytest.approx(
                    single.probability, abs=1e-5
                )
    right = np.diag(together.present)
    assert right.mean() > 0.9


def test_gate_refuses_heads_of_different_encoders(anna: FaceHead) -> None:
    with pytest.raises(InputError, match="the same encoder"):
        FaceHead.gate([anna, FaceHead(FakeFaces("another")).fit(photos(BEN))])


# on disk


def test_state_round_trip_is_exact(anna: FaceHead) -> None:
    meta, tensors = anna.state()
    assert {name: array.shape for name, array in tensors.items()} == {"keys": (4, DIM), "witness": (DIM,)}
    again = FaceHead.from_state(HeadMeta.model_validate_json(meta.model_dump_json()), tensors)
    pictures = [photo(ANNA, BEN, draw=70), photo(0)]
    assert again.score(pictures) == anna.score(pictures)
    assert again.state()[0] == meta


@pytest.mark.parametrize("spoil", ["missing", "shape", "nan", "length", "settings", "range"])
def test_spoilt_state(anna: FaceHead, spoil: str) -> None:
    meta, tensors = anna.state()
    if spoil == "missing":
        del tensors["keys"]
    elif spoil == "shape":
        tensors["keys"] = tensors["keys"][0]
    elif spoil == "nan":
        tensors["keys"] = tensors["keys"] * np.nan
    elif spoil == "length":
        tensors["witness"] = tensors["witness"][:5]
    elif spoil == "settings":
        meta = meta.model_copy(update={"settings": {}})
    else:
        meta = meta.model_copy(update={"settings": {"threshold": -3.0, "false_alarm_rate": 0.01}})
    with pytest.raises(ConceptFileError):
        FaceHead.from_state(meta, tensors)


def test_a_head_does_not_run_on_other_weights(anna: FaceHead) -> None:
    class Other(FakeFaces):
        def describe(self, faces: object) -> np.ndarray:
            return super().describe(faces) + 1  # type: ignore[arg-type]

    head = FaceHead.from_state(*anna.state())
    head.encoder = Other("fake/other")
    with pytest.raises(ConceptFileError, match=r"other weights of fake/other(.|\n)*a distance of"):
        head.score(photo(ANNA))
    assert head.score(photo(0))[0].present is False, "where no face is, nothing is compared"
    short = FaceHead.from_state(anna.state()[0], {name: t[..., :5] for name, t in anna.state()[1].items()})
    short.encoder = ENCODER
    with pytest.raises(ConceptFileError, match="length 5"):
        short.score(photo(ANNA))
    with pytest.raises(ConceptFileError, match=r"lengths \[5, 64\]"):
        FaceHead.gate([short, FaceHead(ENCODER).fit(photo(BEN))])


def test_the_card_says_that_it_is_biometric_and_erasing_leaves_nothing(
    anna: FaceHead, tmp_path: Path
) -> None:
    folder = Concept("Anna", "woman", anna).save(tmp_path / "anna")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "biometric data" in card
    assert "fake/people" in card
    assert "the test says so" in card
    library = ConceptLibrary([folder])
    assert [one.present for one in library.recognise(photo(BEN, ANNA, draw=90))[0]] == [True]
    keys = anna.keys_.tobytes()
    assert any(keys in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    library.remove("Anna", erase=True)
    assert not any(keys in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert list(tmp_path.iterdir()) == []


# the registry


def test_unknown_and_taken_encoders() -> None:
    with pytest.raises(InputError, match=r"got: +insightface(.|\n)*facenet/vggface2, dlib/resnet-v1"):
        get_face_encoder("insightface")
    with pytest.raises(InputError, match="taken"):
        register_face_encoder("dlib/resnet-v1", lambda device: ENCODER)
    assert get_face_encoder("fake/people") is ENCODER
    assert get_face_encoder(ENCODER) is ENCODER
