"""The untrained `tinyworld/blip2`: a BLIP-2 with a small OPT, its processor, and its initialization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.pretrain.models import (
    CLIP_LAYERS,
    CLIP_WIDTH,
    PATCH,
    SPECIAL,
    VOCABULARY_ROWS,
    build_tokenizer,
)
from myvlm.tinyworld.world.scenes import SIZE

QUERY_TOKENS = 32
WIDTH = 192
QUERY_GAIN = 3.0
"""Gain of the initial queries of the cross-attention: sharp enough to separate neighbouring patches."""


def build_blip2_tokenizer() -> PreTrainedTokenizerFast:
    """The words of tinyworld and of BLIP-2's question prompt; `<s>` starts a text."""
    core = build_tokenizer(more=("question", "answer")).backend_tokenizer
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    # A tokenizer's own `image_token` is a plain string, which transformers' Blip2Processor rejects.
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def build_blip2_processor() -> Blip2Processor:
    images = BlipImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Blip2Processor(images, build_blip2_tokenizer(), num_query_tokens=QUERY_TOKENS)


def new_blip2(seed: int = 0) -> Any:
    """A `Blip2ForConditionalGeneration` of 6 M parameters with random weights."""
    vision = Blip2VisionConfig(
        hidden_size=CLIP_WIDTH, intermediate_size=4 * CLIP_WIDTH, num_hidden_layers=CLIP_LAYERS,
        num_attention_heads=CLIP_WIDTH // 32, image_size=SIZE, patch_size=PATCH, hidden_act="gelu",
        layer_norm_eps=1e-5, initializer_range=0.02,
    )  # fmt: skip
    queries = Blip2QFormerConfig(
        vocab_size=1, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=6, intermediate_size=512,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=1,
    )  # fmt: skip
    text = OPTConfig(
        vocab_size=VOCABULARY_ROWS, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=4 * WIDTH,
        num_hidden_layers=5, num_attention_heads=6, max_position_embeddings=448, dropout=0.0, init_std=0.04,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=vision, qformer_config=queries, text_config=text, num_query_tokens=QUERY_TOKENS,
        image_token_index=SPECIAL.index("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_(std=0.02)  # transformers initializes all queries to zero
    return model


@torch.no_grad()
def adopt_blip2_tower(model: Any, llava: Mapping[str, Tensor], images: Tensor) -> None:
    """Initialize the vision tower from a LLaVA's state dict, as BLIP-2's starts from a pretrained one.

    BLIP-2's tower lacks the layer norm at the start of CLIP's. Its linear part is folded into the embeddings;
    the division by each patch's standard deviation is approximated by the mean one on `images`
    (B × 3 × 96 × 96, −1 to 1). Training removes the remaining difference.
    """
    tower, prefix = model.vision_model, "model.vision_tower."
    source = {n.removeprefix(prefix): value for n, value in llava.items() if n.startswith(prefix)}
    gain, shift = source["pre_layrnorm.weight"], source["pre_layrnorm.bias"]
    place = source["embeddings.position_embedding.weight"]
    position = place - place.mean(-1, keepdim=True)
    kernel = source["embeddings.patch_embedding.weight"]
    filters = kernel - kernel.mean(0, keepdim=True)
    begin = source["embeddings.class_embedding"]
    first = begin - begin.mean()
    patches = torch.nn.functional.conv2d(images, filters, stride=PATCH).flatten(2).transpose(1, 2)
    spread = (patches + position[1:]).std(-1, correction=0).mean()
    scale = torch.full((len(position), 1), float(spread))
    scale[0] = (first + position[0]).std(correction=0)
    state = {
        "embeddings.class_embedding": (first * gain / scale[0])[None, None],
        "embeddings.position_embedding": (position * gain / scale + shift)[None],
        "embeddings.patch_embedding.weight": filters * (gain / spread)[:, None, None, None],
        "embeddings.patch_embedding.bias": torch.zeros_like(shift),
    }
    for part in ("weight", "bias"):
        state[f"post_layernorm.{part}"] = source[f"post_layernorm.{part}"]
        for layer in range(len(tower.encoder.layers)):
            its = f"encoder.layers.{layer}."
            packed = [source[f"{its}self_attn.{name}.{part}"] for name in ("q_proj", "k_proj", "v_proj")]
            state[f"{its}self_attn.qkv.{part}"] = torch.cat(packed)
            state[f"{its}self_attn.projection.{part}"] = source[f"{its}self_attn.out_proj.{part}"]
            for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{its}{name}.{part}"] = source[f"{its}{name}.{part}"]
    tower.load_state_dict(state)


@torch.no_grad()
def adopt_words(model: Any, llava: Mapping[str, Tensor], scale: float = 1.0) -> None:
    """Initialize the embeddings of shared words from a LLaVA's state dict."""
    theirs, ours = build_tokenizer().get_vocab(), build_blip2_tokenizer().get_vocab()
    table, known = llava["model.language_model.embed_tokens.weight"], model.get_input_embeddings().weight
    for word, row in ours.items():
        if word in theirs:
            known[row] = table[theirs[word]] * scale


@torch.no_grad()
def look_at_places(model: Any, images: Tensor) -> None:
    """Initialize query `i` to attend to patches `2i` and `2i + 1` and to pass their content on.

    Its embedding becomes the mean of the tower's features at these two patches (on `images`,
    B × 3 × 96 × 96) minus the mean over all patches. The query, key, value and output matrices of the
    cross-attention start as multiples of the identity. Queries that start alike stay alike for thousands of
    pictures.
    """
    seen = model.vision_model(images).last_hidden_state[:, 1:]
    places = seen.mean(0) - seen.mean((0, 1))
    pairs = places.unflatten(0, (QUERY_TOKENS, -1)).mean(1)
    model.query_tokens.copy_((pairs / pairs.std(-1, keepdim=True))[None])
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            attention, same = layer.crossattention, torch.eye(WIDTH)
            for part, gain in (("query", QUERY_GAIN), ("key", 1.0), ("value", 1.0)):
                getattr(attention.attention, part).weight.copy_(gain * same)
            attention.output.dense.weight.copy_(same)


TOKEN_SIZE = 2.0
"""Norm of a query token in the language model, relative to the mean norm of a word embedding."""


@torch.no_grad()
def match_words(model: Any, images: Tensor) -> None:
    """Scale the projector so that its output on `images` (B × 3 × 96 × 96) has the norm `TOKEN_SIZE`."""
    seen = model.get_image_features(images, return_dict=True).pooler_output
    factor = 1 / token_size(model, seen)
    model.language_projection.weight.mul_(factor)
    model.language_projection.bias.mul_(factor)


def token_size(model: Any, seen: Tensor) -> Tensor:
    """Mean norm of query tokens (B × 32 × D), relative to `TOKEN_SIZE`.

    Without a penalty, training lets the picture's tokens grow to twenty times a word's norm. Tokens of that
    size drown the name that a concept's row adds to them.
    """
    words = model.get_input_embeddings().weight.detach().norm(dim=-1).mean()
    size: Tensor = seen.norm(dim=-1).mean() / (TOKEN_SIZE * words)
    return size
