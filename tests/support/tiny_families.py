"""A tiny random model and its real processor for every family, built in process without downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from transformers.models.smolvlm import processing_smolvlm

from myvlm.backbones.families.minigpt.model import (
    MiniGPTv2Config,
    MiniGPTv2ForConditionalGeneration,
    minigpt_processor,
)
from tests.support.tiny import SIDE, tiny_llava
from tests.support.tiny_tokens import CHATML, GEMMA, QWEN, SMOLVLM, SYSTEM, TEMPLATES, bpe_tokenizer

Built = tuple[Any, Any]
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "attention_dropout": 0.5,  # reveals a model left in training mode
}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 7,
    "attention_dropout": 0.5,
}
SQUARE = {"height": SIDE, "width": SIDE}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE]]
SPARE = 5


def words(tokenizer: Any) -> dict[str, Any]:
    """The settings that a language model's configuration takes from the tokenizer."""
    return {
        "vocab_size": len(tokenizer) + SPARE,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def made(kind: Any, config: Any, tokenizer: Any, *ends: str, seed: int = 0) -> Any:
    """The model with random weights and the generation settings of its checkpoint."""
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "projector" in name or "merger" in name or "connector" in name or "modality" in name:
                weight.mul_(4)  # pictures must matter to a random language model
            if name.endswith("mm_input_projection_weight"):
                weight.normal_()  # Gemma's is initialized to zero
    found = [tokenizer.convert_tokens_to_ids(token) for token in ends or (tokenizer.eos_token,)]
    model.generation_config.eos_token_id = found if len(found) > 1 else found[0]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def humanvlm() -> Built:
    """A LLaVA with a SigLIP tower, and a processor like old checkpoints', which cannot count tokens."""
    model, processor = tiny_llava(tower="siglip", chat=True)
    model.config._name_or_path = "OpenFace-CQUPT/Human_LLaVA"
    processor.patch_size = processor.vision_feature_select_strategy = None
    return model, processor


def llava_next(language: str) -> Built:
    tokenizer = bpe_tokenizer(["<image>"], bos="<s>", adds_bos=True, named={"image_token": "<image>"})
    kind = hf.LlamaConfig if language == "vicuna" else hf.MistralConfig
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=kind(**TEXT, **words(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
    )
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATES[language],
    )  # fmt: skip
    return made(hf.LlavaNextForConditionalGeneration, config, tokenizer), processor


def llava_onevision() -> Built:
    named = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = bpe_tokenizer([*CHATML, "<image>", "<video>"], eos="<|im_end|>", named=named)
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.Qwen2Config(**TEXT, **words(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",  # four tiles are shrunk
    )
    images = hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    processor = hf.LlavaOnevisionProcessor(
        images, tokenizer, hf.LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=16,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_2",
        chat_template=TEMPLATES["onevision"],
    )  # fmt: skip
    return made(hf.LlavaOnevisionForConditionalGeneration, config, tokenizer), processor


def qwen(version: str) -> Built:
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokenizer = bpe_tokenizer(QWEN, eos="<|im_end|>", named=named)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(("vision_start", "vision_end", "image", "video"), QWEN[2:], strict=True)
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if version == "Qwen2VL":
        vision |= {"embed_dim": 32, "hidden_size": TEXT["hidden_size"], "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": TEXT["hidden_size"]}
    if version == "Qwen2_5_VL":
        vision |= {"window_size": 28, "fullatt_block_indexes": [1]}
    head = TEXT["hidden_size"] // TEXT["num_attention_heads"]
    sections = [head // 4, head // 8, head // 8]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    if version == "Qwen3VL":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        rope |= {"mrope_interleaved": True}
    config = getattr(hf, f"{version}Config")(
        vision_config=vision,
        text_config={**TEXT, **words(tokenizer), "rope_parameters": rope, "head_dim": head},
        **ids,
    )
    size = {"shortest_edge": 14 * 14, "longest_edge": 56 * 56}
    processor = getattr(hf, f"{version}Processor")(
        hf.Qwen2VLImageProcessor(patch_size=7, merge_size=2, temporal_patch_size=2, size=size), tokenizer,
        hf.Qwen2VLVideoProcessor() if version != "Qwen3VL" else hf.Qwen3VLVideoProcessor(),
        chat_template=TEMPLATES["qwen"],
    )  # fmt: skip
    kind = getattr(hf, f"{version}ForConditionalGeneration")
    return made(kind, config, tokenizer, "<|im_end|>", "</s>"), processor


def internvl() -> Built:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = bpe_tokenizer([*CHATML, *named.values()], eos="<|im_end|>", named=named)
    vision = {**VISION, "image_size": [SIDE, SIDE], "patch_size": [7, 7]}
    config = hf.InternVLConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, **words(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = hf.GotOcr2ImageProcessor(size=SQUARE, min_patches=1, max_patches=4, crop_to_patches=True)
    processor = hf.InternVLProcessor(
        images, tokenizer, hf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4,
        chat_template=TEMPLATES["internvl"],
    )  # fmt: skip
    return made(hf.InternVLForConditionalGeneration, config, tokenizer), processor


def gemma3() -> Built:
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = bpe_tokenizer(GEMMA, bos="<bos>", adds_bos=True, named=named)
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(
            **TEXT, **words(tokenizer), head_dim=8, query_pre_attn_scalar=8, sliding_window=12,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size=SQUARE), tokenizer, image_seq_length=4, chat_template=TEMPLATES["gemma"]
    )
    return made(hf.Gemma3ForConditionalGeneration, config, tokenizer, "</s>", "<end_of_turn>"), processor


def paligemma(version: int = 1) -> Built:
    tokenizer = bpe_tokenizer(["<image>"], bos="<bos>", named={"image_token": "<image>"})
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, tokenizer)  # adds tokens for boxes
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, projection_dim=TEXT["hidden_size"]),
        text_config=hf.GemmaConfig(**TEXT, **words(tokenizer), head_dim=8)
        if version == 1
        else hf.Gemma2Config(
            **TEXT, **words(tokenizer), head_dim=8, query_pre_attn_scalar=4,
            attn_logit_softcapping=2.0, final_logit_softcapping=30.0,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=TEXT["hidden_size"],
        hidden_size=TEXT["hidden_size"],
    )  # fmt: skip
    return made(hf.PaliGemmaForConditionalGeneration, config, tokenizer), processor


def mistral3() -> Built:
    special = [
        "[INST]",
        "[/INST]",
        "[IMG]",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
    ]
    tokenizer = bpe_tokenizer(special, bos="<s>", adds_bos=True)
    tokenizer.add_tokens(SYSTEM)  # spelled by letters it would be 1,700 tokens and most of the work
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**{**VISION, "image_size": 56, "num_attention_heads": 3}),
        text_config=hf.MistralConfig(
            **TEXT, **words(tokenizer), head_dim=TEXT["hidden_size"] // TEXT["num_attention_heads"]
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = hf.PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7})
    processor = hf.PixtralProcessor(
        images, tokenizer, patch_size=7, spatial_merge_size=2, chat_template=TEMPLATES["mistral3"]
    )
    return made(hf.Mistral3ForConditionalGeneration, config, tokenizer), processor


def idefics3(version: str) -> Built:
    named = {"image_token": "<image>"}
    tokenizer = bpe_tokenizer(SMOLVLM, bos="<s>", eos="<end_of_utterance>", named=named)
    config = getattr(hf, f"{version}Config")(
        vision_config={**VISION, "patch_size": 7},
        text_config=hf.LlamaConfig(**TEXT, **words(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    size = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    # SmolVLM2's processor requires a package that spells out the number of video frames; pictures have none.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    images = getattr(hf, f"{version}ImageProcessor")(**size)
    others = [] if version == "Idefics3" else [hf.SmolVLMVideoProcessor()]
    processor = getattr(hf, f"{version}Processor")(
        images, tokenizer, *others, image_seq_len=4, chat_template=TEMPLATES["smolvlm"]
    )
    return made(getattr(hf, f"{version}ForConditionalGeneration"), config, tokenizer), processor


def minigpt() -> Built:
    tokenizer = bpe_tokenizer(["<unk>"], bos="<s>", adds_bos=True, unk="<unk>")
    vision = {name: size for name, size in VISION.items() if name != "hidden_size"}
    tower = hf.Blip2VisionConfig(**vision, hidden_size=24)
    processor = minigpt_processor(tokenizer, tower)
    config = MiniGPTv2Config(
        vision_config=tower,
        text_config=hf.LlamaConfig(**TEXT, **words(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    model = made(MiniGPTv2ForConditionalGeneration, config, tokenizer)
    with torch.no_grad():
        for weight in model.model.vision_tower.parameters():
            weight.normal_(std=0.2)  # its published initial range is almost zero
    return model, processor


def by_recipe(kind: str) -> Built:
    """A model of `tiny_recipes`, which imports this file."""
    from tests.support.tiny_recipes import TYPES

    return TYPES[kind]()


FAMILIES: dict[str, Callable[[], Built]] = {
    "LLaVA-1.5": lambda: tiny_llava(chat=True),
    "HumanVLM": humanvlm,
    "LLaVA-NeXT, Vicuna": lambda: llava_next("vicuna"),
    "LLaVA-NeXT, Mistral": lambda: llava_next("mistral"),
    "LLaVA-OneVision": llava_onevision,
    "Qwen2-VL": lambda: qwen("Qwen2VL"),
    "Qwen2.5-VL": lambda: qwen("Qwen2_5_VL"),
    "Qwen3-VL": lambda: qwen("Qwen3VL"),
    "InternVL": internvl,
    "Gemma 3": gemma3,
    "PaliGemma": paligemma,
    "PaliGemma 2": lambda: paligemma(2),
    "Mistral 3": mistral3,
    "Idefics3": lambda: idefics3("Idefics3"),
    "SmolVLM2": lambda: idefics3("SmolVLM"),
    "MiniGPT-v2": minigpt,
    "GLM-4.1V": lambda: by_recipe("glm4v"),
    "Molmo 2": lambda: by_recipe("molmo2"),
}
