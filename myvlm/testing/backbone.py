"""The contract of a backbone: one function a promise, each asserts on a `BackboneCase`.

Run by `myvlm.testing.check_backbone`. A check that has nothing to check on a family raises SkipTest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from myvlm.backbones.base import NormRule
from myvlm.errors import BackboneError
from myvlm.testing.backbone_case import SHORT, BackboneCase
from myvlm.testing.backbone_learning import (
    attention_is_eager_attention,
    bfloat16_learns_alike,
    features_give_the_pixels_loss,
    gradient_is_the_full_one,
    kept_prefixes_change_nothing,
    learning_reads_the_prompt_of_use,
)
from myvlm.testing.backbone_qformer import (
    QFormerCase,
    replies_are_those_of_full_passes,
    rows_land_in_the_qformer,
    wrong_pictures_raise,
)


def nothing_attached_is_plain(case: BackboneCase) -> None:
    """Without rows: the tokens of plain transformers. After a concept: its logits, bit for bit."""
    backbone, inputs = case.backbone, case.processed()
    with backbone.frozen(), torch.no_grad():
        before = case.plain_logits(inputs)
        plain = backbone.model.generate(**inputs, do_sample=False, num_beams=1, **SHORT)
        replies = backbone.generate(case.images, case.prompts, case.rows(0), **SHORT)
        backbone.generate(case.images, case.prompts, case.rows(1), **SHORT)
        after = case.plain_logits(inputs)
    assert [reply.token_ids.tolist() for reply in replies] == case.said(plain, inputs)
    assert torch.equal(before, after), "the plain logits changed"


def rows_change_the_answer(case: BackboneCase) -> None:
    """A concept changes what the model finds likely, and another concept changes it otherwise."""
    features = case.backbone.encode(case.images)
    losses = [
        case.backbone.answer_loss(features, case.prompts, case.answers, rows).cross_entropy.item()
        for rows in (case.rows(0), case.rows(1), case.rows(1, seed=1), case.rows(3))
    ]
    assert len(set(losses)) == len(losses), f"equal losses among {losses}"


def rows_land_exactly(case: BackboneCase) -> None:
    """Rows stand right after the image at the promised norm, and every other embedding is untouched."""
    if isinstance(case, QFormerCase):
        return rows_land_in_the_qformer(case)
    backbone, seen = case.language_rows, []
    handle = backbone.language_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    norms: tuple[NormRule, ...] = ("visual_mean", "first_patch", "none")
    try:
        plain = case.batch(case.rows(0))
        case.pixel_pass(case.rows(0), plain)
        for norm in norms:
            rows = case.rows(0, 1, 3, norm=norm)
            batch = case.batch(rows)
            case.pixel_pass(rows, batch)
            features = [feature.tokens.cpu() for feature in backbone.encode(case.images)]
            for index, sample in enumerate(rows):
                count, length = sum(r.count for r in sample), int(plain.attention_mask[index].sum())
                image_end = int((plain.ids[index] == backbone.image_id).nonzero().max()) + 1
                got, without = seen[-1][index], seen[0][index, :length]
                assert torch.equal(got[:image_end], without[:image_end]), (
                    "an embedding before the rows changed"
                )
                assert torch.equal(got[image_end + count : length + count], without[image_end:]), (
                    "one after them"
                )
                sizes = features[index].norm(dim=-1)
                targets = {"visual_mean": sizes.mean(), "first_patch": sizes[0]}
                expected = [
                    r.directions
                    if norm == "none"
                    else r.directions / r.directions.norm(dim=-1, keepdim=True) * targets[norm]
                    for r in sample
                ]
                if expected:
                    torch.testing.assert_close(
                        got[image_end : image_end + count], torch.cat(expected).detach().to(got)
                    )
    finally:
        handle.remove()


def batch_is_singles(case: BackboneCase) -> None:
    """0, 1 and 3 rows, prompts of different lengths: together, greedily and by beams, each alone's tokens."""
    rows = case.rows(0, 1, 3)
    for beams in (1, 3):
        options = {**SHORT, "num_beams": beams}
        together = case.backbone.generate(case.images, case.prompts, rows, **options)
        for index, reply in enumerate(together):
            sample = [case.images[index]], [case.prompts[index]], [rows[index]]
            [alone] = case.backbone.generate(*sample, **options)
            assert torch.equal(reply.token_ids, alone.token_ids), (
                f"sample {index}, {beams} beams: {reply.text!r}, alone {alone.text!r}"
            )


def left_padding_changes_nothing(case: BackboneCase) -> None:
    """The first new token's logits of a left-padded batch are those of each sample alone."""
    together = case.first_logits(range(len(case.images)), case.rows(1, 3))
    alone = [case.first_logits([index], case.rows(1, 3)) for index in range(len(case.images))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def cache_changes_nothing(case: BackboneCase) -> None:
    """Greedy tokens and beams are those of full passes without a cache, and the first is the likeliest."""
    if isinstance(case, QFormerCase):
        return replies_are_those_of_full_passes(case)
    backbone, rows = case.language_rows, case.rows(0, 1, 3)
    # A random model may say an image placeholder: without a cache transformers then looks for its image.
    options = {**SHORT, "suppress_tokens": [backbone.image_id]}
    for beams in (1, 3):
        cached, full = (
            backbone.generate(case.images, case.prompts, rows, num_beams=beams, use_cache=cache, **options)
            for cache in (True, False)
        )
        assert [c.token_ids.tolist() for c in cached] == [f.token_ids.tolist() for f in full], (
            f"{beams} beams"
        )
    likely = case.first_logits(range(len(rows)), rows)
    likely[:, [backbone.image_id, backbone.prompter.sentinel_id]] = -torch.inf
    greedy = backbone.generate(case.images, case.prompts, rows, **options)
    for logits, reply in zip(likely, greedy, strict=True):
        first = reply.token_ids[:1].tolist() or backbone.prompter.eos_ids
        assert int(logits.argmax()) in first, f"{reply.text!r} does not begin with the likeliest token"


def everything_is_restored(case: BackboneCase) -> None:
    """Hooks, modes, flags, configuration and embedding table are as before, also after an error."""
    backbone, model = case.backbone, case.backbone.model
    modes = [(module, module.training) for module in model.modules()]
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for number, (module, _) in enumerate(modes):
            module.training = number % 2 == 0
        for number, (weight, _) in enumerate(flags):
            weight.requires_grad_(number % 3 == 0)
        before, table = case.state(), model.get_input_embeddings().weight.detach().clone()
        rows, features = case.rows(0, 1), backbone.encode(case.images)
        backbone.generate(case.images, case.prompts, rows, **SHORT)
        backbone.answer_loss(features, case.prompts, case.answers, rows)
        backbone.attention_map(case.images[1], case.prompts[1], case.answers[1], case.identifier, rows[1])
        assert case.state() == before
        handle = model.get_output_embeddings().register_forward_pre_hook(_fail)
        try:
            for failing in (
                lambda: backbone.generate(case.images, case.prompts, rows, **SHORT),
                lambda: backbone.answer_loss(features, case.prompts, case.answers, rows),
            ):
                try:
                    failing()
                except ZeroDivisionError:
                    continue
                raise AssertionError("an error inside the model was swallowed")
        finally:
            handle.remove()
        assert case.state() == before, "after an error"
        assert torch.equal(model.get_input_embeddings().weight, table)
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, flag in flags:
            weight.requires_grad_(flag)


def attention_map_is_a_map(case: BackboneCase) -> None:
    """Finite, not negative, sum 1, over the image's tokens; and not the same for every word."""
    rows, answer = case.rows(1)[0], f"a photo of {case.identifier} on the table"
    said, unsaid = (
        case.backbone.attention_map(case.images[0], case.prompts[0], text, case.identifier, rows)
        for text in (answer, "a photo")
    )
    for found in (said, unsaid):
        assert found.ndim == 2
        assert found.dtype == "float32"
        assert (found >= 0).all()
        assert abs(float(found.sum()) - 1) < 1e-5, f"sum {found.sum()}"
    assert (said != unsaid).any(), "the word's attention is the rows' attention"


def wrong_counts_raise(case: BackboneCase) -> None:
    """More or fewer places than rows is an error, and leaves nothing behind."""
    if isinstance(case, QFormerCase):
        return wrong_pictures_raise(case)
    batch, before = case.batch(case.rows(1)), case.state()
    for rows in (case.rows(0), case.rows(3)):
        backbone = case.language_rows
        try:
            with backbone.frozen(), backbone.inserted(rows):
                backbone.model(input_ids=batch.ids.to(backbone.device))
        except BackboneError:
            continue
        raise AssertionError("a wrong number of places for rows went unnoticed")
    assert case.state() == before


def fingerprint_names_the_weights(case: BackboneCase) -> None:
    """The same in float32, bfloat16 and float16; another for other weights."""
    name = case.backbone.fingerprint()
    for dtype in (torch.bfloat16, torch.float16):
        model = copy.deepcopy(case.backbone.model).to(dtype)
        assert type(case.backbone)(model, case.backbone.processor).fingerprint() == name, (
            f"another in {dtype}"
        )
    other = copy.deepcopy(case.backbone.model)
    with torch.no_grad():
        other.get_input_embeddings().weight.neg_()
    assert type(case.backbone)(other, case.backbone.processor).fingerprint() != name, (
        "the same for other weights"
    )


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


BACKBONE_CHECKS: list[Callable[[BackboneCase], None]] = [
    nothing_attached_is_plain,
    rows_change_the_answer,
    rows_land_exactly,
    batch_is_singles,
    left_padding_changes_nothing,
    cache_changes_nothing,
    everything_is_restored,
    learning_reads_the_prompt_of_use,
    features_give_the_pixels_loss,
    gradient_is_the_full_one,
    kept_prefixes_change_nothing,
    attention_is_eager_attention,
    attention_map_is_a_map,
    bfloat16_learns_alike,
    wrong_counts_raise,
    fingerprint_names_the_weights,
]
