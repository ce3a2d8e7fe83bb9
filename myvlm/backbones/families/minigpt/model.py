"""MiniGPT-v2 (https://arxiv.org/abs/2310.09478) of stock parts, since transformers has none.

The EVA ViT-g that `Blip2VisionModel` is, at 448 pixels; four neighbouring patches side by side; one linear
layer; a Llama. It is a LLaVA in all else, so generation, caches and losses are LLaVA's own code.
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

TOGETHER = 4
"""Patches that become one visual token."""
IMAGE_TOKEN = "<image>"
LAYER_NORM_EPS = 1e-5
"""Of the layer norm after the tower; the one in `Blip2VisionConfig` is of its blocks."""


class MiniGPTv2Config(LlavaConfig):  # type: ignore[misc]
    """A LLaVA's configuration, with a `Blip2VisionConfig` for the tower."""

    model_type = "minigpt_v2"


class MiniGPTv2Model(LlavaModel):  # type: ignore[misc]
    """Tower, projector and language model, without the head."""

    config: MiniGPTv2Config
    config_class = MiniGPTv2Config

    def __init__(self, config: MiniGPTv2Config) -> None:
        PreTrainedModel.__init__(self, config)  # not LLaVA's: it has another tower and projector
        self.vision_tower = Blip2VisionModel._from_config(config.vision_config)
        self.vision_tower.post_layernorm.eps = LAYER_NORM_EPS
        wide = config.vision_config.hidden_size * TOGETHER
        self.multi_modal_projector = nn.Linear(wide, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Visual tokens in `pooler_output`, one `T × D` a picture; `pixel_values` is `B × 3 × H × W`."""
        output = self.vision_tower(pixel_values, return_dict=True)
        patches = output.last_hidden_state[:, 1:]
        grouped = patches.reshape(len(patches), patches.shape[1] // TOGETHER, -1)
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
    """A processor that squares pictures to the tower's size; `tokenizer` gets an image placeholder."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    square = {"height": vision.image_size, "width": vision.image_size}
    # Four patches a token are as many as patches of twice the side.
    return LlavaProcessor(
        BlipImageProcessor(size=square), tokenizer, patch_size=2 * vision.patch_size,
        vision_feature_select_strategy="full", image_token=IMAGE_TOKEN,
    )  # fmt: skip


AutoConfig.register(MiniGPTv2Config.model_type, MiniGPTv2Config, exist_ok=True)
AutoModelForImageTextToText.register(MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, exist_ok=True)
