"""Tiny random models with real processors and tokenizers, built in process without downloads."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from myvlm.backbones import ConceptRows

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<image>"]
WORDS = (
    "a an and the is of on in to my with next photo picture image Describe What Where who table desk mug dog "
    "cat woman man tree red blue green small big sits stands lies holds one two sks ohwx Anna Ben USER "
    "ASSISTANT it Look : . ? ,"
)
SIDE, PATCH = 28, 7
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that starts with `<s>`, as Llama's does."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def tiny_llava(
    *, tower: str = "clip", strategy: str | None = None, spare_ids: int = 7, chat: bool = False, seed: int = 0
) -> tuple[Any, Any]:
    """A LLaVA with two layers, and its processor.

    Args:
        tower: `"clip"` (with a CLS token) or `"siglip"` (without).
        strategy: `"default"` drops the first vision token, `"full"` keeps all.
        spare_ids: rows of the embedding table beyond the tokenizer's words.
        chat: whether the processor has a chat template.
        seed: seed of the weights.
    """
    strategy = strategy or ("default" if tower == "clip" else "full")
    tokenizer = tiny_tokenizer()
    vision: Any = CLIPVisionConfig if tower == "clip" else SiglipVisionConfig
    text = LlamaConfig(
        vocab_size=len(tokenizer) + spare_ids,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,  # grouped queries
        max_position_embeddings=256,
        initializer_range=0.3,
        attention_dropout=0.5,  # reveals a model left in training mode
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=1,
    )
    config = LlavaConfig(
        vision_config=vision(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            attention_dropout=0.5,
        ),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 1
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1 if tower == "clip" else 0,
        chat_template=CHAT_TEMPLATE if chat else None,
    )
    return model.eval(), processor


def pictures(count: int = 3, *, seed: int = 0) -> list[Image.Image]:
    """Different pictures of coloured noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 40, 40, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def rows(*counts: int, dim: int = 32, seed: int = 0) -> list[list[ConceptRows]]:
    """For each sample a concept with this many rows of a `tiny_llava`'s width, or none for 0."""
    generator = torch.Generator().manual_seed(seed)
    return [[ConceptRows(torch.randn(count, dim, generator=generator))] if count else [] for count in counts]
