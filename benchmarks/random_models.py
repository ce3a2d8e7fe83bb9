"""Models for `learning_step.py`: real classes and sizes with random weights; nothing is downloaded.

Their processors have a word-level tokenizer: timings depend on the number of tokens, not on which they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForImageTextToText,
    Blip2Config,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<image>"]
PAD, BOS, EOS, IMAGE = 1, 2, 3, 4
WORDS = ["USER", "ASSISTANT", "Question", "Answer", "Describe", "the", "image", ":", ".", "sks", "mug"]
WORDS += [f"word{number}" for number in range(200)]


@dataclass(frozen=True)
class Preset:
    """A model to measure.

    Attributes:
        configuration, processor: functions that build the model's configuration and its processor.
        dtype: number type of the weights.
        gpu: whether a GPU is needed.
        side: side of the square photos, in pixels.
        answer: number of words of the longest answer; each further sample's answer is one word shorter.
        samples: batch size of a compared step; the paper's step keeps all attention maps in memory.
    """

    configuration: Callable[[], Any]
    processor: Callable[[], Any]
    dtype: torch.dtype
    gpu: bool
    side: int
    answer: int
    samples: int = 4

    def build(self, device: str) -> tuple[Any, Any]:
        """Build the model, with random weights of seed 0, and its processor; device `meta` has no weights."""
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                self.configuration(), dtype=self.dtype, attn_implementation="sdpa"
            )
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, PAD
        return model.eval().requires_grad_(False), self.processor()


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    whole_words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    whole_words.pre_tokenizer = pre_tokenizers.Whitespace()
    whole_words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole_words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def photos(count: int, side: int) -> list[Image.Image]:
    """Different pictures of coloured noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


# ---------------------------------------------------------------- LLaVA on a CPU


def small_llava() -> LlavaConfig:
    """32 layers of width 256 with 25 × 25 image tokens; vocabulary and width have LLaVA's proportion."""
    text = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=32,
        num_attention_heads=8,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=100,
        patch_size=4,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=625,
        vision_feature_layer=-1,
    )


def small_llava_processor() -> LlavaProcessor:
    return llava_processor(side=100, patch=4)


# ---------------------------------------------------------------- real sizes


def _clip_large() -> CLIPVisionConfig:
    """CLIP ViT-L/14 at 336 pixels."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def _vicuna_7b() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def llava_15_7b() -> LlavaConfig:
    return LlavaConfig(
        vision_config=_clip_large(), text_config=_vicuna_7b(), image_token_id=IMAGE, image_seq_length=576
    )


def llava_next_7b() -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=_clip_large(), text_config=_vicuna_7b(), image_token_id=IMAGE, image_seq_length=576
    )


def blip2_opt_27b() -> Blip2Config:
    text = OPTConfig(
        vocab_size=50304,
        hidden_size=2560,
        word_embed_proj_dim=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    # With the tower's default initialization all features would be zero.
    vision = Blip2VisionConfig(initializer_range=0.02)
    return Blip2Config(
        vision_config=vision,
        qformer_config=Blip2QFormerConfig(),
        text_config=text,
        num_query_tokens=32,
        image_token_id=IMAGE,
    )


def llava_processor(*, side: int, patch: int) -> LlavaProcessor:
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava_15_processor() -> LlavaProcessor:
    return llava_processor(side=336, patch=14)


def llava_next_processor() -> LlavaNextProcessor:
    images = LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def blip2_processor() -> Blip2Processor:
    images = BlipImageProcessor(size={"height": 224, "width": 224})
    return Blip2Processor(images, tokenizer(), num_query_tokens=32)


PRESETS = {
    "cpu": Preset(
        small_llava, small_llava_processor, torch.float32, gpu=False, side=100, answer=64
    ),  # T = 700
    "llava-1.5-7b": Preset(llava_15_7b, llava_15_processor, torch.bfloat16, gpu=True, side=336, answer=30),
    "llava-next-7b": Preset(
        llava_next_7b, llava_next_processor, torch.bfloat16, gpu=True, side=672, answer=30, samples=1
    ),
    "blip2-opt-2.7b": Preset(blip2_opt_27b, blip2_processor, torch.bfloat16, gpu=True, side=224, answer=30),
}


def shrunk(preset: Preset) -> Preset:
    """A small version for any machine: two layers per part, width 64, float32, small photos."""

    def configuration() -> Any:
        made = preset.configuration()
        parts = [made.vision_config, made.text_config, getattr(made, "qformer_config", None)]
        for part in filter(None, parts):
            part.num_hidden_layers, part.hidden_size, part.num_attention_heads = 2, 64, 4
            part.intermediate_size, part.initializer_range = 128, 0.2
            for name, value in SMALL.items():
                if hasattr(part, name):
                    setattr(part, name, value)
        return made

    side = min(preset.side, 168)  # LLaVA-NeXT makes thousands of tokens of larger ones
    return replace(preset, configuration=configuration, dtype=torch.float32, gpu=False, side=side)


SMALL = {
    "num_key_value_heads": 4,
    "head_dim": 16,
    "ffn_dim": 128,
    "word_embed_proj_dim": 64,
    "encoder_hidden_size": 64,
}
"""Further fields that some configurations need besides width and depth."""
