"""MiniGPT-v2: official files under their own names are converted; task tokens; saving and loading."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones.families.minigpt.adapter import MiniGPTv2Backbone
from myvlm.backbones.families.minigpt.checkpoint import LORA_ALPHA, SPARE_ROWS, load_minigpt_v2
from myvlm.backbones.loading import load_model
from myvlm.errors import BackboneError, MissingFileError
from tests.support.tiny import pictures
from tests.support.tiny_families import FAMILIES, TEXT, words
from tests.support.tiny_tokens import bpe_tokenizer

RANK = 4
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "patch_size": 7}
SIDE = 56  # 8 × 8 patches; the official tower has 4 × 4 positions


def official_names(tower: Blip2VisionModel) -> dict[str, Tensor]:
    """A tower with one block more than is used, under the names of `eva_vit_g.pth`."""
    own = tower.state_dict()
    state = {
        "cls_token": own["embeddings.class_embedding"],
        "pos_embed": own["embeddings.position_embedding"],
        "patch_embed.proj.weight": own["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": own["embeddings.patch_embedding.bias"],
        "norm.weight": torch.ones(24),
        "head.weight": torch.ones(3, 24),
    }
    for layer in range(3):
        ours, theirs = f"encoder.layers.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            for number in (1, 2):
                state[f"{theirs}.norm{number}.{kind}"] = own[f"{ours}.layer_norm{number}.{kind}"]
                state[f"{theirs}.mlp.fc{number}.{kind}"] = own[f"{ours}.mlp.fc{number}.{kind}"]
            state[f"{theirs}.attn.proj.{kind}"] = own[f"{ours}.self_attn.projection.{kind}"]
        state[f"{theirs}.attn.qkv.weight"] = own[f"{ours}.self_attn.qkv.weight"]
        query, _, value = own[f"{ours}.self_attn.qkv.bias"].chunk(3)
        state[f"{theirs}.attn.q_bias"], state[f"{theirs}.attn.v_bias"] = query, value
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiny files with the official names and layout, and the models they were made from."""
    place = tmp_path_factory.mktemp("minigpt")
    tokenizer = bpe_tokenizer(["<unk>"], bos="<s>", adds_bos=True, unk="<unk>")
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT, **{**words(tokenizer), "vocab_size": len(tokenizer)}))
    llama.save_pretrained(place / "llama")
    tokenizer.save_pretrained(place / "llama")
    tower = Blip2VisionModel(Blip2VisionConfig(**TOWER, num_hidden_layers=3, image_size=28))
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            weight.normal_(std=0.3)
            if name.endswith("qkv.bias"):
                weight[24:48] = 0  # keys have no bias
    torch.save({"model": official_names(tower)}, place / "eva_vit_g.pth")
    learned = {"llama_proj.weight": torch.randn(32, 96), "llama_proj.bias": torch.randn(32)}
    for layer in range(3):
        for part, wide in (("q", 32), ("v", 16)):
            start = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            learned[f"{start}.lora_A.weight"] = torch.randn(RANK, 32)
            learned[f"{start}.lora_B.weight"] = torch.randn(wide, RANK)
    torch.save({"model": learned, "epoch": 3, "config": {"run": {}}}, place / "minigptv2_checkpoint.pth")
    return {"place": place, "llama": llama, "tower": tower, "learned": learned}


def load(official: dict[str, Any], **other: Any) -> tuple[Any, Any]:
    place = official["place"]
    files = {
        "checkpoint": place / "minigptv2_checkpoint.pth",
        "language_model": place / "llama",
        "vision": place / "eva_vit_g.pth",
        **other,
    }
    config = Blip2VisionConfig(**TOWER, num_hidden_layers=2, image_size=SIDE)
    return load_minigpt_v2(
        files["checkpoint"], language_model=files["language_model"], vision=files["vision"],
        vision_config=config, dtype=torch.float32,
    )  # fmt: skip


def test_the_official_files_become_the_model(official: dict[str, Any]) -> None:
    model, processor = load(official)
    # The language model is Llama with the LoRA merged.
    llama, learned = copy.deepcopy(official["llama"]), official["learned"]
    with torch.no_grad():
        for layer, block in enumerate(llama.model.layers):
            for part in "qv":
                start = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{part}_proj"
                down, up = learned[f"{start}.lora_A.weight"], learned[f"{start}.lora_B.weight"]
                weight = getattr(block.self_attn, f"{part}_proj").weight
                weight += LORA_ALPHA / RANK * up @ down
    ids = torch.tensor([[3, 9, 40, 200]])
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, llama.eval()(input_ids=ids).logits
    vocabulary = theirs.shape[-1]
    assert ours.shape[-1] == vocabulary + SPARE_ROWS
    torch.testing.assert_close(ours[..., :vocabulary], theirs, rtol=1e-4, atol=1e-4)
    # The tower runs at another size without its last block; four neighbours in a row become one token.
    pixels = processor.image_processor(pictures(1), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIDE, SIDE)
    tower = official["tower"].eval()
    tower.encoder.layers = tower.encoder.layers[:2]
    tower.post_layernorm = torch.nn.LayerNorm(24, eps=1e-5)
    with torch.no_grad():
        patches = tower(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        grouped = torch.cat([patches[:, start::4] for start in range(4)], dim=-1)
        expected = grouped @ learned["llama_proj.weight"].T + learned["llama_proj.bias"]
        [found] = model.model.get_image_features(pixels).pooler_output
    assert found.shape == (16, 32)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)


def test_a_saved_model_is_loaded_by_name_and_answers_alike(official: dict[str, Any], tmp_path: Path) -> None:
    model, processor = load(official)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), device="cpu", dtype="float32", model_options={})
    backbones = [backbone_for(model, processor), backbone_for(*again)]
    assert [type(backbone) for backbone in backbones] == [MiniGPTv2Backbone] * 2
    rows = [[ConceptRows(torch.ones(2, 32))]]
    losses = [
        backbone.answer_loss(backbone.encode(pictures(1)), ["Where?"], ["a mug"], rows).cross_entropy.item()
        for backbone in backbones
    ]
    assert losses[0] == losses[1]
    assert backbones[0].fingerprint() == backbones[1].fingerprint()


def test_files_that_are_not_the_official_ones_are_refused(official: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.pth"):
        load(official, checkpoint=tmp_path / "gone.pth")
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(BackboneError, match="without tensors"):
        load(official, checkpoint=tmp_path / "empty.pth")
    torch.save({"model": {"llama_proj.bias": torch.ones(32)}}, tmp_path / "half.pth")
    with pytest.raises(BackboneError, match=r"multi_modal_projector\.weight"):
        load(official, checkpoint=tmp_path / "half.pth")
    torch.save({"model": {"cls_token": torch.ones(1, 1, 24)}}, tmp_path / "eva.pth")
    with pytest.raises(BackboneError, match="without"):
        load(official, vision=tmp_path / "eva.pth")
    (tmp_path / "cut.pth").write_bytes((official["place"] / "eva_vit_g.pth").read_bytes()[:2000])
    with pytest.raises(BackboneError, match=r"cut\.pth"):
        load(official, vision=tmp_path / "cut.pth")
    torch.save({"model": {"llama_proj.bias": Path("a")}}, tmp_path / "code.pth")
    with pytest.raises(BackboneError, match="more than tensors"):
        load(official, checkpoint=tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("What is it?", "[INST] <Img><image> </Img> [vqa] What is it? [/INST]"),
        ("Describe the image.", "[INST] <Img><image> </Img> [caption] Describe the image. [/INST]"),
        ("[identify] it", "[INST] <Img><image> </Img> [identify] it [/INST]"),
    ],
)
def test_every_instruction_has_a_task_mark(prompt: str, asked: str) -> None:
    backbone = backbone_for(*FAMILIES["MiniGPT-v2"]())
    assert isinstance(backbone, MiniGPTv2Backbone)
    assert backbone.prompter.render(prompt) == asked


def test_a_box_is_on_a_grid_of_0_to_100() -> None:
    backbone = backbone_for(*FAMILIES["MiniGPT-v2"]())
    assert backbone.refer("sks") == "[refer] give me the location of sks"
    box = backbone.read_box("<p>sks</p> {<25><30><75><80>}", (200, 100))
    assert box == pytest.approx((50, 30, 150, 80))
    assert backbone.read_box("sks is a mug", (200, 100)) is None
