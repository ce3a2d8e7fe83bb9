"""Mllama: rows are in the cross-attention's states, and only the right samples attend to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from myvlm import Concept, MyVLM
from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones.families.mllama.adapter import MllamaBackbone
from myvlm.errors import BackboneError
from myvlm.testing import check_backbone
from tests.support.taught import COLOURS
from tests.support.tiny import pictures
from tests.support.tiny_recipes import TYPES

SIZES = [(40, 40), (70, 30), (30, 64)]
SHAPES = [picture.resize(size) for picture, size in zip(pictures(3), SIZES, strict=True)]
SKIPPED = ["kept_prefixes_change_nothing"]


def build() -> MllamaBackbone:
    return MllamaBackbone(*TYPES["mllama"]())


def test_mllama_keeps_the_contract() -> None:
    backbone = backbone_for(*TYPES["mllama"]())
    assert type(backbone) is MllamaBackbone
    outcomes = check_backbone(backbone, SHAPES)
    assert [outcome.check for outcome in outcomes if not outcome.passed] == SKIPPED


def seen(backbone: MllamaBackbone, rows: list[list[ConceptRows]]) -> dict[str, torch.Tensor]:
    """The language model's inputs for two pictures with prompts of different lengths."""
    given: list[dict[str, Any]] = []
    handle = backbone.language_model.register_forward_hook(
        lambda module, args, kwargs, output: given.append(kwargs), with_kwargs=True
    )
    inputs = backbone.prompter.processed(SHAPES[:2], ["What is next to sks?", "Where?"])
    try:
        with torch.no_grad(), backbone.inserted(rows):
            backbone.model(**inputs)
    finally:
        handle.remove()
    return {**given[0], "ids": inputs["input_ids"]}


def test_a_row_is_seen_by_the_tokens_that_see_its_picture_and_by_no_other() -> None:
    backbone = build()
    rows = [[ConceptRows(torch.ones(2, backbone.dim))], [ConceptRows(torch.ones(1, backbone.dim))]]
    given = seen(backbone, rows)
    columns = given["cross_attention_mask"][:, 0, :, -2:] == 0
    assert given["cross_attention_states"].shape[1] == given["cross_attention_mask"].shape[-1]
    for sample, (ids, count) in enumerate(zip(given["ids"].tolist(), (2, 1), strict=True)):
        first = ids.index(backbone.prompter.image_id)
        assert first > 0
        assert not columns[sample, :first].any()
        assert columns[sample, first:, :count].all()
        assert not columns[sample, :, count:].any()  # a row that only pads the batch


def test_empty_tiles_do_not_count_towards_a_rows_norm() -> None:
    backbone = build()
    feature = backbone.encode(SHAPES[:2])[1]
    assert len(feature) == 3 * feature.tile_tokens < len(feature.states) == 4 * feature.tile_tokens
    given = seen(backbone, [[ConceptRows(torch.ones(1, backbone.dim))]] * 2)
    entered, sizes = given["cross_attention_states"][1, -1], feature.states.norm(dim=-1)
    torch.testing.assert_close(entered.norm(), sizes[: len(feature)].mean())
    assert not torch.isclose(entered.norm(), sizes.mean(), rtol=1e-3)


def test_a_prompt_without_a_chat_template_is_the_base_models() -> None:
    model, processor = TYPES["mllama"]()
    processor.chat_template = None
    rendered = MllamaBackbone(model, processor).prompter.render("a haiku")
    assert rendered == "<|image|><|begin_of_text|>a haiku"


def test_a_template_without_a_beginning_of_sequence_is_learned_as_it_is_used() -> None:
    backbone = build()
    bos = backbone.processor.bos_token
    assert bos not in backbone.prompter.render("Where?")
    [used] = backbone.prompter.processed(SHAPES[:1], ["Where?"])["input_ids"].tolist()
    batch = backbone.read(["Where?"], ["a mug"])
    assert used[0] == backbone.processor.tokenizer.bos_token_id
    assert batch.ids[0, : batch.starts[0]].tolist() == used


def test_a_model_without_a_head_is_named() -> None:
    model, processor = TYPES["mllama"]()
    named = r"(?s)no language head.*MllamaModel.*AutoModelForImageTextToText"
    with pytest.raises(BackboneError, match=named):
        MllamaBackbone(model.model, processor)


def test_a_concept_is_learned_saved_and_used(tmp_path: Path) -> None:
    model, processor = TYPES["mllama"]()
    vlm = MyVLM(model, processor, encoder=COLOURS)
    photos = [Image.new("RGB", size, (200, 40 + 9 * n, 30)) for n, size in enumerate(SIZES)]
    mug = vlm.learn(
        "sks", photos, category="mug", captions=["sks on a table"] * 3, settings={"steps": 2, "views": 2},
        progress=False,
    )  # fmt: skip
    again = MyVLM(model, processor, encoder=COLOURS)
    again.concepts.add(Concept.load(mug.save(tmp_path / "sks")))
    prompt, concept = again.backbone.caption_prompt, again.concepts["sks"]
    rows = [[again.backbone.rows_of(concept)]]
    [taught], [plain] = (
        again.backbone.probe().next_logits(photos[:1], [prompt], own, [[]]) for own in (rows, [[]])
    )
    assert not torch.equal(taught, plain)
    looked = np.asarray(again.attention(photos[1], "sks"))
    assert looked.shape == (4, 9)
    assert abs(float(looked.sum()) - 1) < 1e-5
    assert again.attention(photos[1], "sks").overlay().size == photos[1].size
