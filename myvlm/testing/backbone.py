"""The contract of a backbone in use: each function asserts one property on a `BackboneCase`.

A check uses public methods of `Backbone` and its `probe`, and depends on no family. It raises SkipTest only
for what the family declares in `lacks`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import ConceptRows, NormRule
from myvlm.errors import InputError, MyVLMError
from myvlm.testing.backbone_case import SHORT, BackboneCase
from myvlm.testing.backbone_grid import attention_map_is_a_map, grid_lies_over_the_picture
from myvlm.testing.backbone_learning import (
    attention_is_eager_attention,
    bfloat16_learns_alike,
    features_give_the_pixels_loss,
    gradient_is_the_full_one,
    kept_prefixes_change_nothing,
    learning_reads_the_prompt_of_use,
)
from myvlm.testing.running import raised

COMPARED_TOKENS = 4
"""New tokens that are compared with full passes: each costs a pass for every beam."""


def nothing_attached_is_plain(case: BackboneCase) -> None:
    """Without rows, tokens are those of plain transformers, and using a concept leaves no trace in the
    logits.

    The logits without rows, before and after a concept was used, are equal bit for bit.
    """
    backbone, none, everyone = case.backbone, case.rows(0), range(len(case.images))
    inputs = case.probe.inputs(case.images, case.prompts)
    before = case.next_logits(everyone, none)
    with backbone.frozen(), torch.no_grad():
        plain = backbone.model.generate(**inputs, do_sample=False, num_beams=1, **SHORT)
    replies = backbone.generate(case.images, case.prompts, none, **SHORT)
    backbone.generate(case.images, case.prompts, case.rows(1), **SHORT)
    after = case.next_logits(everyone, none)
    assert [reply.token_ids.tolist() for reply in replies] == case.probe.reply_ids(plain, inputs)
    assert torch.equal(before, after), "the plain logits changed"


def rows_change_the_answer(case: BackboneCase) -> None:
    """Rows change the loss and the next-token logits, and different rows give different losses."""
    features = case.backbone.encode(case.images)
    kinds = case.rows(0), case.rows(1), case.rows(1, seed=1), case.rows(3)
    losses = [
        case.backbone.answer_loss(features, case.prompts, case.answers, rows).cross_entropy.item()
        for rows in kinds
    ]
    assert len(set(losses)) == len(losses), f"equal losses among {losses}"
    logits = [case.next_logits([0], rows) for rows in kinds]
    assert not any(torch.equal(logits[0], other) for other in logits[1:]), "rows do not affect generation"


def rows_land_exactly(case: BackboneCase) -> None:
    """Rows enter at their positions with the promised norm, and nothing else that a module reads changes."""
    probe = case.probe
    plain = probe.entered(*case.texts, case.rows(0))
    tokens = [probe.visual_tokens(feature) for feature in case.backbone.encode(case.images)]
    assert len(plain) == len(case.images)
    assert all(plain), "`entered` names no module that reads rows"
    for norm in get_args(NormRule):
        rows = case.rows(0, 1, 3, norm=norm)
        for index, modules in enumerate(probe.entered(*case.texts, rows)):
            count = sum(concept.count for concept in rows[index])
            for found, without in zip(modules, plain[index], strict=True):
                start, end = without.place, without.place + count
                got = found.states
                assert len(got) == len(without.states) + count, f"{len(got)} states with {count} rows"
                assert torch.equal(got[:start], without.states[:start]), "a state before the rows changed"
                assert torch.equal(got[end:], without.states[start:]), "a state after the rows changed"
                if count:
                    expected = _expected_rows(rows[index], tokens[index])
                    torch.testing.assert_close(got[start:end], expected.to(got))
                if found.mapped is None or found.rescaled is None:
                    continue
                own, made = found.rescaled[:start], found.rescaled[start:end]
                assert torch.equal(own, found.mapped[:start]), "a key or value of the picture changed"
                target = _norms(own)[norm]
                raw = found.mapped[start:end]
                torch.testing.assert_close(made, raw if target is None else _at_norm(raw, target))


def _expected_rows(sample: Sequence[ConceptRows], tokens: Tensor) -> Tensor:
    """The rows of a sample as they must enter beside these visual tokens."""
    rows = []
    for concept in sample:
        own, target = concept.directions.detach(), _norms(tokens)[concept.norm]
        rows.append(own if target is None else _at_norm(own, target.to(own)))
    return torch.cat(rows)


def _norms(tokens: Tensor) -> dict[str, Tensor | None]:
    sizes = tokens.norm(dim=-1)
    return {"visual_mean": sizes.mean(), "first_patch": sizes[0], "none": None}


def _at_norm(rows: Tensor, norm: Tensor) -> Tensor:
    return functional.normalize(rows, dim=-1) * norm


def batch_is_singles(case: BackboneCase) -> None:
    """A batch generates the tokens of each sample alone, greedily and with beams.

    The samples have 0, 1 and 3 rows and prompts of different lengths.
    """
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
    """A padded batch has the first new token's logits of each sample alone."""
    rows = case.rows(1, 3)
    together = case.next_logits(range(len(case.images)), rows)
    alone = [case.next_logits([index], rows) for index in range(len(case.images))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def pictures_are_read_once_for_several_prompts(case: BackboneCase) -> None:
    """Replies to several prompts about each picture are those to each prompt alone, picture by picture."""
    together = case.backbone.replies_to_each(case.images, case.prompts, **SHORT)
    assert len(together) == len(case.images)
    for image, own in zip(case.images, together, strict=True):
        for prompt, reply in zip(case.prompts, own, strict=True):
            [alone] = case.backbone.generate([image], [prompt], [[]], **SHORT)
            assert torch.equal(reply.token_ids, alone.token_ids), (
                f"{prompt!r}: {reply.text!r}, alone {alone.text!r}"
            )


def cache_changes_nothing(case: BackboneCase) -> None:
    """Greedy and beam search generate the tokens of a search by full passes without a cache."""
    rows, tokenizer = case.rows(0, 1, 3), case.backbone.processor.tokenizer
    # A random model may generate these tokens, which are not read as text.
    suppressed = sorted({*case.probe.special_ids, tokenizer.pad_token_id} - {None})
    for beams in (1, 3):
        replies = case.backbone.generate(
            case.images,
            case.prompts,
            rows,
            num_beams=beams,
            max_new_tokens=COMPARED_TOKENS,
            min_new_tokens=COMPARED_TOKENS,  # equal lengths: no beam ends before another
            suppress_tokens=suppressed,
        )
        for index, reply in enumerate(replies):
            expected = _beam_search(case, rows, index, beams, suppressed)
            assert reply.token_ids.tolist() == expected, f"sample {index}, {beams} beams: {reply.text!r}"


def _beam_search(
    case: BackboneCase,
    rows: Sequence[Sequence[ConceptRows]],
    index: int,
    beams: int,
    suppressed: Sequence[int],
) -> list[int]:
    """The tokens that a beam search by full passes generates for one sample."""
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(COMPARED_TOKENS):
        scores = case.next_logits([index] * len(kept), rows, [said for _, said in kept]).log_softmax(-1)
        scores[:, [*suppressed, *case.probe.eos_ids]] = -torch.inf
        best = scores.topk(beams)
        longer = [
            (total + score, [*said, token])
            for (total, said), values, tokens in zip(kept, best.values, best.indices, strict=True)
            for score, token in zip(values.tolist(), tokens.tolist(), strict=True)
        ]
        kept = sorted(longer, reverse=True)[:beams]
    return kept[0][1]


def everything_is_restored(case: BackboneCase) -> None:
    """After use or an error, hooks, modes, flags, configuration and embedding table are as before."""
    backbone, model = case.backbone, case.backbone.model
    modes = [(module, module.training) for module in model.modules()]
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    case.next_logits([0], case.rows(0))  # transformers adds hooks of its own on a model's first pass
    try:
        for number, (module, _) in enumerate(modes):
            module.training = number % 2 == 0
        for number, (weight, _) in enumerate(flags):
            weight.requires_grad_(number % 3 == 0)
        before, table = case.state(), model.get_input_embeddings().weight.detach().clone()
        rows, features = case.rows(0, 1), backbone.encode(case.images)
        backbone.generate(case.images, case.prompts, rows, **SHORT)
        backbone.answer_loss(features, case.prompts, case.answers, rows)
        if "attention_map" not in case.lacks:
            backbone.attention_map(case.images[1], case.prompts[1], case.answers[1], case.identifier, rows[1])
        _assert_state_unchanged(case.state(), before)
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
        _assert_state_unchanged(case.state(), before)
        assert torch.equal(model.get_input_embeddings().weight, table)
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, flag in flags:
            weight.requires_grad_(flag)


def wrong_inputs_raise(case: BackboneCase) -> None:
    """Lists of unequal length, rows of another width and misuse raise errors and leave nothing behind."""
    backbone, before, rows = case.backbone, case.state(), case.rows(1)
    features = backbone.encode(case.images)
    wide = [[ConceptRows(torch.ones(1, backbone.dim + 1))] for _ in case.images]
    for wrong, what in ((rows[:-1], "rows for fewer samples"), (wide, "rows of another width")):
        raised(InputError, partial(backbone.generate, case.images, case.prompts, wrong, **SHORT), what)
        raised(InputError, partial(backbone.answer_loss, features, case.prompts, case.answers, wrong), what)
    for what, use in case.probe.misuses(case.images, case.prompts, rows).items():
        raised(MyVLMError, use, what)
    _assert_state_unchanged(case.state(), before)


def _assert_state_unchanged(after: dict[str, Any], before: dict[str, Any]) -> None:
    changed = [name for name in before if after[name] != before[name]]
    assert not changed, f"left changed: {', '.join(changed)}"


def fingerprint_names_the_weights(case: BackboneCase) -> None:
    """The fingerprint is the same in float32, bfloat16 and float16, and another for other weights."""
    name = case.backbone.fingerprint()
    for dtype in (torch.bfloat16, torch.float16):
        model = copy.deepcopy(case.backbone.model).to(dtype)
        assert type(case.backbone)(model, case.backbone.processor).fingerprint() == name, (
            f"the fingerprint differs in {dtype}"
        )
    other = copy.deepcopy(case.backbone.model)
    with torch.no_grad():
        other.get_input_embeddings().weight.neg_()
    assert type(case.backbone)(other, case.backbone.processor).fingerprint() != name, (
        "the fingerprint is the same for other weights"
    )


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


BACKBONE_CHECKS: list[Callable[[BackboneCase], None]] = [
    nothing_attached_is_plain,
    rows_change_the_answer,
    rows_land_exactly,
    batch_is_singles,
    left_padding_changes_nothing,
    pictures_are_read_once_for_several_prompts,
    cache_changes_nothing,
    everything_is_restored,
    learning_reads_the_prompt_of_use,
    features_give_the_pixels_loss,
    gradient_is_the_full_one,
    kept_prefixes_change_nothing,
    attention_is_eager_attention,
    attention_map_is_a_map,
    grid_lies_over_the_picture,
    bfloat16_learns_alike,
    wrong_inputs_raise,
    fingerprint_names_the_weights,
]
