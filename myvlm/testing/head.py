"""The contract of a head: each function asserts one property on a `HeadCase`.

Run by `myvlm.testing.check_head`; no check is skipped for any head.
"""

from __future__ import annotations

import inspect
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from myvlm.errors import ConceptFileError, ImageError, InputError, MyVLMError, NotFittedError
from myvlm.heads.base import Head, HeadMeta, head_class
from myvlm.heads.detections import HeadScore
from myvlm.images import load_images
from myvlm.testing.running import raised

TOLERANCE = 1e-4
"""Tolerance for two probabilities of the same picture: the order of sums in a matrix product may differ."""


@dataclass(frozen=True, eq=False)
class HeadCase:
    """A head to check, and photos of two objects that it can learn.

    Args:
        make: returns a new, unfitted head; called often.
        photos: two or more of one object.
        other_photos: two or more of another object.
        unseen: pictures to score: with the first object, with the second, and with neither.
        category: the category of the objects.

    Raises:
        InputError: there are too few pictures.
    """

    make: Callable[[], Head]
    photos: Sequence[Image.Image]
    other_photos: Sequence[Image.Image]
    unseen: Sequence[Image.Image]
    category: str | None = None

    def __post_init__(self) -> None:
        if min(len(self.photos), len(self.other_photos)) < 2 or len(self.unseen) < 3:
            raise InputError(
                "The checks need photos of two objects, and unseen pictures.",
                got=f"{len(self.photos)}, {len(self.other_photos)} and {len(self.unseen)}",
                expected="at least 2 photos of each and 3 unseen pictures",
                fix="pass more pictures",
            )

    @property
    def lacks(self) -> Mapping[str, str]:
        """What a head may leave out: nothing."""
        return {}

    def fitted(self) -> Head:
        return self.make().fit(list(self.photos), category=self.category)

    def fitted_other(self) -> Head:
        return self.make().fit(list(self.other_photos), category=self.category)


def names_its_kind(case: HeadCase) -> None:
    """The head follows the protocol, is registered under its kind, and says what it stores of a person."""
    head = case.make()
    assert isinstance(head, Head), "the head lacks a method or attribute of `myvlm.heads.Head`"
    assert head.kind.isidentifier(), f"kind {head.kind!r} is not an identifier"
    assert head_class(head.kind) is type(head), f"the kind {head.kind!r} is not registered for this class"
    assert len(head.privacy) > 20, "`privacy` is too short"
    assert hash(head.gate_key) == hash(case.make().gate_key)
    assert head.gate_key == case.make().gate_key, "equal heads have different gate keys"


def init_only_stores(case: HeadCase) -> None:
    """As in scikit-learn, `__init__` stores each argument under its name and sets no attribute `…_`."""
    head = case.make()
    for name in list(inspect.signature(type(head).__init__).parameters)[1:]:
        assert hasattr(head, name), f"the argument {name!r} is not stored under that name"
    learned = [name for name in vars(head) if name.endswith("_") and not name.startswith("_")]
    assert not learned, f"set before fit: {learned}"


def unfitted_says_so(case: HeadCase) -> None:
    """Use before `fit` raises NotFittedError."""
    head = case.make()
    for use in (lambda: head.score(case.unseen[0]), head.state, lambda: type(head).gate([head])):
        raised(NotFittedError, use, "use before fit")


def fit_returns_itself(case: HeadCase) -> None:
    """`fit` returns the head, leaves its arguments alone, sets attributes `…_` and forgets earlier fits."""
    head = case.make()
    names = list(inspect.signature(type(head).__init__).parameters)[1:]
    before = {name: getattr(head, name) for name in names}
    assert head.fit(list(case.photos), category=case.category) is head
    assert all(getattr(head, name) is before[name] for name in names), "fit changed an argument"
    assert any(name.endswith("_") for name in vars(head)), "nothing was learned"
    again = head.fit(list(case.other_photos), category=case.category)
    assert again.score(list(case.unseen)) == case.fitted_other().score(list(case.unseen)), (
        "a second fit remembers the first"
    )


def scores_are_whole(case: HeadCase) -> None:
    """One score per picture, in order: probability in 0 to 1, present from 0.5 on, box inside the picture."""
    head = case.fitted()
    scores = head.score(list(case.unseen))
    assert len(scores) == len(case.unseen)
    for score, image in zip(scores, case.unseen, strict=True):
        assert type(score.probability) is float, f"{type(score.probability)} is not a float"
        assert 0 <= score.probability <= 1, f"probability {score.probability}"
        assert abs(score.probability - 0.5) < TOLERANCE or score.present == (score.probability > 0.5)
        if score.box is not None:
            left, top, right, bottom = score.box
            inside = 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
            assert inside, f"box {score.box} of a picture of {image.size}"
        assert score.verdict in ("present", "unsure", "absent")
    assert len(set(scores)) > 1, "all pictures have the same score"


def knows_its_thing(case: HeadCase) -> None:
    """The head recognizes its own photos, and scores a picture of its object above those without it."""
    head = case.fitted()
    assert all(score.present for score in head.score(list(case.photos))), (
        "the head does not detect its own photos"
    )
    first, *rest = head.score(list(case.unseen))
    assert all(first.probability > other.probability for other in rest), "another picture scores higher"


def order_and_batch_change_nothing(case: HeadCase) -> None:
    """Scores are the same for all pictures at once, each alone, and in reverse order."""
    head = case.fitted()
    together = head.score(list(case.unseen))
    _assert_scores_close(together, [head.score(one)[0] for one in case.unseen])
    _assert_scores_close(together, head.score(list(reversed(case.unseen)))[::-1])


def score_changes_nothing(case: HeadCase) -> None:
    """Scoring changes neither the head, nor the pictures, nor the state of global random generators."""
    head = case.fitted()
    meta, tensors = head.state()
    before = [image.tobytes() for image in case.unseen]
    drawn = torch.random.get_rng_state(), _numpy_random_state(), random.getstate()
    first = head.score(list(case.unseen))
    assert head.score(list(case.unseen)) == first, "a second call gives other scores"
    assert torch.equal(drawn[0], torch.random.get_rng_state()), "torch's random state changed"
    assert np.array_equal(drawn[1], _numpy_random_state()), "numpy's random state changed"
    assert drawn[2] == random.getstate(), "Python's random state changed"
    assert [image.tobytes() for image in case.unseen] == before, "a picture was changed"
    after, again = head.state()
    assert after == meta
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def _numpy_random_state() -> np.ndarray:
    state: np.ndarray = np.random.get_state(legacy=False)["state"]["key"]
    return state


def the_same_seed_is_the_same_head(case: HeadCase) -> None:
    """Two fits on the same photos give one state bit for bit, whatever random numbers were drawn before."""
    (meta, tensors) = case.fitted().state()
    np.random.random()
    torch.rand(3)
    other_meta, others = case.fitted().state()
    assert meta == other_meta
    assert sorted(tensors) == sorted(others)
    assert all(np.array_equal(tensors[name], others[name]) for name in tensors), (
        "a second fit gives other tensors"
    )


def state_round_trip_is_exact(case: HeadCase) -> None:
    """A head saved to JSON and tensors and loaded again has the same state, and scores equal to the bit."""
    head = case.fitted()
    meta, tensors = head.state()
    assert meta.kind == head.kind
    assert tensors, "no tensors"
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in tensors.values())
    read = HeadMeta.model_validate_json(meta.model_dump_json())
    again = type(head).from_state(read, {name: array.copy() for name, array in tensors.items()})
    other_meta, others = again.state()
    assert other_meta == meta
    assert all(np.array_equal(tensors[name], others[name]) for name in tensors)
    assert again.gate_key == head.gate_key, (
        "the loaded head has another gate key; a head that takes an encoder must be checked with a "
        "registered one, by its name"
    )
    assert again.score(list(case.unseen)) == head.score(list(case.unseen))


def spoilt_state_is_refused(case: HeadCase) -> None:
    """A state with a tensor missing, empty or not finite, or unknown settings, raises ConceptFileError."""
    head = case.fitted()
    meta, tensors = head.state()
    for name, array in tensors.items():
        wrong = [{key: value for key, value in tensors.items() if key != name}]
        wrong += [{**tensors, name: array[:0]}]
        if array.dtype.kind == "f":
            wrong += [{**tensors, name: np.full_like(array, np.nan)}]
        for spoilt in wrong:
            raised(ConceptFileError, partial(type(head).from_state, meta, spoilt), f"spoilt {name}")
    bare = meta.model_copy(update={"settings": {"no such": 1}})
    raised(ConceptFileError, lambda: type(head).from_state(bare, tensors), "settings of another head")


def gate_is_the_single_heads(case: HeadCase) -> None:
    """A gate of two heads or four scores like each head alone, except pictures that both heads claim.

    A head with `stricter_in_company` may be less sure the more heads a gate has, but never surer.
    """
    first, second = case.fitted(), case.fitted_other()
    alike = _assert_not_surer if getattr(first, "stricter_in_company", False) else _assert_scores_close
    pictures = list(case.unseen)
    alone = [first.score(pictures), second.score(pictures)]
    loaded = load_images(pictures)
    scores = type(first).gate([first, second]).score(loaded)
    assert scores.probabilities.shape == scores.present.shape == (len(pictures), 2)
    assert scores.boxes.shape == (len(pictures), 2, 4)
    for picture in range(len(pictures)):
        if alone[0][picture].present and alone[1][picture].present:
            continue  # a gate may assign a picture that both claim to one of them
        for number in (0, 1):
            alike([scores.at(picture, number)], [alone[number][picture]])
    meta, tensors = second.state()
    many = [type(second).from_state(meta, tensors) for _ in range(3)]
    if all(one.gate_key == first.gate_key for one in many):
        wide = type(first).gate([first, *many]).score(loaded)
        alike([wide.at(p, 0) for p in range(len(pictures))], [scores.at(p, 0) for p in range(len(pictures))])
    raised(MyVLMError, lambda: type(first).gate([]), "a gate of no heads")


def bad_pictures_are_named(case: HeadCase) -> None:
    """A missing file, one that is no picture and a cut one raise errors that name it; nothing is learned."""
    with tempfile.TemporaryDirectory() as folder:
        whole, cut, text = (Path(folder) / name for name in ("whole.png", "cut.png", "text.jpg"))
        case.photos[0].save(whole)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        text.write_text("no picture")
        for bad in (cut, text, Path(folder) / "gone.png"):
            head = case.make()
            for use in (
                lambda b=bad, h=head: h.fit([whole, b]),
                lambda b=bad, h=head: h.fit(list(case.photos), [b]),
                lambda b=bad: case.fitted().score([whole, b]),
            ):
                error = raised(InputError, use, bad.name)
                assert bad.name in str(error), f"the message does not name {bad.name}: {error}"
            raised(NotFittedError, head.state, f"after a fit that failed on {bad.name}")
    raised(InputError, lambda: case.make().fit([]), "no photos")
    raised(ImageError, lambda: case.make().fit(np.zeros((4, 4))), "an array but not a picture")


def odd_pictures_are_scored(case: HeadCase) -> None:
    """A picture of one pixel, a very thin one and a rather large one are scored like any other."""
    head = case.fitted()
    odd = [Image.new("RGB", size, (40, 90, 60)) for size in ((1, 1), (2, 700), (1600, 900))]
    scores = head.score(odd)
    assert len(scores) == 3
    for score, image in zip(scores, odd, strict=True):
        assert 0 <= score.probability <= 1
        assert score.box is None or (score.box[2] <= image.width and score.box[3] <= image.height)


def _assert_scores_close(first: Sequence[HeadScore], second: Sequence[HeadScore]) -> None:
    """Assert that scores are equal up to rounding; boxes may differ, as two windows may score alike."""
    for one, other in zip(first, second, strict=True):
        assert abs(one.probability - other.probability) < TOLERANCE, f"{one} and {other}"
        assert abs(one.probability - 0.5) < TOLERANCE or one.present == other.present, f"{one} and {other}"


def _assert_not_surer(many: Sequence[HeadScore], few: Sequence[HeadScore]) -> None:
    """Assert that pictures score no higher among many heads than among few, and with the same boxes."""
    for one, other in zip(many, few, strict=True):
        assert one.probability <= other.probability + TOLERANCE, f"{one} and {other}"
        assert one.box == other.box, f"{one} and {other}"
        assert other.present or not one.present, f"{one} and {other}"


HEAD_CHECKS: list[Callable[[HeadCase], None]] = [
    names_its_kind,
    init_only_stores,
    unfitted_says_so,
    fit_returns_itself,
    scores_are_whole,
    knows_its_thing,
    order_and_batch_change_nothing,
    score_changes_nothing,
    the_same_seed_is_the_same_head,
    state_round_trip_is_exact,
    spoilt_state_is_refused,
    gate_is_the_single_heads,
    bad_pictures_are_named,
    odd_pictures_are_scored,
]
