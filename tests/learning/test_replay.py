"""Steps of one padded shape that are replayed as a graph give the same result as eager steps.

There is no GPU here: the stand-in of a graph follows its rules and reuses the memory and shapes of its first
call.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones import Backbone, ConceptRows, backbone_for
from myvlm.backbones.causal.cuda_graph import EAGER_STEPS, Replay, capture_graph
from myvlm.backbones.causal.features import Layout
from myvlm.backbones.causal.prefix_cache import Prefix
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding
from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.optimise import learn_embeddings
from tests.support.tiny import tiny_llava
from tests.support.tiny_families import llava_next

PHOTOS = [Image.effect_noise(size, 60).convert("RGB") for size in ((40, 30), (30, 90))]
CAPTIONS = [["sks on a table", "a photo of sks and a big red mug with one small dog"], "sks"]


class Graphs:
    """Replaces `cuda_graph.capture_graph`; counts graphs and their calls."""

    def __init__(self) -> None:
        self.made = self.calls = 0

    def __call__(self, run: Any, sample: tuple[Tensor, ...]) -> Any:
        self.made += 1
        shapes = [one.shape for one in sample]

        def replayed(*given: Tensor) -> Any:
            self.calls += 1
            assert [one.shape for one in given] == shapes
            for kept, one in zip(sample[1:], given[1:], strict=True):
                if kept.data_ptr() != one.data_ptr():
                    kept.copy_(one)
            return run(given[0], *sample[1:])

        assert sample[0].requires_grad
        assert not any(one.requires_grad for one in sample[1:])
        return replayed


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    model, processor = tiny_llava() if request.param == "llava" else llava_next("mistral")
    return backbone_for(model, processor, name="tiny")


def learn(backbone: Backbone, **changes: Any) -> Tensor:
    examples = gather_examples("sks", load_images(PHOTOS), CAPTIONS, [[("Where is sks?", "a table")], []])
    settings = LearnSettings(steps=8, views=3, learning_rate=0.2).model_copy(update=changes)
    return learn_embedding(backbone, examples, settings, words=("sks", "mug")).directions


def replaying(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, capture: Any) -> Replay:
    own: Any = backbone
    replay = Replay(own._run_tail, len, own._fused.room, capture)

    def tail_losses(texts: list[tuple[str, str]], rows: int) -> Any:
        replay.longest = partial(own.prompter.longest_tail, texts, rows)
        return partial(own._tail_loss, replay)

    monkeypatch.setattr(backbone, "tail_losses", tail_losses)
    return replay


def test_without_a_gpu_steps_are_run_as_they_are(backbone: Backbone) -> None:
    assert backbone.tail_losses([("Where?", "sks")], 1) == backbone.tail_loss


def test_a_replayed_step_learns_the_same(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphs = learn(backbone), Graphs()
    replay = replaying(backbone, monkeypatch, graphs)
    torch.testing.assert_close(learn(backbone), plain, rtol=1e-3, atol=1e-4)
    assert replay.graphed
    assert graphs.made == 1
    assert graphs.calls == 8 - EAGER_STEPS
    assert not torch.equal(plain, learn(backbone, seed=1))


def test_longer_texts_and_other_batches_make_another_graph(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LearnSettings(steps=10, views=2, learning_rate=0.2)
    tasks = [
        LearnRequest(gather_examples("sks", load_images(PHOTOS), CAPTIONS), settings, ("sks", "mug")),
        LearnRequest(
            gather_examples("ohwx", load_images(PHOTOS[:1]), ["a dog and ohwx"]),
            settings.model_copy(update={"steps": 5}),
            ("ohwx", "dog"),
        ),
    ]
    alone = [one.directions for one in learn_embeddings(backbone, tasks)]
    graphs = Graphs()
    replaying(backbone, monkeypatch, graphs)
    together = [one.directions for one in learn_embeddings(backbone, tasks)]
    assert graphs.made == 2  # for both concepts, then for one
    assert graphs.calls == 10 - 2 * EAGER_STEPS
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("message", ["operation not permitted when stream is capturing", ""])
def test_what_cannot_be_a_graph_is_run_as_it_is(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError(message)

    plain = learn(backbone)
    replay = replaying(backbone, monkeypatch, failing)
    with caplog.at_level(logging.INFO, "myvlm"):
        torch.testing.assert_close(learn(backbone), plain, rtol=1e-3, atol=1e-4)
    assert not replay.graphed
    assert caplog.text.count(f"as a CUDA graph: RuntimeError: {message}") == 1


def test_a_recording_that_breaks_off_leaves_the_generator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[str] = []
    generator = SimpleNamespace(clone_state=lambda: "before", graphsafe_set_state=set_to.append)
    graphs = [lambda given: (given, given), RuntimeError("not permitted when stream is capturing")]

    def make(run: Any, sample: Any, **_: Any) -> Any:
        if isinstance(made := graphs.pop(0), Exception):
            raise made
        return made

    for name, fake in {
        "device": lambda device: nullcontext(),
        "empty_cache": lambda: None,
        "current_device": lambda: 0,
        "default_generators": [generator],
        "make_graphed_callables": make,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    sample = (torch.zeros(1, requires_grad=True),)
    assert capture_graph(lambda given: (given, given), sample)(1) == (1, 1)
    assert set_to == []
    with pytest.raises(RuntimeError, match="not permitted"):
        capture_graph(lambda given: (given, given), sample)
    assert set_to == ["before"]


def test_all_batches_get_one_shape() -> None:
    def kept(length: int) -> Any:
        return Prefix([0] * length, Layout("<image>"), [], [], {})

    replay = Replay(lambda *_: (torch.zeros(0), torch.zeros(0)), len, lambda tail: tail, Graphs())
    lengths = [replay.lengths([kept(30), kept(length)]) for length in (20, 30, 31)]
    assert lengths == [(30, 7), (30, 7), (31, 7)]


def test_the_longest_tail_is_that_of_the_longest_texts(backbone: Backbone) -> None:
    own: Any = backbone
    [prefix] = own.prefixes(own.encode(PHOTOS[:1]))
    texts = [("Where is the mug?", "a table"), ("Where?", "a big red mug with one small dog on a table")]
    for rows in (1, 3):
        concept = [ConceptRows(torch.randn(rows, own.dim))]
        batch = own.prompter.teacher_forced(
            [prefix.layout.text] * 2, *zip(*texts, strict=True), [concept] * 2
        )
        found = own.prompter.longest_tail(texts, rows, prefix.layout.text)
        assert found == batch.ids.shape[1] - len(prefix)


def test_with_a_budget_nothing_is_kept_from_step_to_step(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs()
    replaying(backbone, monkeypatch, graphs)
    learn(backbone, budget=2**28)
    assert graphs.made == 0
    learn(backbone)
    assert graphs.made == 1
