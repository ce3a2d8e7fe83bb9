"""Every family: the contract on a tiny model with its real processor, and the pitfalls of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from myvlm import LearnSettings, MyVLM
from myvlm.backbones import ConceptRows, backbone_for, known_backbones, registry
from myvlm.backbones import tokens as text
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.cuda_graph import Replay
from myvlm.backbones.families.humanvlm import CARD, LLAMA3, HumanVLMBackbone
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import BackboneError, UnknownBackboneError
from myvlm.learning.concept_optimizer import naming_sentence
from myvlm.testing import BACKBONE_CHECKS, BackboneCase, parametrize_with_checks
from tests.support.taught import COLOURS
from tests.support.tiny import pictures, tiny_llava
from tests.support.tiny_families import FAMILIES, PINPOINTS, llava_next
from tests.support.tiny_tokens import SMOLVLM

# PaliGemma's processor uses a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {"max_new_tokens": 6}
LACKS = {  # PaliGemma's prefix attends to the concept; the general adapter runs Molmo
    "PaliGemma": {"kept_prefixes"},
    "PaliGemma 2": {"kept_prefixes"},
    "Molmo 2": {"kept_prefixes", "attention_map"},
}
SKIPPED = {name for name, lacks in LACKS.items() if "kept_prefixes" in lacks}
_built: dict[str, CausalBackbone] = {}


def family(name: str) -> CausalBackbone:
    """The family's backbone, built once."""
    if name not in _built:
        backbone = backbone_for(*FAMILIES[name]())
        assert isinstance(backbone, CausalBackbone)
        _built[name] = backbone
    return _built[name]


def shapes() -> list[Image.Image]:
    """A square, a wide and a tall picture."""
    sizes = [(40, 40), (70, 30), (30, 64)]
    return [picture.resize(size) for picture, size in zip(pictures(3), sizes, strict=True)]


def rows(backbone: CausalBackbone, *counts: int) -> list[list[ConceptRows]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [ConceptRows(torch.randn(count, backbone.dim, generator=generator))] if count else []
        for count in counts
    ]


@parametrize_with_checks(
    BACKBONE_CHECKS, {name: lambda n=name: BackboneCase(family(n), shapes()) for name in FAMILIES}
)
def test_the_family_keeps_the_contract(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_cannot_do_is_declared(name: str) -> None:
    assert set(family(name).lacks) == LACKS.get(name, set())


def test_every_family_has_a_tiny_model() -> None:
    kinds = {type(family(name)) for name in FAMILIES}
    ours = {own for own in known_backbones().values() if issubclass(own, CausalBackbone)}
    assert kinds == ours
    modules = {own.__module__.removeprefix("myvlm.backbones.") for own in known_backbones().values()}
    assert set(registry.FAMILIES) <= modules


@pytest.mark.parametrize("name", FAMILIES)
def test_a_map_covers_the_whole_picture_once(name: str) -> None:
    backbone = family(name)
    for features in backbone.encode(shapes()):
        first, height, width = backbone.grid(features)
        assert height > 0
        assert width > 0
        assert first + height * width <= len(features)


@pytest.mark.parametrize("name", ["LLaVA-NeXT, Mistral", "Qwen3-VL", "PaliGemma"])
def test_a_concept_is_learned_from_photos_of_different_shapes(name: str) -> None:
    backbone = family(name)
    vlm = MyVLM(backbone.model, backbone.processor, name=name, encoder=COLOURS)
    captions = ["a photo of sks", "sks on the table", "sks next to a mug"]
    settings = LearnSettings(steps=3, views=2)
    concept = vlm.learn("sks", shapes(), category="mug", captions=captions, settings=settings, progress=False)
    embedding = concept.embeddings[name]
    told = naming_sentence(("sks", *concept.description.split()[1:]))  # one row per token
    assert embedding.directions.shape == (len(backbone.word_ids(told)), backbone.dim)
    assert embedding.fingerprint == backbone.fingerprint()
    assert 0 < embedding.figures["cross_entropy"] < 100
    assert vlm.caption(shapes()[1], max_new_tokens=3).image.size == (70, 30)


# ------------------------------------------------------------------ LLaVA-NeXT


@pytest.mark.parametrize("pinpoint", PINPOINTS)
def test_rows_stand_after_the_last_tile_whatever_its_shape(pinpoint: list[int]) -> None:
    backbone = family("LLaVA-NeXT, Mistral")
    height, width = pinpoint
    picture = pictures(1)[0].resize((width, height))
    [features] = backbone.encode([picture])
    patches = (height // 7) * (width // 7)
    assert len(features) == 16 + patches + height // 7  # overview, tiles, one newline token per row
    newline = backbone.model.model.image_newline
    assert torch.equal(features.tokens[-1], newline)
    batch = backbone.prompter.teacher_forced([features.layout.text], ["Where?"], ["a mug"], rows(backbone, 2))
    images = (batch.ids[0] == backbone.image_id).nonzero()
    assert batch.rows.tolist() == [[int(images.max()) + 1, int(images.max()) + 2]]


def test_the_template_is_that_of_the_language_model() -> None:
    for language, prompt in {
        "mistral": "[INST] <image>\nWhere? [/INST]",
        "vicuna": "USER: <image>\nWhere? ASSISTANT:",
    }.items():
        model, processor = llava_next(language)
        assert backbone_for(model, processor).prompter.render("Where?").strip() == prompt
        processor.chat_template = None
        assert backbone_for(model, processor).prompter.render("Where?") == prompt


# ------------------------------------------------------------------ HumanVLM


def test_humanvlm_is_known_by_name_and_prompts_as_its_card() -> None:
    backbone = family("HumanVLM")
    assert isinstance(backbone, HumanVLMBackbone)
    assert backbone.prompter.render("Where?") == "USER: <image>\nWhere?\nASSISTANT:"
    model, processor = FAMILIES["HumanVLM"]()
    trained = HumanVLMBackbone(model, processor, template=LLAMA3)
    assert trained.prompter.render("Where?").endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert backbone.prompter.template == CARD
    model.config._name_or_path = "somewhere/else"
    assert type(backbone_for(model, processor)) is LlavaBackbone
    model.config.backbone_family = "humanvlm"
    assert type(backbone_for(model, processor)) is HumanVLMBackbone


@pytest.mark.parametrize(("tower", "strategy", "additional"), [("clip", "default", 1), ("siglip", "full", 0)])
def test_an_old_processor_that_cannot_count_is_told_how(tower: str, strategy: str, additional: int) -> None:
    model, processor = tiny_llava(tower=tower, strategy=strategy)
    processor.patch_size = processor.vision_feature_select_strategy = None
    backbone = LlavaBackbone(model, processor)
    assert processor.patch_size is None  # the user's processor is unchanged
    assert backbone.processor.num_additional_image_tokens == additional
    [features] = backbone.encode(pictures(1))
    assert len(features) == features.layout.text.count("<image>") == 16


def test_a_processor_that_miscounts_is_named() -> None:
    model, processor = tiny_llava(tower="siglip")
    processor.num_additional_image_tokens = 1
    with pytest.raises(BackboneError, match=r"(?s)16 visual tokens.*17 placeholders"):
        LlavaBackbone(model, processor).encode(pictures(1))


def test_without_a_cls_token_the_first_patch_is_missing_from_the_map() -> None:
    backbone = LlavaBackbone(*tiny_llava(tower="siglip", strategy="default"))
    found = backbone.attention_map(pictures(1)[0], "Where?", "a mug", "mug", [])
    assert found.shape == (4, 4)
    assert found[0, 0] == 0
    assert (found.flatten()[1:] > 0).all()


# ------------------------------------------------------------------ Qwen


@pytest.mark.parametrize("name", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL"])
def test_the_positions_of_another_input_do_not_reach_a_kept_prefix(name: str) -> None:
    backbone = family(name)
    wide, tall = shapes()[1:]
    features, concepts = backbone.encode([tall]), rows(backbone, 2)
    kept = backbone.prefixes(features)
    assert kept is not None
    full = backbone.answer_loss(features, ["Where?"], ["a mug"], concepts).cross_entropy
    backbone.model.model.rope_deltas = torch.tensor([[-3]])
    backbone.generate([wide], ["Where?"], concepts, **SHORT)
    assert backbone.model.model.rope_deltas.tolist() == [[-3]]
    fast = backbone.tail_loss(kept, ["Where?"], ["a mug"], concepts).cross_entropy
    torch.testing.assert_close(fast, full, rtol=1e-5, atol=1e-6)
    backbone.model.model.rope_deltas = None


def test_three_positions_a_token_go_on_after_the_picture() -> None:
    backbone = family("Qwen2.5-VL")
    [features] = backbone.encode([shapes()[1]])
    _, height, width = backbone.grid(features)
    assert height != width
    batch = backbone.prompter.teacher_forced([features.layout.text], ["Where?"], ["a mug"], rows(backbone, 1))
    told = backbone.arguments(batch.ids, batch.attention_mask, batch.starts, [features.layout])
    start = int((batch.ids[0] == backbone.image_id).nonzero().min())
    row = int(batch.rows[0, 0])
    assert told["position_ids"].shape == (3, 1, batch.ids.shape[1])
    assert told["position_ids"][:, 0, row].tolist() == [start + max(height, width)] * 3
    assert told["mm_token_type_ids"][0, row] == 0
    assert told["mm_token_type_ids"][0].sum() == height * width


def test_deepstack_features_are_kept_for_every_level() -> None:
    backbone = family("Qwen3-VL")
    [features] = backbone.encode(shapes()[:1])
    assert [level.shape for level in features.deepstack] == [features.tokens.shape] * 2
    assert features.nbytes == 3 * features.tokens.nbytes


# ------------------------------------------------------------------ Gemma


def test_a_row_is_text_to_gemma() -> None:
    backbone = family("Gemma 3")
    inputs = backbone.prompter.processed(shapes()[:2], ["Where?", "What is next to it?"])
    before = inputs["token_type_ids"].sum(1)
    inputs, sentinels = backbone.prompter.with_rows(inputs, rows(backbone, 1, 3))
    assert sentinels == [1, 3]
    assert inputs["token_type_ids"].shape == inputs["input_ids"].shape
    assert torch.equal(inputs["token_type_ids"].sum(1), before)
    assert torch.equal(inputs["token_type_ids"] == 1, inputs["input_ids"] == backbone.image_id)


def test_the_end_that_is_learned_is_the_end_of_the_turn() -> None:
    backbone = family("Gemma 3")
    tokenizer = backbone.processor.tokenizer
    assert backbone.model.generation_config.eos_token_id[0] == tokenizer.convert_tokens_to_ids("</s>")
    assert tokenizer.convert_ids_to_tokens(backbone.prompter.eos_ids[0]) == "<end_of_turn>"
    assert sorted(backbone.prompter.eos_ids) == sorted(backbone.model.generation_config.eos_token_id)


def test_a_template_that_takes_no_reply_keeps_the_models_ends() -> None:
    processor = FAMILIES["Gemma 3"]()[1]
    assert text.end_of_turn_first(processor, [1, 4]) == [4, 1]
    processor.chat_template = "{{ raise_exception('no') }}"
    assert text.end_of_turn_first(processor, [1, 4]) == [1, 4]


def test_paligemma_reads_the_concept_in_both_directions() -> None:
    backbone = family("PaliGemma")
    features, concepts = backbone.encode(pictures(1)), rows(backbone, 1)
    assert backbone.prefixes(features) is None
    assert backbone.caption_prompt == "caption en"
    written = backbone.prompter.completed(backbone.prompter.render("caption en"))
    assert written == "<image><bos>caption en\n"
    batch = backbone.prompter.teacher_forced([features[0].layout.text], ["caption en"], ["a mug"], concepts)
    told = backbone.arguments(batch.ids, batch.attention_mask, batch.starts, [features[0].layout])
    types = told["token_type_ids"][0].tolist()
    assert types == [0] * batch.starts[0] + [1] * (len(types) - batch.starts[0])
    seen: list[torch.Tensor] = []
    handle = backbone.language_model.layers[0].register_forward_hook(
        lambda module, args, output: seen.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    try:
        for scale in (1.0, -1.0):
            turned = [[ConceptRows(scale * concepts[0][0].directions)]]
            backbone.answer_loss(features, ["caption en"], ["a mug"], turned)
    finally:
        handle.remove()
    assert not torch.equal(seen[0][0, 0], seen[1][0, 0]), "the first image token does not see the row"


# ------------------------------------------------------------------ marks, sentinels, unknown models


def test_marks_stand_between_the_parts_of_a_picture() -> None:
    backbone = family("Idefics3")
    [features] = backbone.encode([shapes()[1]])
    assert "<row_1_col_2>" in features.layout.text
    assert features.layout.text.count("<image>") == len(features)
    backbone = family("Mistral 3")
    [features] = backbone.encode([shapes()[2]])
    _, height, width = backbone.grid(features)
    assert features.layout.text.count("[IMG_BREAK]") == height - 1
    assert len(features) == height * width


def test_a_mark_of_the_processor_never_stands_for_a_row() -> None:
    backbone = family("Idefics3")
    tokenizer = backbone.processor.tokenizer
    marks = text.image_marker_ids(backbone.processor)
    assert {tokenizer.convert_tokens_to_ids(mark) for mark in SMOLVLM if mark != "<|im_start|>"} <= marks
    assert not any(mark == backbone.prompter.sentinel_id for mark in marks)


def test_an_unknown_model_is_told_what_is_known_and_where_to_read() -> None:
    model, processor = tiny_llava()
    with pytest.raises(UnknownBackboneError) as raised:
        backbone_for(model.model.vision_tower, processor)
    said = str(raised.value)
    for kind in ("clip_vision_model", "llava_next", "qwen2_5_vl", "paligemma", "smolvlm", "mistral3"):
        assert kind in said
    assert "examples/04_new_backbone.py" in said
    assert "How to extend" in said


@pytest.mark.slow
def test_the_benchmark_ends_in_one_json_line() -> None:
    command = [sys.executable, "benchmarks/families.py", "--only", "Mistral 3", "--calls", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["families"] == 1
    assert figures["checks"] == len(BACKBONE_CHECKS)
    assert figures["failed"] == 0
    assert isinstance(figures["more_ms_median"], float)


def test_a_processor_of_another_kind_is_named() -> None:
    model, processor = tiny_llava()

    class Foreign(type(processor)):  # type: ignore[misc]
        def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
            raise NotImplementedError

    processor.__class__ = Foreign
    backbone = LlavaBackbone(model, processor)
    with pytest.raises(BackboneError, match=r"(?s)Foreign.*override `read`"):
        backbone.encode(pictures(1))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SKIPPED])
def test_a_step_of_the_one_shape_that_a_graph_has_is_a_step(name: str) -> None:
    backbone = family(name)
    texts = [("Describe the image.", "a big red mug with one small dog on a table"), ("Where?", "sks")]
    [square, wide, _] = backbone.prefixes(backbone.encode(shapes())) or []
    longest = partial(backbone.prompter.longest_tail, texts, 2)
    replay = Replay(backbone._run_tail, longest, backbone._fused.room, lambda run, sample: run)
    batches = [([square, wide], texts[:1] * 2), ([wide, square], texts), ([square, wide], texts[1:] * 2)]
    for step, (kept, asked) in enumerate(batches):
        direction = torch.randn(
            2, backbone.dim, generator=torch.Generator().manual_seed(step)
        ).requires_grad_()
        given = (kept, *zip(*asked, strict=True), [[ConceptRows(direction)]] * 2)
        losses = [backbone.tail_loss(*given), backbone._tail_loss(replay, *given)]
        for one in ("cross_entropy", "attention"):
            plain, padded = (getattr(loss, one) for loss in losses)
            torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)
            [expected], [found] = (
                torch.autograd.grad(loss, [direction], retain_graph=True) for loss in (plain, padded)
            )
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert replay.graphed
