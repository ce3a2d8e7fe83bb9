"""Learning: checks of the input, randomness by seed, and only the embedding changes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from myvlm.backbones import ConceptRows, backbone_for
from myvlm.errors import InputError
from myvlm.images import load_images
from myvlm.learning import (
    LearnRequest,
    LearnSettings,
    dataset,
    gather_examples,
    learn_embedding,
    learn_embeddings,
    make_views,
)
from myvlm.learning.concept_optimizer import Progress
from myvlm.learning.dataset import CAPTION_PROMPTS
from myvlm.learning.likelihood import UNSEEN_PROMPTS, Check, Validation
from tests.support.teaching import PHOTOS, examples
from tests.support.tiny import tiny_llava


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"steps": 0},
        {"steps": "some"},
        {"norm": "cls"},
        {"unheard": 1},
        {"budget": 0},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
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


def test_words_that_the_tokenizer_cannot_write_start_nothing(backbone) -> None:
    settings = LearnSettings(steps=1, views=1)
    blank, bare = (learn_embedding(backbone, examples(), settings, words=w) for w in (("sks", " "), ("sks",)))
    assert torch.equal(blank.directions, bare.directions)
    assert bare.directions.isfinite().all()


def test_one_photos_views_are_made_and_encoded_at_a_time_and_none_twice(backbone, monkeypatch) -> None:
    done: list[str] = []

    def noted(name, call):
        return lambda *given: (done.append(name), call(*given))[1]

    monkeypatch.setattr(dataset, "_augmented", noted("view", dataset._augmented))
    monkeypatch.setattr(backbone, "encode", noted("encode", backbone.encode))
    learn_embedding(backbone, examples(), LearnSettings(steps=1, views=3))
    assert done == ["view", "view", "encode"] * 2
    done.clear()
    auto = LearnSettings(steps="auto", most_steps=1, views=3)
    learn_embedding(backbone, examples(), auto, words=("sks", "mug"))
    assert done == [*["view"] * 2, "encode", *["view", "view", "encode"] * 2], "one more of each photo"


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


def test_ctrl_c_keeps_the_best_so_far_and_says_so(backbone, caplog) -> None:
    settings = LearnSettings(steps=30, views=2)
    model = backbone.model.train()
    try:
        stopped = learn_embedding(backbone, examples(), settings, report=_interrupt_after(3))
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
    finally:
        model.eval()
    assert (stopped.steps, stopped.interrupted) == (3, True)
    assert "Interrupted after 3 of at most 30 steps" in caplog.text
    whole = learn_embedding(backbone, examples(), settings)
    assert (whole.steps, whole.interrupted) == (30, False)
    again = learn_embedding(backbone, examples(), settings, report=_interrupt_after(3))
    assert torch.equal(stopped.directions, again.directions)
    assert not torch.equal(stopped.directions, whole.directions)


def test_ctrl_c_before_the_first_step_leaves_nothing(backbone, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(backbone), "tail_loss", interrupted)
    model = backbone.model.train()
    try:
        with pytest.raises(KeyboardInterrupt):
            learn_embedding(backbone, examples(), LearnSettings(steps=3))
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
    finally:
        model.eval()
    monkeypatch.undo()
    rows = ConceptRows(torch.ones(1, backbone.dim))
    [said] = backbone.generate(PHOTOS[:1], ["Where?"], [[rows]], max_new_tokens=2)
    assert said.token_ids.numel() <= 2


def test_after_ten_steps_the_best_is_that_of_the_lowest_mean() -> None:
    progress = Progress(LearnSettings(steps=30), None)
    for step in range(25):
        progress.advance(torch.full((1, 2), float(step)), objective=abs(step - 14))
    best = progress.best(torch.zeros(1, 2), interrupted=True)
    assert best[0, 0] == 19  # mean of the ten steps around the fourteenth; the later of two equal ones
    assert progress.best(torch.zeros(1, 2), interrupted=False).sum() == 0
    early = Progress(LearnSettings(steps=30), None)
    for step in range(3):
        early.advance(torch.full((1, 2), float(step)), objective=float(step))
    assert early.best(torch.zeros(1, 2), interrupted=True)[0, 0] == 2


def _interrupt_after(steps: int):
    def report(step: int, *_: float) -> None:
        if step == steps:
            raise KeyboardInterrupt

    return report


# ---------------------------------------------------------------- when to stop


class _Said:
    """A validation with these success rates, one per check."""

    def __init__(self, *shares: float) -> None:
        self.shares = list(shares)

    def check(self, direction) -> Check:
        return Check(self.shares.pop(0), 1.0)


def _steps_until(validation, most: int = 100) -> tuple[int, Progress]:
    progress = Progress(LearnSettings(steps="auto", most_steps=most), validation)
    while not progress.done:
        progress.advance(torch.full((1, 1), float(progress.step + 1)), 1.0)
    return progress.step, progress


def test_auto_stops_after_as_many_quiet_steps_as_it_took_to_say_the_name() -> None:
    steps, progress = _steps_until(_Said(0.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert steps == 30  # the checks at 10 and 15 passed
    assert progress.said == 1.0
    assert progress.best(torch.zeros(1, 1), interrupted=False).item() == 30


def test_one_check_alone_does_not_stop_it_and_the_best_check_is_the_result() -> None:
    steps, progress = _steps_until(_Said(0.0, 1.0, 0.5, 0.9, 0.2), most=25)
    assert steps == 25
    assert progress.said == 1.0
    assert progress.best(torch.zeros(1, 1), interrupted=False).item() == 10


def test_auto_ends_at_the_most_steps_even_between_checks() -> None:
    steps, progress = _steps_until(_Said(0.0, 0.0, 0.0, 0.0, 0.1), most=23)
    assert steps == 23
    assert progress.best(torch.zeros(1, 1), interrupted=False).item() == 23


def test_validation_is_of_views_and_under_words_that_no_step_saw(backbone) -> None:
    settings = LearnSettings(steps="auto", views=3, seed=2)
    trained = [make_views(p, 3, augment=True, seed=2000 + n) for n, p in enumerate(PHOTOS)]
    validation = Validation(backbone, examples(), settings, "sks")
    assert len(validation.views) == len(PHOTOS)
    assert all(v.tobytes() != view.tobytes() for v in validation.views for own in trained for view in own)
    assert validation.prompts == list(UNSEEN_PROMPTS), "as many as there are, of two photos too"
    assert not {*validation.prompts} & {*CAPTION_PROMPTS}


def test_validation_counts_the_captions_whose_whole_name_is_likely(backbone, monkeypatch) -> None:
    captions = ["sks on it", "a red sks on it"]
    direction = torch.ones(1, backbone.dim)
    plain = type(backbone).tail_loss

    def losses(by_word):
        """Our loss for the words of each caption, over the tokens of the name or over all others."""

        def made(self, *given):
            loss = plain(self, *given)
            own = loss.by_sample()
            name = self.word_ids("sks")
            written = torch.isin(own.targets, torch.tensor(name))
            by_token = torch.where(written, by_word[0], by_word[1]).float() * (own.targets != -100)
            return dataclasses.replace(loss, by_sample=lambda: dataclasses.replace(own, by_token=by_token))

        return made

    for of_name, of_others, said in ((0.1, 5.0, 1.0), (0.8, 0.0, 0.0)):
        monkeypatch.setattr(type(backbone), "tail_loss", losses((of_name, of_others)))
        validation = Validation(backbone, examples(captions=captions), LearnSettings(steps="auto"), "sks")
        found = validation.check(direction)
        assert found.said == said
        assert min(of_name, of_others) < found.loss < max(of_name, of_others)


def test_auto_keeps_the_likeliest_where_a_family_cannot_tell_samples_apart(backbone, monkeypatch) -> None:
    plain = type(backbone).tail_loss
    monkeypatch.setattr(
        type(backbone), "tail_loss",
        lambda self, *given: dataclasses.replace(plain(self, *given), by_sample=None),
    )  # fmt: skip
    settings = LearnSettings(steps="auto", most_steps=10, views=2, learning_rate=0.3)
    learned = learn_embedding(backbone, examples(captions=["sks sks", "sks"]), settings, words=("sks",))
    assert (learned.steps, learned.said) == (10, None)


@pytest.mark.parametrize("prefixed", [True, False])
def test_photos_that_are_not_augmented_are_encoded_once_and_checked_as_they_are_kept(
    backbone, monkeypatch, prefixed: bool
) -> None:
    shown = []
    encode = type(backbone).encode
    monkeypatch.setattr(type(backbone), "encode", lambda self, own: shown.extend(own) or encode(self, own))
    if not prefixed:
        monkeypatch.setattr(type(backbone), "prefixes", lambda *_: None)
    settings = LearnSettings(steps="auto", most_steps=5, augment=False, learning_rate=0.3)
    known = examples(captions=["sks sks", "sks"])
    kept = learn_embedding(backbone, known, settings, words=("sks",))
    assert [one.tobytes() for one in shown] == [one.tobytes() for one in PHOTOS]
    monkeypatch.setattr(Validation, "use_cached_photos", lambda *_, **__: None)
    apart = learn_embedding(backbone, known, settings, words=("sks",))
    assert len(shown) == 3 * len(PHOTOS)
    assert torch.equal(kept.directions, apart.directions)
    assert kept.said == apart.said


def test_auto_learns_the_same_twice_and_stops_early(backbone) -> None:
    settings = LearnSettings(steps="auto", most_steps=60, views=2, learning_rate=0.3)
    captions = ["sks sks sks", "sks sks"]
    first, again = (
        learn_embedding(backbone, examples(captions=captions), settings, words=("sks", "mug"))
        for _ in range(2)
    )
    assert torch.equal(first.directions, again.directions)
    assert (first.steps, first.said) == (again.steps, again.said)
    assert first.said is not None
    assert first.steps <= 60
    with pytest.raises(InputError, match="no words"):
        learn_embedding(backbone, examples(), settings)


# ---------------------------------------------------------------- several at once


def _tasks(**changes) -> list[LearnRequest]:
    others = [["ohwx on a big table", "a photo of ohwx"], "two dog and ohwx"]
    there = gather_examples("ohwx", load_images(PHOTOS[::-1]), others)
    third = gather_examples("Anna", load_images(PHOTOS[:1]), ["Anna sits on a table"])
    settings = LearnSettings(steps=8, views=2, learning_rate=0.2)
    return [
        LearnRequest(examples(), settings, ("sks", "mug")),
        LearnRequest(
            there, settings.model_copy(update={"steps": 5, "regularizer": 3.0, "rows": 2}), ("ohwx", "dog")
        ),
        LearnRequest(
            third, settings.model_copy(update={"seed": 4, "norm": "none", **changes}), ("Anna", "woman")
        ),
    ]


def _check_alike(backbone, together, tasks) -> None:
    assert len(together) == len(tasks) == 3
    for learned, task in zip(together, tasks, strict=True):
        alone = learn_embedding(backbone, task.examples, task.settings, words=task.words)
        torch.testing.assert_close(learned.directions, alone.directions, rtol=1e-3, atol=1e-4)
        assert learned.cross_entropy == pytest.approx(alone.cross_entropy, rel=1e-4)
        assert learned.attention == pytest.approx(alone.attention, rel=1e-3)
        assert learned.steps == alone.steps == task.settings.steps


def test_several_at_once_learn_what_each_learns_alone(backbone, monkeypatch) -> None:
    sizes: list[int] = []
    plain = type(backbone).tail_loss

    def counted(self, kept, *rest):
        sizes.append(len(kept))
        return plain(self, kept, *rest)

    reported: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(type(backbone), "tail_loss", counted)
        together = learn_embeddings(backbone, _tasks(), report=lambda step, *_: reported.append(step))
    assert sizes == [3 + 2 + 1] * 5 + [3 + 1] * 3
    assert reported == list(range(1, 9))
    _check_alike(backbone, together, _tasks())


def test_a_small_budget_or_a_family_without_losses_by_sample_learns_them_in_turn(
    backbone, monkeypatch
) -> None:
    with pytest.raises(InputError, match="at least") as caught:
        learn_embeddings(backbone, _tasks(budget=1))
    least = int(str(caught.value.expected).split()[2])
    _check_alike(backbone, learn_embeddings(backbone, _tasks(budget=least)), _tasks())
    plain = type(backbone).tail_loss

    def without(self, *given):
        return dataclasses.replace(plain(self, *given), by_sample=None)

    monkeypatch.setattr(type(backbone), "tail_loss", without)
    _check_alike(backbone, learn_embeddings(backbone, _tasks()), _tasks())


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.98), (torch.float16, 0.999)])
def test_the_gradient_of_a_half_precision_model_points_where_float32s_does(backbone, dtype, least) -> None:
    half = backbone_for(copy.deepcopy(backbone.model).to(dtype), backbone.processor, name="half")
    direction = torch.randn(1, backbone.dim, generator=torch.Generator().manual_seed(3)).requires_grad_()
    prompts, answers = ["Describe the image.", "Where?"], ["sks on a table", "a photo of sks"]
    gradients = []
    for one in (backbone, half):
        prefixes = one.prefixes(one.encode(PHOTOS))
        assert prefixes[0].keys[0].dtype == one.dtype
        loss = one.tail_loss(prefixes, prompts, answers, [[ConceptRows(direction)]] * 2)
        [gradient] = torch.autograd.grad(loss.cross_entropy + 0.25 * loss.attention, [direction])
        assert gradient.dtype == torch.float32
        gradients.append(gradient.flatten())
    assert torch.cosine_similarity(*gradients, dim=0).item() > least


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_learns_a_float32_embedding(backbone, dtype) -> None:
    half = backbone_for(copy.deepcopy(backbone.model).to(dtype), backbone.processor, name="half")
    losses: list[float] = []
    learned = learn_embedding(
        half,
        examples(),
        LearnSettings(steps=30, views=2, learning_rate=0.2),
        report=lambda step, cross_entropy, *_: losses.append(cross_entropy),
    )
    assert learned.directions.dtype == torch.float32
    assert not torch.equal(learned.directions, learned.directions.to(dtype).float())
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.01
