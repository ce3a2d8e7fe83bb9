"""MiniGPT-v2 (https://arxiv.org/abs/2310.09478) built from parts of transformers, which lacks the model.

It consists of EVA ViT-g (`Blip2VisionModel`) at 448 pixels, the concatenation of four neighbouring patches,
one linear layer, and a Llama. Everything else is as in LLaVA: generation, caches and losses are its code.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

PATCHES_PER_TOKEN = 4
"""Number of patches that form one visual token."""
IMAGE_TOKEN = "<image>"
LAYER_NORM_EPS = 1e-5
"""Epsilon of the layer norm after the tower; the one in `Blip2VisionConfig` is for its blocks."""


class MiniGPTv2Config(LlavaConfig):  # type: ignore[misc]
    """LLaVA's configuration with a `Blip2VisionConfig` for the vision tower."""

    model_type = "minigpt_v2"


class MiniGPTv2Model(LlavaModel):  # type: ignore[misc]
    """Vision tower, projector and language model, without the language model's head."""

    config: MiniGPTv2Config
    config_class = MiniGPTv2Config

    def __init__(self, config: MiniGPTv2Config) -> None:
        PreTrainedModel.__init__(self, config)  # skip LLaVA's, which would build its tower and projector
        self.vision_tower = Blip2VisionModel._from_config(config.vision_config)
        self.vision_tower.post_layernorm.eps = LAYER_NORM_EPS
        wide = config.vision_config.hidden_size * PATCHES_PER_TOKEN
        self.multi_modal_projector = nn.Linear(wide, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Visual tokens in `pooler_output`, one `T × D` per picture; `pixel_values` is `B × 3 × H × W`."""
        output = self.vision_tower(pixel_values, return_dict=True)
        patches = output.last_hidden_state[:, 1:]
        grouped = patches.reshape(len(patches), patches.shape[1] // PATCHES_PER_TOKEN, -1)
        output.pooler_output = list(self.multi_modal_projector(grouped))
        return output


class MiniGPTv2ForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """MiniGPT-v2 with its language head; see `checkpoint.load_minigpt_v2` for the official files."""

    config: MiniGPTv2Config
    config_class = MiniGPTv2Config

    def __init__(self, config: MiniGPTv2Config) -> None:
        PreTrainedModel.__init__(self, config)
        self.model = MiniGPTv2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


def minigpt_processor(tokenizer: Any, vision: Blip2VisionConfig) -> LlavaProcessor:
    """A processor that resizes pictures to the tower's square size; adds an image token to `tokenizer`."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    square = {"height": vision.image_size, "width": vision.image_size}
    # Four patches per token give as many tokens as patches of twice the side.
    return LlavaProcessor(
        BlipImageProcessor(size=square), tokenizer, patch_size=2 * vision.patch_size,
        vision_feature_select_strategy="full", image_token=IMAGE_TOKEN,
    )  # fmt: skip


AutoConfig.register(MiniGPTv2Config.model_type, MiniGPTv2Config, exist_ok=True)
AutoModelForImageTextToText.register(MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, exist_ok=True)
