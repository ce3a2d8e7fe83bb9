"""Tiny random BLIP-2 models with OPT and T5, and their processors, built in process as in `tiny`."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from myvlm.backbones import ConceptRows
from tests.support.tiny import PATCH, SIDE, tiny_tokenizer

QUERIES = 6
WIDTH = 24  # of the vision tower and of concept rows
PROMPTS = ["", "Where?", "What is next to sks?"]
ANSWERS = ["a photo of sks", "sks", "the table and sks on it"]
SHORT: dict[str, Any] = {"max_new_tokens": 6}


def tiny_blip2(*, language: str = "opt", seed: int = 0) -> tuple[Any, Any]:
    """A BLIP-2 with two vision, four Q-Former and two language layers, and its processor.

    Args:
        language: `"opt"` (causal) or `"t5"` (encoder and decoder).
        seed: seed of the weights.
    """
    tokenizer = _tokenizer(language)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            attention_dropout=0.5,  # reveals a model left in training mode
            initializer_range=0.2,
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=8,
            hidden_size=32,
            num_hidden_layers=4,  # every second one has cross-attention
            num_attention_heads=4,
            intermediate_size=64,
            hidden_dropout_prob=0.5,
            attention_probs_dropout_prob=0.5,
            initializer_range=0.3,
        ),
        text_config=_opt(len(tokenizer)) if language == "opt" else _t5(len(tokenizer)),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_()  # transformers initializes all queries to zero
        for attention in (m for m in model.qformer.modules() if hasattr(m, "attention_head_size")):
            attention.key.bias.normal_(std=0.3)
            attention.value.bias.normal_(std=0.3)
        model.language_projection.weight.normal_(std=0.3)  # makes the picture matter
        if language == "t5":
            model.language_model.lm_head.weight[[1, 3]] = 0.0  # otherwise its replies are empty
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    return model.eval(), Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def tiny_instructblip(*, seed: int = 0) -> tuple[Any, Any]:
    """An InstructBLIP with a Llama, as Vicuna is one, and its processor with two tokenizers."""
    tokenizer, reader = tiny_tokenizer(), tiny_tokenizer()
    config = InstructBlipConfig(
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": PATCH, "attention_dropout": 0.5, "initializer_range": 0.2,
        },
        qformer_config={
            "vocab_size": len(reader), "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 64, "encoder_hidden_size": WIDTH, "initializer_range": 0.3,
            "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "max_position_embeddings": 64,
        },
        text_config=LlamaConfig(
            vocab_size=len(tokenizer) + 3, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, attention_dropout=0.5,
            bos_token_id=2, eos_token_id=3, pad_token_id=1,
        ),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = InstructBlipForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_()
        model.language_projection.weight.normal_(std=0.3)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    return model.eval(), InstructBlipProcessor(images, tokenizer, reader, num_query_tokens=QUERIES)


def rows(
    *counts: int,
    dim: int = WIDTH,
    seed: int = 0,
    norm: Any = "visual_mean",
    dtype: torch.dtype = torch.float32,
) -> list[list[ConceptRows]]:
    """For each sample this many rows that require grad; more than one are split into two concepts."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for count in counts:
        parts = [1, count - 1] if count > 1 else [count] if count else []
        vectors = [torch.randn(part, dim, generator=generator).to(dtype).requires_grad_() for part in parts]
        made.append([ConceptRows(vector, norm) for vector in vectors])
    return made


def vectors(samples: list[list[ConceptRows]]) -> list[torch.Tensor]:
    return [concept.directions for sample in samples for concept in sample]


def _tokenizer(language: str) -> PreTrainedTokenizerFast:
    """OPT's tokenizer starts a text with its one special token, T5's ends it with `</s>`."""
    tokenizer = tiny_tokenizer()
    if language == "opt":
        tokenizer.bos_token = tokenizer.eos_token
    ids = tokenizer.get_vocab()
    form = "</s> $A" if language == "opt" else "$A </s>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[("</s>", ids["</s>"])]
    )
    return tokenizer


def _opt(words: int) -> OPTConfig:
    return OPTConfig(
        vocab_size=words + 3,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        init_std=0.3,
        dropout=0.5,
        bos_token_id=3,
        eos_token_id=7,  # a word of the tokenizer, as the checkpoints end with a line break
        pad_token_id=1,
    )


def _t5(words: int) -> T5Config:
    return T5Config(
        vocab_size=words + 3,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.5,
        initializer_factor=0.5,
        tie_word_embeddings=False,
        bos_token_id=3,
        eos_token_id=3,
        pad_token_id=1,
        decoder_start_token_id=1,
    )
