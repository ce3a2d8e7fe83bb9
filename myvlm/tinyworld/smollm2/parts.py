"""The parts of `tinyworld/smollm2`: a vision tower, and SmolLM2's weights, tokenizer and chat template."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from myvlm.backbones.loading import without_progress_bars
from myvlm.evaluation.methods.rewriting import smollm2_file
from myvlm.tinyworld.world.scenes import SIZE

IMAGE_TOKEN = "<image>"
SPARE_ROWS = 64
"""Rows added to SmolLM2's embedding table: one for the image token, and some to spare."""

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # fmt: skip
"""SmolLM2's own template with its system sentence; an image is a line of its own."""


def load_tokenizer() -> Any:
    """Return SmolLM2's tokenizer with the image token added."""
    file = smollm2_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.image_token = IMAGE_TOKEN
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return tokenizer


def load_processor(tower: Path) -> LlavaProcessor:
    """Return the processor: images as the tower needs them, texts by SmolLM2's tokenizer and template."""
    return LlavaProcessor(
        CLIPImageProcessor.from_pretrained(tower), load_tokenizer(), chat_template=CHAT_TEMPLATE,
        patch_size=12, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )  # fmt: skip


def load_untrained(tower: Path) -> LlavaForConditionalGeneration:
    """Return a stock LLaVA in float32: tower and language model as they ship, the projector not yet trained.

    Args:
        tower: folder of the LLaVA whose vision tower is used.

    Raises:
        InputError: SmolLM2, or the package that reads its file, is not installed.
    """
    file = smollm2_file()
    with without_progress_bars():
        with redirect_stderr(StringIO()):  # reading GGUF files has a progress bar of its own
            language = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
        seen = LlavaForConditionalGeneration.from_pretrained(tower, dtype=torch.float32)
    text = language.config.to_dict()
    text.pop("quantization_config", None)  # the weights were read, and are float32 from here on
    text["vocab_size"] += SPARE_ROWS
    config = LlavaConfig(
        vision_config=seen.config.vision_config, text_config=text,
        image_token_id=language.config.vocab_size, image_seq_length=(SIZE // 12) ** 2,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    table = language.get_input_embeddings().weight
    spare = table.mean(0, keepdim=True).expand(SPARE_ROWS, -1)
    state = language.model.state_dict()
    state["embed_tokens.weight"] = torch.cat([table, spare]).detach()
    model.model.language_model.load_state_dict(state)
    model.model.vision_tower.load_state_dict(seen.model.vision_tower.state_dict())
    model.generation_config.eos_token_id = language.config.eos_token_id
    model.generation_config.pad_token_id = language.config.pad_token_id
    return model.eval()
