"""Unusual or wrong parts passed by users: each works, or raises an error with got, expected and fix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from myvlm import MyVLM
from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import BackboneError, InputError, UnknownBackboneError
from tests.support.tiny import pictures, tiny_llava

SHORT: dict[str, Any] = {"max_new_tokens": 4}


def says(backbone: Any, rows: list[list[ConceptRows]]) -> list[list[int]]:
    replies = backbone.generate(pictures(1), ["Where?"], rows, **SHORT)
    return [reply.token_ids.tolist() for reply in replies]


def test_a_compiled_model_is_taken_as_the_model_in_it() -> None:
    model, processor = tiny_llava()
    backbone = backbone_for(torch.compile(model), processor)
    assert type(backbone) is LlavaBackbone
    assert backbone.model is model
    rows = [[ConceptRows(torch.ones(1, backbone.dim))]]
    assert says(backbone, rows) == says(LlavaBackbone(model, processor), rows)


def test_a_model_compiled_in_place_is_refused() -> None:
    model, processor = tiny_llava()
    model.compile()
    with pytest.raises(BackboneError, match=r"(?s)model\.compile\(\).*do not call model\.compile"):
        backbone_for(model, processor)


class Wrapped(nn.Module):
    """Like PEFT's wrapper: contains the model and forwards its configuration."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model, self.peft_config, self.config = model, {"default": object()}, model.config

    def get_base_model(self) -> Any:
        return self.base_model


class Adapted(nn.Module):
    """Like PEFT's embedding table with LoRA: has a weight, but no sizes of its own."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.base_layer = table
        self.down = nn.Parameter(torch.full((table.num_embeddings, 2), 0.1))
        self.up = nn.Parameter(torch.full((2, table.embedding_dim), 0.1))

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = self.base_layer(ids) + nn.functional.embedding(ids, self.down) @ self.up
        return whole


def test_a_model_in_peft_is_taken_with_its_adapter() -> None:
    model, processor = tiny_llava()
    rows = [[ConceptRows(torch.ones(1, 32))]]
    without = LlavaBackbone(model, processor)
    asked = (["Where?"], ["a mug"], rows)
    before = without.answer_loss(without.encode(pictures(1)), *asked).cross_entropy
    model.set_input_embeddings(Adapted(model.get_input_embeddings()))
    backbone = backbone_for(Wrapped(model), processor)
    assert backbone.model is model
    assert backbone.dim == 32
    assert says(backbone, rows)
    after = backbone.answer_loss(backbone.encode(pictures(1)), *asked).cross_entropy
    assert after != before  # the adapter takes effect
    assert backbone.word_direction("mug") is not None


def test_a_language_model_alone_is_named() -> None:
    _, processor = tiny_llava()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes))
    with pytest.raises(
        UnknownBackboneError, match=r"(?s)without image input.*LlamaForCausalLM.*AutoModelForImageText"
    ):
        MyVLM(language, processor)


@pytest.mark.parametrize("part", ["tokenizer", "image_processor"])
def test_a_part_of_a_processor_is_named(part: str) -> None:
    model, processor = tiny_llava()
    with pytest.raises(InputError, match=r"(?s)not the processor of a vision-language model.*AutoProcessor"):
        MyVLM(model, getattr(processor, part))


def test_a_chat_template_of_text_alone_is_named() -> None:
    model, processor = tiny_llava(chat=True)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    )
    named = r"(?s)inserts no image placeholder.*one image placeholder.*chat_template"
    with pytest.raises(BackboneError, match=named):
        backbone_for(model, processor)


@pytest.mark.parametrize(("what", "wrong"), [("num_additional_image_tokens", 0), ("patch_size", 4)])
def test_a_processor_that_miscounts_is_named_in_use_too(what: str, wrong: int) -> None:
    model, processor = tiny_llava()
    setattr(processor, what, wrong)
    backbone = backbone_for(model, processor)
    for rows in ([[]], [[ConceptRows(torch.ones(1, 32))]]):
        with pytest.raises(BackboneError, match=r"(?s)disagree on the tokens of a picture.*patch_size"):
            says(backbone, rows)


@pytest.mark.parametrize("rows", [[[]], [[ConceptRows(torch.ones(2, 32))]]])
def test_proposed_tokens_that_are_placeholders_are_blamed_on_the_option(
    backbone: LlavaBackbone, rows: list[list[ConceptRows]]
) -> None:
    with pytest.raises(InputError, match=r"(?s)with these options.*got: +prompt_lookup_num_tokens; "):
        backbone.generate(pictures(1), ["Where?"], rows, prompt_lookup_num_tokens=2)


def test_a_prompt_that_does_not_begin_with_its_kept_prefix_is_refused(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt_ids = backbone.prompter.prompt_ids

    def begins_otherwise(prompt: Any, picture: str) -> list[int]:
        ids = prompt_ids(prompt, picture)
        return [ids[0] + 1, *ids[1:]] if prompt == "What?" else ids

    monkeypatch.setattr(backbone.prompter, "prompt_ids", begins_otherwise)
    with pytest.raises(BackboneError, match=r"(?s)does not begin with the kept prefix.*got: +ids \[3, "):
        backbone.replies_to_each(pictures(1), ["Where?", "What?"], **SHORT)
