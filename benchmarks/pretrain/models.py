"""The untrained models of tinyworld: tokenizer, LLaVA with its processor, and the open_clip configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from myvlm.tinyworld.language import KNOWN_NAMES, vocabulary
from myvlm.tinyworld.world.scenes import SIZE

PATCH = 12
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
VOCABULARY_ROWS = 320
"""Rows of LLaVA's embedding table: the words and some spare rows, as in real checkpoints."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<s> user : {% else %} assistant : {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %} </s> {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def build_tokenizer(*, known_names: bool = True, more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A lower-case tokenizer with one token per word; `<14>` and `[refer]` are words too."""
    names = [name for own in KNOWN_NAMES.values() for name in own] if known_names else []
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary(), *names, *more))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    word = Regex(r"<\w+>|\[\w+\]|\w+|[^\w\s]")
    core.pre_tokenizer = pre_tokenizers.Split(word, behavior="removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def build_llava_processor() -> LlavaProcessor:
    square = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        images, build_tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def new_llava(seed: int = 0) -> Any:
    """A `LlavaForConditionalGeneration` of 3.6 M parameters with random weights."""
    vision = CLIPVisionConfig(
        hidden_size=CLIP_WIDTH, intermediate_size=4 * CLIP_WIDTH, num_hidden_layers=CLIP_LAYERS,
        num_attention_heads=CLIP_WIDTH // 32, image_size=SIZE, patch_size=PATCH, hidden_act="gelu",
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=VOCABULARY_ROWS, hidden_size=192, intermediate_size=512, num_hidden_layers=5,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.04,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=SPECIAL.index("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config)


CLIP_WIDTH = 192
CLIP_LAYERS = 4
CLIP_DIM = 128
CLIP_CONTEXT = 40

CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": CLIP_DIM,
    "vision_cfg": {
        "image_size": SIZE, "layers": CLIP_LAYERS, "width": CLIP_WIDTH, "head_width": 32, "patch_size": PATCH,
    },
    "text_cfg": {
        "context_length": CLIP_CONTEXT, "vocab_size": 256, "width": 128, "heads": 4, "layers": 2,
        "hf_tokenizer_name": ".", "tokenizer_kwargs": {"clean": "whitespace"},
        "pool_type": "eos", "eos_id": 2,
    },
}  # fmt: skip


def write_clip_config(folder: Path) -> None:
    """Write the files besides the weights that `open_clip` needs to load `local-dir:<folder>`."""
    config = {
        "model_cfg": CLIP_CONFIG,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "size": SIZE},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = build_tokenizer(known_names=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save_pretrained(folder)
