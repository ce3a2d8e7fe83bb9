"""The false name rate of a library: the tail of the heads' scores, and a limit for all heads together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from myvlm.concepts.concept import Concept
from myvlm.concepts.gates import FALSE_NAMES_PER_1000
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError
from myvlm.heads import FaceHead, ObjectHead
from myvlm.heads.base import MeetingHead
from myvlm.heads.calibration import DOUBT, Tail, fit_tail
from myvlm.heads.faces.gate import FaceGate
from myvlm.heads.objects.everyday import everyday
from myvlm.heads.objects.gate import SCORES_BY_OTHERS, ObjectGate
from myvlm.heads.objects.head import MAX_SCORES_BY_OTHERS
from myvlm.images import load_images
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scenes
from tests.support.fake_faces import FakeFaces, photos

ENCODER = ColourEncoder("fake/false-names", bank=everyday_bank())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYVLM_CACHE", str(tmp_path))


KNOWN = Tail(0.0, 0.1)


def head(seed: int, tail: Tail = KNOWN, threshold: float = 0.2) -> ObjectHead:
    fitted = ObjectHead(ENCODER).fit(scenes(0, 2))
    fitted.coef_ = np.random.default_rng(seed).normal(size=fitted.coef_.shape).astype(np.float32)
    fitted.intercept_ = 0.0
    fitted.threshold_, fitted.tail_location_, fitted.tail_scale_ = threshold, tail.location, tail.scale
    return fitted


@pytest.fixture(scope="module")
def heads() -> list[ObjectHead]:
    return [head(seed) for seed in range(10)]


def thresholds(library: ConceptLibrary) -> list[float]:
    [(_, gate)] = library.gated()
    assert isinstance(gate, ObjectGate)
    return gate._threshold.tolist()


def library_of(heads: list[ObjectHead], **settings: float | None) -> ConceptLibrary:
    return ConceptLibrary([Concept(f"c{n}", "square", one) for n, one in enumerate(heads)], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("per_1000", "most"), [(50, 1.5), (5, 1.8), (1, 2.5)])
def test_a_tail_of_a_few_hundred_pictures_says_how_often_rarer_scores_come(
    per_1000: float, most: float
) -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        tail = fit_tail(rng.normal(size=(500, 40)).max(axis=1))
        threshold = tail.location - tail.scale * ndtri(per_1000 / 1000)
        ratios.append((rng.normal(size=(20_000, 40)).max(axis=1) >= threshold).mean() * 1000 / per_1000)
    assert 0.5 < np.mean(ratios) < most, "the largest of many windows have a longer tail than a normal"


def test_of_too_few_pictures_no_tail_is_known() -> None:
    assert fit_tail(np.arange(19.0)) == Tail() != fit_tail(np.arange(20.0))


def test_many_heads_together_keep_to_the_number_and_the_laxest_give_way(heads: list[ObjectHead]) -> None:
    gate = ObjectHead.gate([*heads, head(10, threshold=1.0)])
    own = gate.false_names()
    assert own == pytest.approx([ndtr(-2)] * 10 + [ndtr(-10)])
    held = gate.held_to(0.05)
    assert held.false_names().sum() == pytest.approx(0.05)
    assert held._threshold[-1] == 1.0, "strict enough as it is"
    assert len(set(held._threshold[:-1])) == 1
    assert held._threshold[0] > 0.2 == gate._threshold[0]
    assert gate.held_to(1.0)._threshold.tolist() == gate._threshold.tolist()


def test_a_head_of_which_nothing_is_known_stays_as_it_is(heads: list[ObjectHead]) -> None:
    older = head(11, Tail())
    held = ObjectHead.gate([*heads, older]).held_to(1e-6)
    assert held.false_names()[-1] == 0.0
    assert held._threshold[-1] == 0.2 < held._threshold[0]
    meta, tensors = older.state()
    assert set(meta.calibration) & {"tail_location", "tail_scale"} == set()
    assert ObjectHead.from_state(meta, tensors).tail_scale_ == 0.0


def test_a_library_is_held_to_its_number_whoever_comes_and_goes(heads: list[ObjectHead]) -> None:
    alone = library_of(heads[:1])
    assert alone.false_names_per_1000 == FALSE_NAMES_PER_1000
    assert thresholds(alone) == [0.2], "one name in fifty pictures, and more are stated"
    library = library_of(heads)
    stricter = thresholds(library)
    assert min(stricter) > 0.2
    library.false_names_per_1000 = 1.0
    assert library.false_names_per_1000 == 1.0
    assert min(thresholds(library)) > max(stricter)
    for name in [f"c{number}" for number in range(1, 10)]:
        library.remove(name)
    assert thresholds(library) == pytest.approx([-0.1 * ndtri(0.001)])
    library.add(Concept("another", "square", heads[1]))
    assert thresholds(library) == pytest.approx([-0.1 * ndtri(0.0005)] * 2)
    library.false_names_per_1000 = None
    assert thresholds(library) == [0.2, 0.2]
    assert thresholds(library_of(heads, false_names_per_1000=None)) == [0.2] * 10


def test_a_corrected_head_keeps_its_photos_in_any_company(heads: list[ObjectHead]) -> None:
    corrected = head(12)
    corrected.figures_ = {"corrections": 1}
    corrected.slope_ = 10.0
    held = ObjectHead.gate([*heads, corrected]).held_to(1e-6)
    assert 0.2 + 0.06 < held._threshold[-1] < 0.2 + 0.08, "its photos were asked to be 0.08 above"
    assert held._threshold[0] > 0.5


def test_fewer_false_names_are_fewer_names() -> None:
    pictures = scenes(50, 20)
    lax = [head(seed, Tail(-1.0, 0.3), -0.3) for seed in range(10)]
    seen = {}
    for rate in (None, 50.0, 0.01):
        library = library_of(lax, false_names_per_1000=rate)
        seen[rate] = [len(found.present) for found in library.recognise(pictures)]
    assert sum(seen[None]) >= sum(seen[50.0]) > sum(seen[0.01])


def test_faces_are_held_to_it_by_strangers_faces_and_objects_for_themselves(heads: list[ObjectHead]) -> None:
    class Stated(FakeFaces):
        threshold_error = 0.0035

    def limits(library: ConceptLibrary) -> list[float]:
        return next(one for _, one in library.gated() if isinstance(one, FaceGate))._threshold.tolist()

    encoder = Stated("fake/stated")
    people = [FaceHead(encoder).fit(photos(person)) for person in range(40, 44)]
    library = ConceptLibrary([Concept(f"p{n}", "woman", one) for n, one in enumerate(people)])
    usual = FaceHead.gate(people)._threshold.tolist()
    assert limits(library) == usual
    library.add(Concept("sks", "square", heads[0]))
    assert limits(library) == usual
    library.false_names_per_1000 = 5
    assert limits(library) == [one.threshold_among(4, encoder, 0.005) for one in people]
    assert min(limits(library)) > max(usual)
    library.false_names_per_1000 = 1000.0
    assert limits(library) == usual, "never laxer"


def test_gates_of_one_kind_share_it_by_their_concepts(heads: list[ObjectHead]) -> None:
    library = library_of(heads, false_names_per_1000=10)
    alone = thresholds(library)
    whole = ObjectHead(ENCODER, crops="none").fit(scenes(0, 2))
    whole.threshold_, whole.tail_location_, whole.tail_scale_ = 0.0, 0.0, 0.1
    library.add(Concept("whole", "square", whole))
    gates = {len(members): gate for members, gate in library.gated()}
    assert gates[1]._threshold == pytest.approx([-0.1 * ndtri(0.01 / 11)])  # type: ignore[attr-defined]
    assert gates[10]._threshold == pytest.approx([-0.1 * ndtri(0.01 / 11)] * 10)  # type: ignore[attr-defined]
    assert alone == pytest.approx([-0.1 * ndtri(0.001)] * 10)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), "1", True and "many"])
def test_what_is_no_rate_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="rate of false names"):
        ConceptLibrary(false_names_per_1000=wrong)  # type: ignore[arg-type]
    library = ConceptLibrary()
    with pytest.raises(InputError, match="rate of false names"):
        library.false_names_per_1000 = wrong  # type: ignore[assignment]
    assert library.false_names_per_1000 == FALSE_NAMES_PER_1000


def test_an_encoder_has_a_tail_of_everyday_photographs_and_more_windows_reach_higher() -> None:
    encoder = ColourEncoder("fake/tail")
    few, many = everyday(encoder).tail(12), everyday(encoder).tail(48)
    assert few.scale == many.scale > 0
    assert many.location - few.location == pytest.approx(few.scale * 0.3752 * np.log(4), rel=1e-3)
    learned = ObjectHead(encoder).fit(scenes(0, 3))
    assert learned.tail_scale_ > 0
    assert ObjectHead(encoder).fit(scenes(0, 3), scenes(100, 3, "lime")).tail_scale_ > 0
    taught = ObjectHead(encoder, C=10.0).fit(scenes(0, 3), scenes(100, 3, "lime"))
    assert taught.tail_scale_ == 0, "the negatives that a user gives are no everyday pictures"


def test_two_that_look_alike_are_held_apart_in_one_library() -> None:
    first, like, other = (head(seed, threshold=0.4) for seed in (1, 2, 3))
    first.coef_, like.coef_, other.coef_ = np.zeros((3, *first.coef_.shape), dtype=np.float32)
    first.coef_[0], like.coef_[:2], other.coef_[2] = 1.0, (0.3, np.sqrt(1 - 0.3**2)), 1.0
    for one in (first, like, other):
        one.typical_ = 0.8
    gate = ObjectHead.gate([first, like, other])
    assert gate.held_to(1.0)._threshold == pytest.approx([0.55, 0.55, 0.4])
    assert gate._threshold.tolist() == [0.4] * 3
    first.typical_ = 0.0
    known = ObjectHead.gate([first, like, other]).held_to(1.0)
    assert known._threshold == pytest.approx([0.4, 0.4, 0.4]), "of one photo nothing is known"
    like.coef_[:2], like.typical_, first.typical_ = (0.6, 0.8), 0.9, 0.9
    twins = ObjectHead.gate([first, like]).held_to(1.0)
    assert twins._threshold.tolist() == [0.4, 0.4], "what passes already is for `separate`"


def test_the_mean_of_several_photos_keeps_what_a_left_out_photo_scores() -> None:
    encoder = ColourEncoder("fake/typical")
    several = ObjectHead(encoder).fit(scenes(0, 3))
    assert several.typical_ == pytest.approx(np.median(several.figures_["left_out_scores"]), abs=1e-4)
    assert several.typical_ > several.threshold_
    meta, tensors = several.state()
    assert ObjectHead.from_state(meta, tensors).typical_ == several.typical_
    assert ObjectHead(encoder).fit(scenes(0, 1)).typical_ == 0.0
    assert ObjectHead(ENCODER).fit(scenes(0, 3)).typical_ == 0.0, "a regression's scale is its own"


def test_heads_of_a_library_learn_from_each_others_photos_how_often_they_err() -> None:
    encoder = ColourEncoder("fake/met")
    first, second = (ObjectHead(encoder).fit(scenes(start, 2)) for start in (0, 40))
    assert isinstance(first, MeetingHead)
    alone = ObjectHead.gate([first, second]).reached_by(0.01)
    encoded = sum(encoder.calls)
    first.meet(scenes(0, 2), [])
    assert SCORES_BY_OTHERS not in first.figures_
    second.meet(scenes(40, 2), [first])
    assert sum(encoder.calls) == encoded, "it has seen the photos"
    raw = ObjectHead.gate([first]).raw(load_images(scenes(40, 2)))[0][:, 0]
    met = (raw - first.tail_location_) / first.tail_scale_
    assert second.figures_[SCORES_BY_OTHERS] == pytest.approx(met, abs=1e-3)
    meta, tensors = second.state()
    again = ObjectHead.from_state(meta, tensors)
    again.encoder = encoder
    sure, half = 2 / (2 + DOUBT), float(np.median(met))
    scale = 1 - sure + sure * float(np.quantile(met, 0.95) - half) / -ndtri(0.05)
    location = np.array([one.tail_location_ for one in (first, second)])
    deviation = np.array([one.tail_scale_ for one in (first, second)])
    together = location + deviation * (sure * half - scale * ndtri(0.01))
    assert ObjectHead.gate([first, again]).reached_by(0.01) == pytest.approx(together, abs=1e-3)
    assert not np.allclose(together, alone, atol=1e-3)


def test_of_many_heads_and_photos_some_scores_are_kept_and_of_a_regression_none() -> None:
    encoder = ColourEncoder("fake/many-met")
    learned = ObjectHead(encoder).fit(scenes(0, 3))
    others = [ObjectHead(encoder).fit(scenes(40 + one, 1)) for one in range(9)]
    learned.meet(scenes(0, 3), others)
    assert len(learned.figures_[SCORES_BY_OTHERS]) == MAX_SCORES_BY_OTHERS < 27
    for one in others[1:]:
        one.encoder_fingerprint_ = -one.encoder_fingerprint_
    learned.meet(scenes(0, 3), others)
    assert len(learned.figures_[SCORES_BY_OTHERS]) == 3, (
        "what other weights learned is passed over, and no error"
    )
    regression = ObjectHead(ENCODER).fit(scenes(0, 2))
    regression.meet(scenes(0, 2), [ObjectHead(ENCODER).fit(scenes(40, 2))])
    assert SCORES_BY_OTHERS not in regression.figures_, "the encoder's own pictures say more"
