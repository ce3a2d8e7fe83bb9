"""Builds MiniGPT-v2 from its official files: the checkpoint with its LoRA, EVA ViT-g, Llama-2-7b-chat.

The files are read with `weights_only=True`, so no code in them is executed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Blip2VisionConfig

from myvlm.backbones.families.minigpt.model import (
    IMAGE_TOKEN,
    MiniGPTv2Config,
    MiniGPTv2ForConditionalGeneration,
    minigpt_processor,
)
from myvlm.errors import BackboneError, MissingFileError, first_line

LORA_ALPHA = 16
SPARE_ROWS = 64
"""Rows added to Llama's embedding table: for the image placeholder and for ids of concept rows."""
LORA = re.compile(
    r"llama_model\.base_model\.model\.model\.(layers\.\d+\.self_attn\.[qkvo]_proj)\.lora_([AB])"
    r"(?:\.default)?\.weight"
)
VISION = (  # official name, name in Blip2VisionModel
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def load_minigpt_v2(
    checkpoint: str | Path,
    *,
    language_model: str | Path,
    vision: str | Path,
    vision_config: Blip2VisionConfig | None = None,
    dtype: torch.dtype = torch.float16,
) -> tuple[Any, Any]:
    """Load MiniGPT-v2 and its processor, for `MyVLM(model, processor)` or to save in transformers' format.

    Args:
        checkpoint: `minigptv2_checkpoint.pth`: a projector and a LoRA, which is merged.
        language_model: folder or hub name of Llama-2-7b-chat in transformers' format.
        vision: `eva_vit_g.pth`; its first 39 blocks are used, its positions are interpolated to 448 pixels.
        vision_config: sizes of the vision tower, if they differ from these.
        dtype: the model's dtype.

    Raises:
        MissingFileError: a file does not exist.
        BackboneError: a file does not have the expected content; the message names what is missing.
    """
    tower = vision_config or Blip2VisionConfig(image_size=448)
    learned, encoder = _read(checkpoint), _read(vision)
    llama = AutoModelForCausalLM.from_pretrained(language_model, dtype=dtype)
    processor = minigpt_processor(AutoTokenizer.from_pretrained(language_model), tower)
    text = llama.config
    words, text.vocab_size = text.vocab_size, text.vocab_size + SPARE_ROWS
    config = MiniGPTv2Config(
        vision_config=tower,
        text_config=text,
        image_token_index=processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tie_word_embeddings=False,
    )
    model = MiniGPTv2ForConditionalGeneration(config).to(dtype)
    weights = {
        **_language(llama.state_dict(), learned, words, processor.tokenizer.unk_token_id),
        **_projector(learned),
        **_tower(encoder, learned, tower),
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise _file_error(checkpoint, f"without {missing[:4]}, with {unexpected[:4]}")
    model.generation_config = llama.generation_config
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor


def _read(file: str | Path) -> Mapping[str, Tensor]:
    """The tensors of an official file, which are under the key `model` or at the top level."""
    if not Path(file).is_file():
        raise MissingFileError(
            "A file of MiniGPT-v2 is missing.",
            got=str(file),
            expected="a .pth file",
            fix="download it from MiniGPT-v2's project page",
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _file_error(file, f"{type(error).__name__}: {first_line(error)}") from error
    tensors = content.get("model", content) if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise _file_error(file, f"a {type(content).__name__} without tensors")
    return dict(tensors)


def _language(
    llama: Mapping[str, Tensor], learned: Mapping[str, Tensor], words: int, unknown: int
) -> dict[str, Tensor]:
    """Llama's weights with the LoRA merged, and rows for the spare ids, which are never generated."""
    merged = {name: tensor.clone() for name, tensor in llama.items()}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in learned.items():
        if found := LORA.fullmatch(name):
            pairs.setdefault(found[1], {})[found[2]] = tensor.float()
    for place, pair in pairs.items():
        down, up, name = pair["A"], pair["B"], f"model.{place}.weight"
        merged[name] = (merged[name].float() + LORA_ALPHA / len(down) * (up @ down)).to(merged[name].dtype)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        spare = merged[name][unknown].expand(SPARE_ROWS, -1)  # as unlikely as the unknown-word token
        merged[name] = torch.cat([merged[name][:words], spare])
    return {
        name if name.startswith("lm_head") else f"model.language_model.{name.removeprefix('model.')}": tensor
        for name, tensor in merged.items()
    }


def _projector(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {kind: learned.get(f"llama_proj.{kind}") for kind in ("weight", "bias")}
    return {f"model.multi_modal_projector.{kind}": own for kind, own in named.items() if own is not None}


def _tower(
    encoder: Mapping[str, Tensor], learned: Mapping[str, Tensor], config: Blip2VisionConfig
) -> dict[str, Tensor]:
    """EVA's weights under `Blip2VisionModel`'s names; the final layer norm is the identity unless trained."""
    named: dict[str, Tensor] = {}
    for name, tensor in encoder.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        if block and int(block[1]) >= config.num_hidden_layers:
            continue  # the last block is not used
        for theirs, ours in VISION:
            if re.search(theirs, name):
                named[re.sub(theirs, ours, name)] = tensor
    for layer in range(config.num_hidden_layers):
        query, value = (encoder.get(f"blocks.{layer}.attn.{part}_bias") for part in "qv")
        if query is not None and value is not None:
            bias = torch.cat([query, torch.zeros_like(query), value])  # keys have no bias
            named[f"encoder.layers.{layer}.self_attn.qkv.bias"] = bias
    place = "embeddings.position_embedding"
    if place in named:
        named[place] = _interpolated_positions(named[place], config.image_size // config.patch_size)
    named["post_layernorm.weight"] = learned.get("ln_vision.weight", torch.ones(config.hidden_size))
    named["post_layernorm.bias"] = learned.get("ln_vision.bias", torch.zeros(config.hidden_size))
    return {f"model.vision_tower.{name}": tensor for name, tensor in named.items()}


def _interpolated_positions(positions: Tensor, side: int) -> Tensor:
    """Interpolate position embeddings `1 × (1 + s²) × D` to `side²` patches."""
    first, grid = positions[:, :1], positions[:, 1:]
    before = int(grid.shape[1] ** 0.5)
    square = grid.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    square = functional.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([first, square.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(first.dtype)], dim=1)


def _file_error(file: str | Path, got: str) -> BackboneError:
    return BackboneError(
        f"{Path(file).name} is not the expected file of MiniGPT-v2, or is truncated.",
        got=got,
        expected="minigptv2_checkpoint.pth and eva_vit_g.pth, as published",
        fix="download it again; a file that contains more than tensors is refused",
    )
