"""Learning: what is checked before, what is drawn by seed, and that only the embedding moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny import tiny_llava

from myvlm.backbones import ConceptRows, backbone_for
from myvlm.errors import InputError
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding, make_views
from myvlm.learning.examples import name_in_caption

PHOTOS = [Image.effect_noise((40, 30), 60 + i).convert("RGB") for i in range(2)]
CAPTIONS = [["sks on a table", "a photo of sks"], "sks and a mug"]


def examples(**changes):
    given = {"captions": CAPTIONS, "questions": [("What is next to sks?", "a table")], **changes}
    return gather_examples("sks", load_images(PHOTOS), **given)


def test_examples_pair_photos_with_their_texts() -> None:
    first, second = examples()
    assert first.captions == ("sks on a table", "a photo of sks")
    assert second.captions == ("sks and a mug",)
    assert second.questions == (("What is next to sks?", "a table"),)
    assert examples(questions=[[("a?", "b")], []])[1].questions == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captions": ["sks"]}, "1 captions"),
        ({"captions": "sks"}, "one text"),
        ({"captions": ["sks", []]}, "an empty list"),
        ({"captions": ["sks", "asks for it"]}, "asks for it"),
        ({"questions": [[("a?", "b")]]}, "1 lists"),
        ({"questions": [[("a?", "b")], [("a?",)]]}, "('a?',)"),
        ({"questions": [[("a?", " ")], []]}, "('a?', ' ')"),
    ],
)
def test_wrong_examples_are_named(changes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        examples(**changes)
    assert said in str(caught.value)


def test_captions_of_the_model_get_the_name() -> None:
    assert name_in_caption("A large white coffee mug on a desk.", "mug", "sks") == "sks on a desk."
    assert name_in_caption("mug", "mug", "sks") == "sks"


def test_views_begin_with_the_photo_and_repeat_by_seed() -> None:
    first, again, other = (make_views(PHOTOS[0], 5, augment=True, seed=s) for s in (1, 1, 2))
    arrays = [np.stack([np.asarray(v) for v in views]) for views in (first, again, other)]
    assert arrays[0].shape == (5, 30, 40, 3)
    assert np.array_equal(arrays[0][0], np.asarray(PHOTOS[0]))
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])
    assert len({view.tobytes() for view in first}) == 5
    assert len(make_views(PHOTOS[0], 5, augment=False, seed=1)) == 1


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"steps": 0}, {"norm": "cls"}, {"unheard": 1}, {"views": 0}])
def test_settings_refuse_what_cannot_be(wrong) -> None:
    with pytest.raises(ValidationError):
        LearnSettings(**wrong)


@pytest.fixture(scope="module")
def backbone():
    model, processor = tiny_llava()
    return backbone_for(model, processor, name="tiny")


def test_learning_lowers_the_loss_and_moves_nothing_else(backbone) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    steps: list[tuple[int, float, float]] = []
    learned = learn_embedding(
        backbone,
        examples(),
        LearnSettings(steps=30, views=2, learning_rate=0.2),
        report=lambda *step: steps.append(step),
    )
    assert [number for number, *_ in steps] == list(range(1, 31))
    assert learned.directions.shape == (1, backbone.dim)
    assert learned.directions.pow(2).mean().item() == pytest.approx(1.0, abs=1e-4)
    assert np.mean([s[1] for s in steps[-8:]]) < np.mean([s[1] for s in steps[:8]]) - 0.01
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_same_seed_learns_the_same(backbone) -> None:
    settings = LearnSettings(steps=3, views=2, rows=2, seed=5)
    first, again = (learn_embedding(backbone, examples(), settings).directions for _ in range(2))
    other = learn_embedding(backbone, examples(), settings.model_copy(update={"seed": 6})).directions
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_fast_way_is_the_full_one(backbone, monkeypatch) -> None:
    settings = LearnSettings(steps=5, views=2)
    fast = learn_embedding(backbone, examples(), settings)
    monkeypatch.setattr(type(backbone), "prefixes", lambda self, features: None)
    full = learn_embedding(backbone, examples(), settings)
    torch.testing.assert_close(fast.directions, full.directions, atol=1e-4, rtol=1e-4)


def test_the_regularizer_holds_attention_down(backbone) -> None:
    free, held = (
        learn_embedding(backbone, examples(), LearnSettings(steps=40, views=2, regularizer=weight)).attention
        for weight in (0.0, 1000.0)
    )
    assert held < free


def test_interrupting_leaves_the_model_as_it_was(backbone) -> None:
    model = backbone.model.train()
    try:
        with pytest.raises(KeyboardInterrupt):
            learn_embedding(backbone, examples(), LearnSettings(steps=3), report=_interrupt)
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
    finally:
        model.eval()
    rows = ConceptRows(torch.ones(1, backbone.dim))
    [said] = backbone.generate(PHOTOS[:1], ["Where?"], [[rows]], max_new_tokens=2)
    assert said.token_ids.numel() <= 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
