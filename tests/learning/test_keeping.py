"""The cache of encoded views: within the budget, each prefix computed once if there is room, same results."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones import Backbone, backbone_for
from myvlm.errors import InputError
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding, optimise
from myvlm.learning import view_cache as keeping
from myvlm.learning.view_cache import (
    LiveBytes,
    MemoryBudget,
    ViewCache,
    free_memory,
    from_host,
    memory_budget,
    nbytes,
    to_host,
)
from tests.support.tiny import tiny_llava

PHOTOS = [Image.effect_noise((40, 30), 60 + i).convert("RGB") for i in range(2)]
SETTINGS = LearnSettings(steps=4, views=6)
VIEWS = 12


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    model, processor = tiny_llava()
    return backbone_for(model, processor, name="tiny")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ViewCache]:
    """The caches that the learning loop used."""
    made: list[ViewCache] = []

    class Spied(ViewCache):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(optimise, "ViewCache", Spied)
    return made


def learn(backbone: Backbone, **changes: Any) -> Tensor:
    examples = gather_examples(
        "sks",
        load_images(PHOTOS),
        ["sks on a table and a big red mug with one small dog", "sks and a mug"],
        [("What is next to sks?", "a table")],
    )
    settings = SETTINGS.model_copy(update=changes)
    return learn_embedding(backbone, examples, settings, words=("sks", "mug")).directions


def needed(backbone: Backbone) -> int:
    """The smallest budget, by the error's own words."""
    with pytest.raises(InputError, match="budget is too small") as caught:
        learn(backbone, budget=1)
    [found] = re.findall(r"at least (\d+) bytes", str(caught.value))
    return int(found)


def test_each_prefix_is_made_once_where_there_is_room(
    backbone: Backbone, seen: list[ViewCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plain = type(backbone).prefixes

    def counted(self: Any, features: Any) -> Any:
        made.append(len(features))
        return plain(self, features)

    monkeypatch.setattr(type(backbone), "prefixes", counted)
    learn(backbone)
    assert made == [1] * VIEWS
    [kept] = seen
    assert (kept.on_device, kept.on_host, kept.recomputed, kept.step_bytes) == (VIEWS, 0, 0, 0)


def test_whatever_the_budget_it_is_kept_and_the_result_is_the_same(
    backbone: Backbone, seen: list[ViewCache]
) -> None:
    least = needed(backbone)
    plain = learn(backbone)
    a_prefix = nbytes(backbone.prefixes(backbone.encode(PHOTOS[:1])))
    for budget, near in ((least, 0), (least + 5 * a_prefix + 8, 5), (100 * least, VIEWS)):
        with LiveBytes("cpu") as memory:
            learned = learn(backbone, budget=budget)
        kept = seen[-1]
        assert torch.equal(learned, plain)
        assert (kept.on_device, kept.on_host, kept.recomputed) == (near, 0, VIEWS - near)
        assert memory.peak <= budget, (memory.peak, budget)
        assert memory.peak > kept.step_bytes / keeping.STEP_MARGIN - 1


def test_views_beside_the_device_come_back_as_they_were(
    backbone: Backbone, seen: list[ViewCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, least = learn(backbone), needed(backbone)
    a_prefix = nbytes(backbone.prefixes(backbone.encode(PHOTOS[:1])))
    room = MemoryBudget(least + 2 * a_prefix + 8, 3 * a_prefix + 8)
    monkeypatch.setattr(optimise, "memory_budget", lambda *_: room)
    assert torch.equal(learn(backbone, budget=room.device), plain)
    kept = seen[-1]
    assert (kept.on_device, kept.on_host, kept.recomputed) == (2, 3, VIEWS - 5)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_it_is_left_when_learning_has_ended(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Not even until the next garbage collection: it takes most of a device's memory."""
    made: list[weakref.ref[ViewCache]] = []

    class Spied(ViewCache):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(weakref.ref(self))

    def report(*_: Any) -> None:
        if fails:
            raise ZeroDivisionError

    monkeypatch.setattr(optimise, "ViewCache", Spied)
    examples = gather_examples("sks", load_images(PHOTOS), ["sks on a table", "sks and a mug"])
    settings = LearnSettings(steps="auto", most_steps=6, views=1, augment=False)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        learn_embedding(backbone, examples, settings, words=("sks", "mug"), report=report)
    except ZeroDivisionError:
        assert fails
    finally:
        left = [one() for one in made]
        if was_enabled:
            gc.enable()
    assert left == [None]


def test_a_family_without_a_prefix_keeps_features(
    backbone: Backbone, seen: list[ViewCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backbone), "prefixes", lambda *_: None)
    plain, least = learn(backbone), needed(backbone)
    with LiveBytes("cpu") as memory:
        assert torch.equal(learn(backbone, budget=least), plain)
    assert memory.peak <= least
    assert not seen[-1].prefixed


@pytest.mark.parametrize(
    ("device", "free", "budget", "room"),
    [
        ("cpu", 1000, "auto", MemoryBudget(500, 0)),
        ("cpu", 1000, 70, MemoryBudget(70, 0)),
        ("cuda", 1000, "auto", MemoryBudget(500, 500)),
        ("cuda", 50, "auto", MemoryBudget(25, 25)),
        ("cuda", 1000, 70, MemoryBudget(70, 500)),
    ],
)
def test_what_a_budget_allows(
    device: str, free: int, budget: Any, room: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "free_memory", lambda _: free)
    fake: Any = SimpleNamespace(device=torch.device(device))
    assert memory_budget(fake, budget) == room


def test_free_is_what_can_be_had_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf", raising=False)  # missing on Windows
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(free=3, available=70))
    assert free_memory(torch.device("cpu")) == 70
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20)
    assert free_memory(torch.device("cuda")) == 130


def test_anything_of_tensors_goes_away_and_comes_back() -> None:
    @dataclass(frozen=True)
    class Feature:
        tokens: Tensor
        grids: dict[str, list[Tensor]]
        ids: list[int]
        text: str = "a"

    feature = Feature(
        torch.randn(3, 2), {"a": [torch.arange(3), torch.ones(1, dtype=torch.bfloat16)]}, [1, 2]
    )
    away = to_host(feature)
    assert nbytes(feature) == 24 + 24 + 2
    assert nbytes(away) == 0
    back = from_host(away)
    assert torch.equal(back.tokens, feature.tokens)
    assert torch.equal(back.grids["a"][0], feature.grids["a"][0])
    assert back.grids["a"][1].dtype == torch.bfloat16
    assert (back.ids, back.text) == ([1, 2], "a")
