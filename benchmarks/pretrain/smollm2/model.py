"""The trained parts between a frozen tower and a frozen language model, projector and LoRA, and the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrain.smollm2.packing import Packed
from myvlm.tinyworld.smollm2.adapter import SITES

RANK = 16


class LoRA(nn.Module):
    """A frozen linear map plus a trained low-rank one (https://arxiv.org/abs/2106.09685)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))
        self.adds = True

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.base(x)
        return mapped + (x @ self.down.T) @ self.up.T if self.adds else mapped


class Trained(nn.Module):
    """The content of a checkpoint: the projector of standardised features, and the LoRA of every layer."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.config.vision_config.hidden_size
        self.projector = model.model.multi_modal_projector
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.lora = nn.ModuleDict()
        self._sites: list[LoRA] = []
        for number, layer in enumerate(model.model.language_model.layers):
            for site in SITES:
                adapted = LoRA(getattr(layer.self_attn, site))
                setattr(layer.self_attn, site, adapted)
                self.lora[f"{number}_{site}"] = _Halves(adapted)
                self._sites.append(adapted)
        for name, parameter in model.named_parameters():
            learned = "multi_modal_projector" in name or name.endswith((".up", ".down"))
            parameter.requires_grad_(learned)

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Set the mean and standard deviation of every feature from `features`, B × 64 × width."""
        self.mean.copy_(features.mean((0, 1)))
        self.scale.copy_(features.std((0, 1)))

    def project(self, features: Tensor) -> Tensor:
        """Map tower features, B × 64 × width, to tokens of the language model."""
        tokens: Tensor = self.projector((features - self.mean) / self.scale)
        return tokens

    @contextmanager
    def untaught(self) -> Iterator[None]:
        """Run the language model without the LoRA inside this context."""
        for site in self._sites:
            site.adds = False
        try:
            yield
        finally:
            for site in self._sites:
                site.adds = True

    def adapter(self) -> dict[str, Tensor]:
        """The weights that ship, with the standardisation folded into the projector's first layer."""
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

    @torch.no_grad()
    def load(self, adapter: Mapping[str, Tensor]) -> None:
        """Load an `adapter`, undoing the folding with the current mean and standard deviation."""
        first, second = self.projector.linear_1, self.projector.linear_2
        weight = adapter["projector.linear_1.weight"].float()
        first.weight.copy_(weight * self.scale.cpu())
        first.bias.copy_(adapter["projector.linear_1.bias"].float() + weight @ self.mean.cpu())
        second.weight.copy_(adapter["projector.linear_2.weight"])
        second.bias.copy_(adapter["projector.linear_2.bias"])
        for name, halves in self.lora.items():
            number, site = name.split("_", 1)
            for half, own in halves.named_parameters():
                own.copy_(adapter[f"lora.{number}.{site}.{half}"])


class _Halves(nn.Module):
    """The trained parameters of a LoRA, without the frozen map."""

    def __init__(self, lora: LoRA) -> None:
        super().__init__()
        self.down, self.up = lora.down, lora.up


def packed_loss(
    model: Any, trained: Trained, features: Tensor, packed: Packed, words: Packed | None = None, *,
    bfloat16: bool = False,
) -> Tensor:  # fmt: skip
    """Mean loss over the answers' tokens: cross-entropy, mixed with the divergence from the teacher.

    The teacher is the language model without the trained parts; it gets the picture's content in words.

    Args:
        features: B × 64 × width, from the tower.
        words: the teacher's input: the answers of `packed` that have a teacher, in their order.
        bfloat16: compute the language model in bfloat16 (1.5 times as fast on a CPU that supports it).
    """
    shown = (packed.ids == model.config.image_token_id)[..., None]
    embedded = model.get_input_embeddings()(packed.ids)
    embedded = embedded.masked_scatter(shown, trained.project(features).flatten(0, 1))
    logits, said = _logits(model, packed, embedded, bfloat16)
    loss = F.cross_entropy(logits, packed.labels[:, 1:][said], reduction="none")
    weight = packed.teacher[:, 1:][said]
    if words is not None and weight.any():
        with torch.no_grad(), trained.untaught():
            target, _ = _logits(model, words, model.get_input_embeddings()(words.ids), bfloat16)
        own = logits[weight > 0].log_softmax(-1)
        apart = F.kl_div(own, target.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        loss = loss.lerp(loss.masked_scatter(weight > 0, apart), weight)
    return loss.mean()


def _logits(model: Any, packed: Packed, embedded: Tensor, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """Logits of the answers' tokens (N × vocabulary), and their positions (B × (T − 1))."""
    said = packed.labels[:, 1:] != -100
    with torch.autocast(embedded.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        hidden = model.model.language_model(
            inputs_embeds=embedded, attention_mask=packed.mask(), position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        logits = model.lm_head(hidden[:, :-1][said])
    return logits.float(), said
