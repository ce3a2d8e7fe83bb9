"""Heads are fitted with the library's other concepts as negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from myvlm.heads import ObjectHead
from myvlm.images import load_images
from myvlm.learning.dataset import LoadedLesson
from myvlm.learning.teach import MAX_MEETING_HEADS, fit


class Recorded(ObjectHead):
    """A head that only records its negatives."""

    met: Sequence[Any] = ()
    of = "an encoder"

    @property
    def gate_key(self) -> str:
        return self.of

    def fit(self, *_: object, **__: object) -> Recorded:
        return self

    def meet(self, images: object, others: Sequence[Any]) -> None:
        self.met = others


class OfAnotherEncoder(Recorded):
    of = "another"


def lesson(category: str) -> LoadedLesson:
    photo = load_images(Image.new("RGB", (8, 8)))
    return LoadedLesson("sks", photo, category=category)  # type: ignore[arg-type]


def test_heads_of_other_categories_and_of_the_same_encoder_see_the_photos() -> None:
    mug, dog, person = Recorded(), Recorded(), OfAnotherEncoder()
    stranger = Recorded()
    stranger.of = "another"
    fit(head := Recorded(), lesson("Mug"), [("mug", mug), ("dog", dog), ("cat", stranger), ("man", person)])
    assert list(head.met) == [dog]


def test_of_many_heads_so_many_see_them_from_all_of_the_library() -> None:
    known = [("dog", Recorded()) for _ in range(100)]
    fit(head := Recorded(), lesson("mug"), known)
    assert MAX_MEETING_HEADS / 2 < len(head.met) <= MAX_MEETING_HEADS
    assert head.met[0] is known[0][1]
    assert known.index(("dog", head.met[-1])) > 90
    fit(head, lesson("mug"), [])
    assert list(head.met) == []
