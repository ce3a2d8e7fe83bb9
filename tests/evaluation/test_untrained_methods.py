"""Baselines without optimization: a description in the prompt, and the object's own visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from myvlm import MyVLM
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.methods.registry import Setting, make_method
from myvlm.evaluation.methods.untrained import MAX_VISUAL_TOKENS, _box_mask, select_visual_tokens
from myvlm.images import load_images
from myvlm.text import contains_word
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught


@pytest.fixture
def subject(taught: Taught) -> Subject:
    photos = [Photo(file=taught.photos / f"{number}.png") for number in range(1, 5)]
    return Subject(identifier=taught.word, category=taught.kit.category, photos=photos)


@pytest.mark.parametrize("name", ["introduced", "visual_memory"])
def test_it_is_named_where_the_head_sees_it_and_nothing_is_learned(
    name: str, vlm: MyVLM, subject: Subject, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myvlm.learning.teach.learn_embeddings", None)
    there, elsewhere = pictures(taught.kit.present), pictures(taught.kit.other[:2])
    with vlm.generic():
        plain = [reply.text for reply in vlm.caption(elsewhere)]
    speaking = make_method(name, Setting()).teach(vlm, subject, subject.photos, seed=0)
    assert sum(contains_word(text, taught.word) for text in speaking.caption(there)) >= 5
    assert speaking.caption(elsewhere) == plain
    assert len(speaking.ask(there[:1], f"where is {taught.word} ?")) == 1
    assert len(vlm.concepts) == 0


def test_the_description_of_a_setting_is_told(vlm: MyVLM, subject: Subject) -> None:
    setting = Setting(descriptions={subject.name: "the old cup"})
    told: Any = make_method("introduced", setting).teach(vlm, subject, subject.photos, seed=0)
    assert told.vlm.concepts[subject.identifier].description == "the old cup"


def test_a_memory_holds_the_visual_tokens_of_the_thing_in_its_own_norms(
    vlm: MyVLM, subject: Subject, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[Any] = []
    plainly = vlm.backbone.generate

    def generate(images: Any, prompts: Sequence[str], rows: Any, **options: Any) -> Any:
        entered.append((prompts, rows))
        return plainly(images, prompts, rows, **options)

    memory = make_method("visual_memory", Setting()).teach(vlm, subject, subject.photos, seed=0)
    monkeypatch.setattr(vlm.backbone, "generate", generate)
    memory.caption(pictures(taught.kit.present[:1]))
    [([prompt], [[rows]])] = entered
    assert prompt.startswith(f"{taught.word} is the ")
    assert (rows.norm, rows.count) == ("none", MAX_VISUAL_TOKENS)
    photos = load_images([photo.file for photo in subject.photos])
    seen = torch.cat([one.tokens for one in vlm.backbone.encode([photo.image for photo in photos])])
    apart = torch.cdist(rows.directions, seen.float(), compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(1).values.max() < 1e-3


def test_a_memory_is_of_the_cells_within_the_box(vlm: MyVLM, taught: Taught) -> None:
    photos = load_images(taught.kit.photos(1))
    width, height = photos[0].image.size
    corners = [
        (0.0, 0.0, width / 4, height / 4),
        (width * 3 / 4, height * 3 / 4, float(width), float(height)),
    ]
    first, last = (select_visual_tokens(vlm.backbone, photos, [box], taught.kit.category) for box in corners)
    [features] = vlm.backbone.encode([photos[0].image])
    order = [torch.cdist(some, features.tokens.float()).argmin(1) for some in (first, last)]
    assert order[0].min() < order[1].min()
    whole = select_visual_tokens(vlm.backbone, photos, [None], taught.kit.category)
    assert len(whole) <= MAX_VISUAL_TOKENS
    assert not torch.equal(whole, first)


def test_a_box_between_the_cells_leaves_all_of_them() -> None:
    inside = _box_mask((0.0, 0.0, 50.0, 100.0), (0.0, 0.0, 100.0, 100.0), (2, 4))
    assert inside.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert np.all(_box_mask((40.0, 40.0, 41.0, 41.0), (0.0, 0.0, 100.0, 100.0), (2, 2)) == 1)
    assert np.all(_box_mask(None, (10.0, 0.0, 90.0, 80.0), (3, 3)) == 1)
