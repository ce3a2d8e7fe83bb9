"""What is trained: projector and LoRA, before a frozen tower and around a frozen language model.

Several texts of one picture stand behind it in one row; each sees the picture and itself alone, at the
positions that it would have by itself. So the picture, most of the work, is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from myvlm.tinyworld.language import Exchange
from myvlm.tinyworld.smollm2.adapter import SITES
from myvlm.tinyworld.smollm2.parts import IMAGE_TOKEN

RANK = 16
FAR = -1e9


class LoRA(nn.Module):
    """A frozen linear map and what is added to it, of low rank (https://arxiv.org/abs/2106.09685)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.base(x) + (x @ self.down.T) @ self.up.T
        return added


class Trained(nn.Module):
    """All that a checkpoint holds: the projector behind standardised features, and the LoRA by site."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.config.vision_config.hidden_size
        self.projector = model.model.multi_modal_projector
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.lora = nn.ModuleDict()
        for number, layer in enumerate(model.model.language_model.layers):
            for site in SITES:
                adapted = LoRA(getattr(layer.self_attn, site))
                setattr(layer.self_attn, site, adapted)
                self.lora[f"{number}_{site}"] = _Halves(adapted)
        for name, parameter in model.named_parameters():
            learned = "multi_modal_projector" in name or name.endswith((".up", ".down"))
            parameter.requires_grad_(learned)

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Take every feature's mean and spread from these, B × 64 × width."""
        self.mean.copy_(features.mean((0, 1)))
        self.scale.copy_(features.std((0, 1)))

    def project(self, features: Tensor) -> Tensor:
        """Tower features, B × 64 × width, as the language model's tokens."""
        tokens: Tensor = self.projector((features - self.mean) / self.scale)
        return tokens

    def adapter(self) -> dict[str, Tensor]:
        """What ships: the standardising folded into the projector's first map."""
        first = self.projector.linear_1
        weight = first.weight / self.scale
        tensors = {
            "projector.linear_1.weight": weight, "projector.linear_1.bias": first.bias - weight @ self.mean,
            "projector.linear_2.weight": self.projector.linear_2.weight,
            "projector.linear_2.bias": self.projector.linear_2.bias,
        }  # fmt: skip
        for name, halves in self.lora.items():
            number, site = name.split("_", 1)
            tensors[f"lora.{number}.{site}.down"] = halves.down
            tensors[f"lora.{number}.{site}.up"] = halves.up
        return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


class _Halves(nn.Module):
    """A LoRA's own parameters, without the map they stand beside."""

    def __init__(self, lora: LoRA) -> None:
        super().__init__()
        self.down, self.up = lora.down, lora.up


@dataclass(frozen=True)
class Packed:
    """`ids`, `positions`, `labels` (−100: not learned): B × T; `owner`: 0 the picture's, else the text's
    number, −1 nothing; pictures' tokens are those with the id of the image token."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    owner: Tensor

    def to(self, device: str) -> Packed:
        return Packed(*(tensor.to(device) for tensor in vars(self).values()))

    def mask(self) -> Tensor:
        """B × 1 × T × T, added to attention scores."""
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        own = self.owner[:, :, None] == self.owner[:, None, :]
        seen = earlier & (own | (self.owner[:, None, :] == 0))
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, FAR)[:, None]


def pack(tokenizer: Any, template: str, texts: Sequence[Sequence[Exchange]], image_tokens: int) -> Packed:
    """The texts of each picture behind it."""
    rows = [_pack_one(tokenizer, template, own, image_tokens) for own in texts]
    longest = max(len(row[0]) for row in rows)
    fills = (tokenizer.pad_token_id, 0, -100, -1)
    columns = [
        torch.tensor([row[i] + [fill] * (longest - len(row[i])) for row in rows])
        for i, fill in enumerate(fills)
    ]
    return Packed(*columns)


def _pack_one(
    tokenizer: Any, template: str, texts: Sequence[Exchange], image_tokens: int
) -> tuple[list[int], list[int], list[int], list[int]]:
    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    def say(prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        said: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False,
            add_generation_prompt=True,
        )  # fmt: skip
        return said

    before = encode(say("").split(IMAGE_TOKEN)[0])
    ids = before + [tokenizer.image_token_id] * image_tokens
    labels, owner, positions = [-100] * len(ids), [0] * len(ids), list(range(len(ids)))
    start = len(ids)
    for number, exchange in enumerate(texts, start=1):
        asked = encode(say(exchange.prompt).split(IMAGE_TOKEN)[1])
        answer = [*encode(exchange.answer), tokenizer.eos_token_id]
        ids += asked + answer
        labels += [-100] * len(asked) + answer
        owner += [number] * (len(asked) + len(answer))
        positions += range(start, start + len(asked) + len(answer))
    return ids, positions, labels, owner


def packed_loss(
    model: Any, trained: Trained, features: Tensor, packed: Packed, *, bfloat16: bool = False
) -> Tensor:
    """Mean cross-entropy of the answers, each token as much as any other; `bfloat16`: the language model's
    products in it (1.5 times as fast on a CPU that has them), everything else in float32."""
    language = model.model.language_model
    embedded = language.embed_tokens(packed.ids)
    shown = (packed.ids == model.config.image_token_id)[..., None]
    embedded = embedded.masked_scatter(shown, trained.project(features).flatten(0, 1))
    said = packed.labels[:, 1:] != -100
    with torch.autocast(embedded.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        hidden = language(
            inputs_embeds=embedded,
            attention_mask=packed.mask(),
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][said])
    return F.cross_entropy(logits.float(), packed.labels[:, 1:][said])
