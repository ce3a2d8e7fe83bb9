"""Published checkpoints without their weights.

The model is on the meta device, or on another with random weights. The processor has a stand-in tokenizer
with the published length and the published special tokens at their ids. The facts are in `checkpoints/`, one
file per checkpoint, with their sources and what could not be confirmed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

import myvlm.backbones.families.minigpt.model  # noqa: F401  (makes MiniGPT-v2 known to transformers)
from tests.support.tiny_tokens import TEMPLATES

FOLDER = Path(__file__).with_name("checkpoints")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PARTS = {"text_config", "vision_config", "qformer_config"}


@cache
def facts(name: str) -> dict[str, Any]:
    """The facts of a checkpoint, by the name of its file."""
    read: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return read


def published(
    name: str,
    *,
    rows: int | None = None,
    layers: int | None = None,
    device: str = "meta",
    dtype: torch.dtype | None = None,
) -> tuple[Any, Any]:
    """The model, on the meta device or with random weights, and its processor.

    Args:
        rows: rows of the embedding table, if not the published number.
        layers: layers of each part of the model, if fewer than published.
        device: device of the weights; on `meta` nothing is drawn.
        dtype: of the weights, by default float32.
    """
    known = facts(name)
    config = dict(known["config"])
    if rows is not None:
        config["text_config"] = {**config["text_config"], "vocab_size": rows}
    if layers is not None:
        for part in PARTS & config.keys():
            count = "depth" if "depth" in config[part] else "num_hidden_layers"
            config[part] = {**config[part], count: layers}
    config = hf.AutoConfig.for_model(**config)
    config._name_or_path = known["checkpoint"]
    if config.vision_config.model_type in ("blip_2_vision_model", "instructblip_vision_model"):
        # With the tower's own initial weights, all its features would be almost zero.
        config.vision_config.initializer_range = 0.02
    with torch.device(device):
        options = {} if dtype is None else {"dtype": dtype}
        model = hf.AutoModelForImageTextToText.from_config(config, **options)
    ends = known["eos"] if len(known["eos"]) > 1 else known["eos"][0]
    model.generation_config.eos_token_id = ends
    return model.eval(), _processor(known)


def _processor(known: dict[str, Any]) -> Any:
    tokenizer = _tokenizer(known["tokenizer"])
    settings = dict(known["image_processor"])
    kind, length = getattr(hf, settings.pop("class")), settings.pop("image_seq_length", None)
    images = kind(**settings)
    if length is not None:
        images.image_seq_length = length
    options = dict(known["processor"])
    parts = [images, tokenizer]
    if "reader" in known:  # the Q-Former's
        parts.append(_tokenizer(known["reader"]))
    if "video_processor" in known:
        parts.append(getattr(hf, known["video_processor"])())
    template = TEMPLATES[known["chat_template"]] if known["chat_template"] else None
    kind = getattr(hf, options.pop("kind"))
    if kind is hf.Molmo2Processor:  # other argument order
        parts = [parts[0], parts[2], parts[1]]
    processor = kind(*parts, chat_template=template, **options)
    if isinstance(processor, (hf.Blip2Processor, hf.InstructBlipProcessor)):
        # It writes placeholders from a token object, but takes a string if the tokenizer names the token.
        processor.image_token = AddedToken(str(processor.image_token), normalized=False, special=True)
    return processor


class _Published(hf.PreTrainedTokenizerFast):
    """Reports as many tokens as the published tokenizer, but has only the special ones."""

    published = 0

    def __len__(self) -> int:
        return self.published


def _tokenizer(known: dict[str, Any]) -> Any:
    """A tokenizer that maps all words to one token, whose id means something else in the published one."""
    special: dict[str, int] = dict(known["tokens"])
    for pattern, first, count in known.get("runs", []):
        special |= {pattern.format(index): first + index for index in range(count)}
    # A real tokenizer can write any word, so the unknown-word token must not stand for it.
    word = next(index for index in range(20, known["length"]) if index not in special.values())
    core = Tokenizer(models.WordLevel({"word": word, **special}, unk_token="word"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bos = known.get("bos_token")
    if known.get("adds_bos"):
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, special[bos])]
        )
    named = {
        name: known[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if name in known
    }
    tokenizer = _Published(
        tokenizer_object=core,
        additional_special_tokens=known.get("extra", []),
        extra_special_tokens=known.get("named", {}),
        **named,
    )
    tokenizer.published = known["length"]
    return tokenizer
