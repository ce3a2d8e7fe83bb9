"""Tiny random models of any type in transformers with their real processors, from a table of recipes.

Only settings that make the model small are set; everything else is the type's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf

from tests.support.tiny import SIDE
from tests.support.tiny_families import SQUARE, TEXT, VISION, Built, made, words
from tests.support.tiny_tokens import CHATML, bpe_tokenizer

EXPERTS: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"), 32
    ),
    **dict.fromkeys(("n_group", "topk_group"), 1),
}
SMALL_TEXT: dict[str, Any] = {**TEXT, **EXPERTS, "head_dim": 8}
SMALL_VISION: dict[str, Any] = {
    **VISION,
    "depth": 2,
    "num_heads": 2,
    "embed_dim": 24,
    "num_hidden_layers": 2,
    "out_hidden_size": TEXT["hidden_size"],
}


@dataclass(frozen=True)
class Recipe:
    """Recipe for a tiny model of one type.

    Attributes:
        images: class and settings of the image processor.
        processor: class and settings of the processor; settings that begin with `@` are classes of parts.
        image: the image placeholder in the model's input.
        mark: the chat template's placeholder of a picture, if different.
        special: more special tokens.
        named: attributes of the tokenizer that the processor looks for.
        ids: names of token ids in the configuration, and their tokens.
        text, vision, top: further settings of the configuration's parts.
        parts: further parts of the configuration, unchanged.
        drawn: parts of the names of weights that are initialized to zero and drawn here.
        calmed: pattern of the names of query norms, if scores are not scaled. Training makes these norms
            small; at one, scores are so large that rounding decides between them.
    """

    images: tuple[str, dict[str, Any]]
    processor: tuple[str, dict[str, Any]]
    image: str = "<image>"
    mark: str = ""
    special: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=lambda: {"image_token_id": "<image>"})
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    calmed: str = "nothing"
    bos: str | None = "<s>"


def template(mark: str) -> str:
    """A chat template that writes `mark` for a picture."""
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + mark + "\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def build(kind: str, recipe: Recipe) -> Built:
    """The model of a type with random weights, and its processor."""
    known = [*CHATML, recipe.image, *recipe.special, *recipe.named.values()]
    tokenizer = bpe_tokenizer(
        list(dict.fromkeys(known)), bos=recipe.bos, eos="<|im_end|>", named=dict(recipe.named)
    )
    processor = _processor(recipe, tokenizer)
    default = hf.AutoConfig.for_model(kind)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in recipe.ids.items()}
    parts: dict[str, Any] = dict(recipe.parts)
    if "text_config" in default.sub_configs:
        parts["text_config"] = _small(default, "text_config", SMALL_TEXT, {**words(tokenizer), **recipe.text})
    if "vision_config" in default.sub_configs:
        parts["vision_config"] = _small(default, "vision_config", SMALL_VISION, recipe.vision)
    config = type(default)(**{**parts, **ids, **recipe.top})
    model = made(hf.AutoModelForImageTextToText._model_mapping[type(config)], config, tokenizer)
    return calmed(randomised(model, *recipe.drawn), recipe.calmed), processor


def _small(default: Any, part: str, small: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """A small configuration part; only settings that the type has are set."""
    own = dict(own)
    kind = own.pop("model_type", None)
    template = hf.AutoConfig.for_model(kind) if kind else getattr(default, part, None)
    template = template if template is not None else default.sub_configs[part]()
    has = template.to_dict()
    names = {name: v for name, v in small.items() if name in has or name in template.attribute_map}
    names = {name: v for name, v in names.items() if own.get(name) != "-"}
    return type(template)(**{**names, **{name: v for name, v in own.items() if v != "-"}})


def _processor(recipe: Recipe, tokenizer: Any) -> Any:
    name, settings = recipe.images
    images = getattr(hf, name)(**settings)
    name, settings = recipe.processor
    options = {
        key.removeprefix("@"): getattr(hf, value)() if key.startswith("@") else value
        for key, value in settings.items()
    }
    return getattr(hf, name)(
        image_processor=images,
        tokenizer=tokenizer,
        chat_template=template(recipe.mark or recipe.image),
        **options,
    )


def randomised(model: Any, *names: str, std: float = 0.3) -> Any:
    """Draw those weights of the model that are initialized to zero or almost zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in names):
                weight.normal_(std=std)
    return model


def calmed(model: Any, pattern: str) -> Any:
    """Scale those norms so that scores of random queries and keys are about one."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(pattern, name):
                weight.mul_(len(weight) ** -0.5)
    return model


__all__ = ["SIDE", "SQUARE", "Recipe", "build", "randomised", "template"]
