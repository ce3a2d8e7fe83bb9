"""The adapters' choices for the published configurations of the checkpoints in the README, without weights.

The facts of each checkpoint, their sources and what is unconfirmed are in `tests/support/checkpoints/`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from myvlm.backbones import backbone_for
from myvlm.backbones import tokens as texts
from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.learning import LearnSettings
from tests.support.checkpoint_facts import NAMES, facts, published

# PaliGemma's processor uses a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

README = Path(__file__).parents[2] / "README.md"
IN_VOCABULARY = [name for name in NAMES if facts(name)["expected"]["sentinel"] is not None]
ONE_SIZE = [
    name
    for name in NAMES  # the others read values of tensors, which the meta device does not have
    if facts(name)["config"]["model_type"] not in {"qwen2_5_vl", "mistral3", "idefics3", "glm4v", "molmo2"}
    and "image_grid_pinpoints" not in facts(name)["config"]
]
PROJECTORS = ("multi_modal_projector", "connector", "merger")


@cache
def backbone(name: str) -> Any:
    return backbone_for(*published(name))


def expected(name: str) -> dict[str, Any]:
    known: dict[str, Any] = facts(name)["expected"]
    return known


def mark(own: Any) -> str:
    """The placeholder of a visual token in the tokenizer."""
    token: str = own.processor.tokenizer.convert_ids_to_tokens(own.prompter.image_id)
    return token


@cache
def written(name: str) -> str:
    """What the processor writes for a picture of the size given in the facts."""
    _, [text] = backbone(name).read([shown(name)])
    return str(text)


def shown(name: str) -> Image.Image:
    return Image.new("RGB", tuple(expected(name)["picture"]))


def test_every_checkpoint_of_the_readme_has_its_facts() -> None:
    readme = README.read_text(encoding="utf-8")
    table = "\n".join(line for line in readme.splitlines() if re.match(r"\|.*\| .*GB \|", line))
    named = set(re.findall(r"`([\w-]+/[\w.-]+)`", table))
    named |= set(re.findall(r'from_pretrained\("([\w-]+/[\w.-]+)"\)', readme)) - {"tinyworld/llava"}
    assert len(named) >= 14
    known = {facts(name)["checkpoint"] for name in NAMES}
    assert named | {"MiniGPT-v2"} == known, "README and tests/support/checkpoints/ do not name the same"


def test_the_readme_says_how_many_facts_of_a_checkpoint_are_unconfirmed() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.endswith("| no |")]
    told: dict[str, int] = {}
    for row in rows:
        named = re.findall(r"`([\w-]+/[\w.-]+)`", row) or re.findall(r"^\| (MiniGPT-v2)", row)
        counts = [int(count) for count in row.split("|")[-3].split(",") if count.strip().isdigit()]
        told |= dict(zip(named, counts, strict=True))
    assert told == {facts(name)["checkpoint"]: len(facts(name)["unconfirmed"]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_facts_have_a_source_and_say_what_is_not_confirmed(name: str) -> None:
    known = facts(name)
    assert name == known["checkpoint"].replace("/", "__")
    assert known["source"]
    assert all(known["source"])
    assert known["unconfirmed"]
    assert all(fact.endswith(".") for fact in known["unconfirmed"])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_the_published_one_without_weights(name: str) -> None:
    model = backbone(name).model
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert model.get_input_embeddings().num_embeddings == expected(name)["rows"]
    assert len(backbone(name).processor.tokenizer) == facts(name)["tokenizer"]["length"]


@pytest.mark.parametrize("name", NAMES)
def test_family_and_width(name: str) -> None:
    assert backbone(name).family == expected(name)["family"]
    assert backbone(name).dim == expected(name)["dim"]


@pytest.mark.parametrize("name", NAMES)
def test_the_image_token_is_the_processors_and_in_the_embedding_table(name: str) -> None:
    own = backbone(name)
    assert own.prompter.image_id == expected(name)["image_id"] < expected(name)["rows"]
    if name in IN_VOCABULARY:
        assert written(name).count(mark(own)) > 0
    else:
        assert mark(own) == str(own.processor.image_token)


@pytest.mark.parametrize("name", NAMES)
def test_the_caption_prompt_is_the_documented_one(name: str) -> None:
    own = backbone(name)
    rendered = own.prompter.render(own.caption_prompt)
    *long, end = expected(name)["prompt"].split("…")  # a long system prompt is abbreviated
    assert rendered == end if not long else rendered.endswith(end) and all(part in rendered for part in long)
    placeholders = rendered.count(str(own.processor.image_token))
    in_text = expected(name)["sentinel"] is not None  # BLIP-2's processor inserts its own
    assert placeholders == expected(name).get("placeholders", int(in_text))


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_ends_where_the_template_ends_a_turn(name: str) -> None:
    assert backbone(name).prompter.eos_ids[0] == expected(name)["first_eos"]
    assert set(backbone(name).prompter.eos_ids) == set(facts(name)["eos"])


# ------------------------------------------------------------------ the id that stands for a row


def check_sentinel(own: Any) -> int:
    """It is a row of the embedding table that no text the model reads or writes here uses otherwise."""
    sentinel: int = own.prompter.sentinel_id
    tokenizer = own.processor.tokenizer
    assert 0 <= sentinel < own.model.get_input_embeddings().num_embeddings
    named = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert sentinel not in named | {own.image_id} | set(own.prompter.eos_ids)
    assert sentinel not in texts.image_marker_ids(own.processor)
    prompt = own.prompter.prompt_ids(own.caption_prompt, mark(own))
    assert sentinel not in prompt + own.prompter.answer_ids(own.caption_prompt, "a mug")
    assert prompt.count(own.image_id) == 1
    return sentinel


@pytest.mark.parametrize("name", IN_VOCABULARY)
def test_the_sentinel_is_free_on_the_published_vocabulary(name: str) -> None:
    assert check_sentinel(backbone(name)) == expected(name)["sentinel"]


def test_reserved_tokens_come_before_others_where_no_row_is_spare() -> None:
    name = "OpenFace-CQUPT__Human_LLaVA"
    own = backbone_for(*published(name, rows=facts(name)["tokenizer"]["length"]))
    assert check_sentinel(own) == expected(name)["sentinel_without_spare"]


@pytest.mark.parametrize("name", IN_VOCABULARY)
def test_sentinels_stand_behind_the_image(name: str) -> None:
    own = backbone(name)
    prompt = own.prompter.prompt_ids(own.caption_prompt, mark(own))
    taught = own.prompter.with_sentinels(prompt, [ConceptRows(torch.ones(2, own.dim))])
    place = taught.index(own.image_id)
    assert taught[place : place + 3] == [own.image_id, *[expected(name)["sentinel"]] * 2]
    assert len(taught) == len(prompt) + 2


# ------------------------------------------------------------------ the norm that a row gets


@pytest.mark.parametrize("name", ONE_SIZE)
def test_rows_are_as_wide_as_the_visual_tokens_whose_norm_they_get(name: str) -> None:
    own = backbone(name)
    [features] = own.encode([shown(name)])
    tokens = getattr(features, "tokens", features)
    assert tuple(tokens.shape) == (expected(name)["tokens"], own.dim)
    norms = visual_norms(tokens)
    assert LearnSettings().norm in norms
    assert {norm.shape for norm in norms.values()} == {torch.Size([])}
    assert ConceptRows(torch.ones(1, own.dim)).entering(norms).shape == (1, own.dim)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_SIZE])
def test_the_projector_of_a_tiling_family_ends_at_a_rows_width(name: str) -> None:
    own = backbone(name)
    inner = own.model.model
    visual = inner.visual if hasattr(inner, "visual") else inner  # Qwen's is part of its tower
    [projector] = [getattr(visual, part) for part in PROJECTORS if hasattr(visual, part)]
    last = [layer for layer in projector.modules() if isinstance(layer, nn.Linear)][-1]
    assert last.out_features == own.dim
    count = written(name).count(mark(own))
    assert count == expected(name)["tokens"] or (expected(name)["tokens"] is None and count > 576)
