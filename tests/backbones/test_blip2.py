"""BLIP-2 with OPT and T5: the contract, the plain model, and a cross-attention written by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from myvlm.backbones import ConceptRows
from myvlm.backbones.qformer import hooks as qformer
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.testing import BACKBONE_CHECKS, check_backbone
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import ANSWERS, PROMPTS, QUERIES, SHORT, rows, tiny_blip2, vectors


@pytest.fixture(scope="session", params=["opt", "t5"])
def made(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return tiny_blip2(language=request.param)


@pytest.fixture
def backbone(made: tuple[Any, Any]) -> Blip2Backbone:
    return Blip2Backbone(copy.deepcopy(made[0]), copy.deepcopy(made[1]))


# ---------------------------------------------------------------- the contract


def test_blip2_keeps_the_contract(made: tuple[Any, Any]) -> None:
    outcomes = check_backbone(Blip2Backbone(*made), pictures(3))
    assert [outcome.check for outcome in outcomes] == [check.__name__ for check in BACKBONE_CHECKS]
    skipped = {outcome.check: outcome.skipped for outcome in outcomes if not outcome.passed}
    assert skipped == {"kept_prefixes_change_nothing": "the tokens before the concept depend on it"}


def _scaled(factor: float) -> Any:
    def wrong(states: torch.Tensor, appended: Any) -> torch.Tensor:
        made = RESCALED(states, appended)
        return torch.cat([made[:, : appended.tokens], made[:, appended.tokens :] * factor], dim=1)

    return wrong


RESCALED = qformer.rescaled


class Broken(Blip2Backbone):
    """Each method breaks one requirement; the class is not registered."""

    broken = ""

    def inserted(self, rows: Any, *, record: bool = False) -> Any:
        insertion = super().inserted(rows, record=record)
        if self.broken == "mask":
            append = insertion._appended_columns

            def unmasked(images: Any, mask: Any) -> Any:
                appended = append(images, mask)
                appended.mask.fill_(True)
                return appended

            insertion._appended_columns = unmasked  # type: ignore[method-assign]
        if self.broken == "penalty":
            penalty = insertion.penalty
            insertion.penalty = lambda: penalty() * 1.01  # type: ignore[method-assign]
        if self.broken == "hooks":
            insertion.remove = lambda: None  # type: ignore[method-assign]
        return insertion

    def generate(self, images: Any, prompts: Any, rows: Any, **generation: Any) -> Any:
        if self.broken == "beams":
            generation = {**generation, "num_beams": 1}
        return super().generate(images, prompts, rows, **generation)

    def encode(self, images: Any) -> Any:
        features = super().encode(images)
        return [feature * 1.001 for feature in features] if self.broken == "features" else features


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("rescale", "rows_land_exactly"),
        ("mask", "left_padding_changes_nothing"),
        ("penalty", "attention_is_eager_attention"),
        ("features", "rows_land_exactly"),
        ("beams", "cache_changes_nothing"),
        ("hooks", ""),
    ],
)
def test_the_contract_notices_a_broken_promise(
    broken: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Broken(*tiny_blip2())
    faulty.broken = broken
    if broken == "rescale":
        monkeypatch.setattr(qformer, "rescaled", _scaled(1.01))
    with pytest.raises(AssertionError, match=f"^{check}"):
        check_backbone(faulty, pictures(3))


# ---------------------------------------------------------------- plain


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "top_k": 5},
        {"generation_config": GenerationConfig(max_new_tokens=4)},
    ],
    ids=["greedy", "beams", "sampling", "config"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_where_nothing_is_recognised_it_is_the_plain_model(
    backbone: Blip2Backbone, options: dict[str, Any], count: int
) -> None:
    images, prompts = pictures(count), PROMPTS[:count]
    inputs = backbone.prompter.processed(images, prompts)
    options = options if "generation_config" in options else {**SHORT, **options}
    torch.manual_seed(3)
    plain = backbone.model.generate(**inputs, **{"do_sample": False, **options})
    torch.manual_seed(3)
    replies = backbone.generate(images, prompts, rows(*[0] * count), **options)
    expected = [backbone.prompter.reply(ids) for ids in backbone.prompter.new_ids(plain, inputs)]
    assert [reply.text for reply in replies] == [text for text, _ in expected]
    assert all(torch.equal(r.token_ids, ids) for r, (_, ids) in zip(replies, expected, strict=True))
    assert any(reply.token_ids.numel() for reply in replies)


def test_without_rows_the_logits_are_equal_to_the_bit(backbone: Blip2Backbone) -> None:
    batch = backbone.prompter.teacher_forced(PROMPTS, ANSWERS)
    pixels = backbone.processor.image_processor(pictures(3), return_tensors="pt")["pixel_values"]
    inputs = {"labels": batch.labels, **batch.inputs, "pixel_values": pixels}
    with torch.no_grad():
        plain = backbone.model(**inputs).logits
        with backbone.inserted(rows(0, 0, 0)):
            empty = backbone.model(**inputs).logits
        with backbone.inserted(rows(0, 1, 0)):
            mixed = backbone.model(**inputs).logits
        after = backbone.model(**inputs).logits
        kept, _ = backbone._forward(backbone.encode(pictures(3)), batch, rows(0, 0, 0))
    assert torch.equal(plain, empty)
    assert torch.equal(plain, after)
    torch.testing.assert_close(plain, kept, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain[::2], mixed[::2], rtol=1e-5, atol=1e-5)
    assert (plain[1] - mixed[1]).abs().max() > 1e-3


def test_a_picture_without_a_text_is_captioned_as_transformers_does(backbone: Blip2Backbone) -> None:
    pixels = backbone.processor.image_processor(pictures(1), return_tensors="pt")["pixel_values"]
    ids = torch.tensor([backbone.prompter.prompt_ids(backbone.caption_prompt)])
    own = backbone.model.generate(pixel_values=pixels, do_sample=False, **SHORT)
    [reply] = backbone.generate(pictures(1), [backbone.caption_prompt], rows(0), **SHORT)
    assert ids.tolist() == [[backbone.prompter.image_id] * QUERIES + [3]]  # </s> starts OPT's, ends T5's
    new = backbone.prompter.new_ids(own, {"input_ids": ids})[0]
    assert torch.equal(reply.token_ids, backbone.prompter.reply(new)[1])


def test_samples_with_and_without_concepts_run_apart(
    backbone: Blip2Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    generate = backbone.model.generate

    def spy(**kwargs: Any) -> Any:
        sizes.append((len(kwargs["pixel_values"]), len(backbone.model.qformer._forward_pre_hooks)))
        return generate(**kwargs)

    monkeypatch.setattr(backbone.model, "generate", spy)
    backbone.generate(pictures(3), PROMPTS, rows(1, 0, 2), **SHORT)
    assert sizes == [(1, 0), (2, 1)]


# ---------------------------------------------------------------- by hand


def by_hand(layer: Any, samples: list[list[ConceptRows]], squares: list[torch.Tensor]) -> Any:
    """A cross-attention forward per sample, head and row, without mask or padding."""

    def forward(hidden_states: Any, encoder_hidden_states: Any, **_: Any) -> tuple[Any, None]:
        outputs, penalties = [], []
        for query, image, sample in zip(hidden_states, encoder_hidden_states, samples, strict=True):
            keys = image @ layer.key.weight.T + layer.key.bias
            values = image @ layer.value.weight.T + layer.value.bias
            sizes = [states.norm(dim=-1).mean() for states in (image, keys, values)]
            for concept in sample:
                for vector in concept.directions.to(image.dtype):
                    row = vector / vector.norm() * sizes[0]
                    key = layer.key.weight @ row + layer.key.bias
                    value = layer.value.weight @ row + layer.value.bias
                    keys = torch.cat([keys, (key / key.norm() * sizes[1])[None]])
                    values = torch.cat([values, (value / value.norm() * sizes[2])[None]])
            asked = query @ layer.query.weight.T + layer.query.bias
            heads = []
            for head in range(layer.num_attention_heads):
                part = slice(head * layer.attention_head_size, (head + 1) * layer.attention_head_size)
                scores = asked[:, part] @ keys[:, part].T / layer.attention_head_size**0.5
                weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
                heads.append(weights @ values[:, part])
                penalties += [weights[:, len(image) :].pow(2).mean()] if sample else []
            outputs.append(torch.cat(heads, dim=-1))
        squares.append(torch.stack(penalties).mean())
        return torch.stack(outputs), None

    return forward


def hand_written(
    backbone: Blip2Backbone, samples: list[list[ConceptRows]], monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, loss and penalty of the teacher-forced batch, from pixels."""
    squares: list[torch.Tensor] = []
    batch = backbone.prompter.teacher_forced(PROMPTS, ANSWERS)
    pixels = backbone.processor.image_processor(pictures(3), return_tensors="pt")["pixel_values"]
    with monkeypatch.context() as patched, backbone.frozen():
        for layer in backbone.inserted(samples).layers:
            patched.setattr(layer, "forward", by_hand(layer, samples, squares))
        inputs = {**batch.inputs, "pixel_values": pixels.to(backbone.dtype)}
        logits = backbone.model(**inputs).logits
    assert len(squares) == 2
    shift = 1 if backbone.prompter.causal else 0
    spots = [(i, n) for i, n in (batch.labels != -100).nonzero().tolist()]
    said = [logits[i, n - shift].log_softmax(-1)[batch.labels[i, n]] for i, n in spots]
    return logits, -torch.stack(said).mean(), torch.stack(squares).sum()


def calmed(model: Any, factor: float = 0.4) -> None:
    """Scale random weights down so that a layer roughly preserves its input, as in a checkpoint.

    The tiny model's layers amplify 1.7-fold, and its softmaxes are nearly one-hot: float32 gradients are then
    5e-6 to 4e-5 from the float64 one in either implementation.
    """
    with torch.no_grad():
        for part in (model.qformer, model.language_projection, model.language_model):
            for linear in (module for module in part.modules() if isinstance(module, torch.nn.Linear)):
                linear.weight.mul_(factor)


@pytest.mark.parametrize(
    ("dtype", "logits_within", "gradient_within"),
    [(torch.float32, 1e-5, 1e-6), (torch.float64, 1e-12, 1e-12)],
)
def test_it_is_the_cross_attention_written_by_hand(
    made: tuple[Any, Any],
    dtype: torch.dtype,
    logits_within: float,
    gradient_within: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Logits are compared by element, gradients by the norm of the difference relative to the norm."""
    backbone = Blip2Backbone(copy.deepcopy(made[0]).to(dtype), made[1])
    if dtype == torch.float32:
        calmed(backbone.model)
    samples = rows(1, 3, 2, dtype=dtype)
    logits, loss, penalty = hand_written(backbone, samples, monkeypatch)
    batch = backbone.prompter.teacher_forced(PROMPTS, ANSWERS)
    features = backbone.encode(pictures(3))
    ours, _ = backbone._forward(features, batch, samples)
    plain, _ = backbone._forward(features, batch, rows(0, 0, 0))
    found = backbone.answer_loss(features, PROMPTS, ANSWERS, samples)
    assert (ours - logits).abs().max() <= logits_within
    assert (ours - plain).abs().max() > 1e3 * logits_within, "the rows count"
    for one, other in ((found.cross_entropy, loss), (found.attention, penalty)):
        assert (one - other).abs() <= gradient_within * other.abs()
        got, expected = (
            torch.cat(
                [part.flatten() for part in torch.autograd.grad(of, vectors(samples), retain_graph=True)]
            )
            for of in (one, other)
        )
        assert expected.norm() > 0
        assert (got - expected).norm() <= gradient_within * expected.norm()


def test_rows_of_norm_none_enter_as_they_are(backbone: Blip2Backbone) -> None:
    features = backbone.encode(pictures(1))

    def loss(norm: Any, factor: float) -> torch.Tensor:
        [[concept]] = rows(1, norm=norm)
        longer = [[ConceptRows(concept.directions.detach() * factor, norm)]]
        return backbone.answer_loss(features, PROMPTS[1:2], ANSWERS[1:2], longer).cross_entropy

    torch.testing.assert_close(loss("visual_mean", 1.0), loss("visual_mean", 9.0), rtol=1e-5, atol=1e-5)
    assert (loss("none", 1.0) - loss("none", 9.0)).abs() > 1e-3
    assert (loss("first_patch", 1.0) - loss("visual_mean", 1.0)).abs() > 1e-5


def test_a_key_of_nothing_gives_numbers(backbone: Blip2Backbone) -> None:
    with torch.no_grad():
        for layer in backbone.inserted(rows(1)).layers:
            layer.key.bias.zero_()
            layer.value.bias.zero_()  # the padding's keys and values are then zero
    samples = rows(1, 3)
    loss = backbone.answer_loss(backbone.encode(pictures(2)), PROMPTS[:2], ANSWERS[:2], samples)
    gradients = torch.autograd.grad(loss.cross_entropy + loss.attention, vectors(samples))
    assert loss.cross_entropy.isfinite()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
