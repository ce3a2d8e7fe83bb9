"""The paper's learning step: the whole model forward and backward, with all attention maps in memory.

It uses only the public API of transformers and torch, not myvlm, so it is a reference for loss and gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

PROMPTS = {
    "llava": "USER: <image>\n{} ASSISTANT:",
    "llava_next": "USER: <image>\n{} ASSISTANT:",
    "blip-2": "{}",
}
"""BLIP-2 takes an instruction unchanged; only questions have a template."""


@dataclass(frozen=True)
class Batch:
    """The batch of one step: `B` photos, each with an instruction and an answer."""

    images: Sequence[Image.Image]
    prompts: Sequence[str]
    answers: Sequence[str]


class PaperStep:
    """Computes the objective of §3.3 (LLaVA) or eq. 4 (BLIP-2) of arXiv 2403.14599.

    Args:
        model: a frozen LLaVA, LLaVA-NeXT or BLIP-2 with OPT.
        processor: its processor.
        batch: the photos, instructions and answers.
        weight: λ, the weight of the attention penalty.
    """

    def __init__(self, model: Any, processor: Any, batch: Batch, weight: float) -> None:
        self.model, self.weight = model, weight
        self.qformer = model.config.model_type == "blip-2"
        template = PROMPTS[model.config.model_type]
        image_id, device = model.config.image_token_id, model.device
        ids, labels, places = [], [], []
        for photo, prompt, answer in zip(batch.images, batch.prompts, batch.answers, strict=True):
            [asked] = processor(text=[template.format(prompt)], images=[photo])["input_ids"]
            asked = torch.as_tensor(asked).tolist()
            place = len(asked) - asked[::-1].index(image_id)  # after the last image token
            if not self.qformer:
                asked.insert(place, 0)  # any id: its embedding is replaced by the concept's row
            said = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
            said = [*said, processor.tokenizer.eos_token_id]
            ids.append(asked + said)
            labels.append([-100] * len(asked) + said)
            places.append(place)
        self.length = max(map(len, ids))
        self.ids = _padded(ids, processor.tokenizer.pad_token_id, device)
        self.mask = _padded([[1] * len(one) for one in ids], 0, device)
        self.labels = _padded(labels, -100, device)
        self.places = torch.tensor(places, device=device)
        pixels = processor.image_processor(list(batch.images), return_tensors="pt")
        self.pixels = pixels.to(device, model.dtype)

    def loss(self, direction: Tensor) -> Tensor:
        """The objective for one row: a scalar, differentiable with respect to `direction` (`1 × D`)."""
        with _eager(self.model):
            return self._blip2_loss(direction) if self.qformer else self._llava_loss(direction)

    def _llava_loss(self, direction: Tensor) -> Tensor:
        images = self.ids == self.model.config.image_token_id
        with torch.no_grad():
            features = self.model.get_image_features(**self.pixels, return_dict=True).pooler_output
        embeds = self.model.get_input_embeddings()(self.ids)
        embeds = embeds.masked_scatter(images[..., None], torch.cat(list(features)).to(embeds.dtype))
        norms = torch.stack([feature.float().norm(dim=-1).mean() for feature in features])
        rows = functional.normalize(direction, dim=-1) * norms[:, None]
        samples = torch.arange(len(rows), device=rows.device)
        embeds = embeds.index_put((samples, self.places), rows.to(embeds.dtype))
        output = self.model(
            inputs_embeds=embeds, attention_mask=self.mask, labels=self.labels, output_attentions=True
        )
        penalty = sum(self._mass_on_row(layer) for layer in output.attentions)
        return output.loss.float() + self.weight * penalty

    def _mass_on_row(self, attention: Tensor) -> Tensor:
        """Mean squared attention of all later tokens of a sample to its row; mean over samples."""
        samples = torch.arange(len(attention), device=attention.device)
        given = attention[samples, :, :, self.places].float()  # B × H × S
        later = torch.arange(self.length, device=attention.device) > self.places[:, None]
        later = (later & self.mask.bool())[:, None]
        return ((given.pow(2) * later).sum(-1) / later.sum(-1)).mean()

    def _blip2_loss(self, direction: Tensor) -> Tensor:
        model = self.model
        with torch.no_grad():
            tokens = model.vision_model(**self.pixels).last_hidden_state
        rows = functional.normalize(direction, dim=-1) * tokens.float().norm(dim=-1).mean(1)[:, None, None]
        tokens = torch.cat([tokens, rows.to(tokens.dtype)], dim=1)
        with _row_as_its_image(model.qformer) as attentions:
            queries = model.qformer(
                query_embeds=model.query_tokens.expand(len(tokens), -1, -1),
                encoder_hidden_states=tokens,
                encoder_attention_mask=torch.ones(tokens.shape[:2], device=tokens.device),
            ).last_hidden_state
        visual = model.language_projection(queries.to(tokens.dtype))
        embeds = model.get_input_embeddings()(self.ids)
        images = self.ids == model.config.image_token_id
        embeds = embeds.masked_scatter(images[..., None], visual.to(embeds.dtype))
        output = model.language_model(
            inputs_embeds=embeds, attention_mask=self.mask, labels=self.labels, output_attentions=True
        )
        return output.loss.float() + self.weight * sum(attentions)


@contextmanager
def _row_as_its_image(qformer: Any) -> Iterator[list[Tensor]]:
    """Rescale the last row's keys and values to the image's mean norm; yields its mean p² per layer."""
    found: list[Tensor] = []
    handles = []

    def rescale(module: Any, args: Any, output: Tensor) -> Tensor:
        image, row = output[:, :-1], output[:, -1:]
        norm = image.float().norm(dim=-1).mean(1)[:, None, None]
        scaled = row.float() * (norm / row.float().norm(dim=-1, keepdim=True).clamp(min=1e-6))
        return torch.cat([image, scaled.to(output.dtype)], dim=1)

    for layer in qformer.encoder.layer:
        if not layer.has_cross_attention:
            continue
        attention = layer.crossattention.attention
        kept: dict[str, Tensor] = {}

        def keep(module: Any, args: Any, output: Tensor, name: str, kept: dict[str, Tensor] = kept) -> None:
            kept[name] = output

        def record(module: Any, args: Any, output: Any, kept: dict[str, Tensor] = kept) -> None:
            heads = module.num_attention_heads
            query, key = (kept[name].unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("q", "k"))
            scores = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
            found.append(scores.softmax(-1)[..., -1].pow(2).mean())

        handles += [
            attention.key.register_forward_hook(rescale),
            attention.value.register_forward_hook(rescale),
        ]
        handles.append(attention.query.register_forward_hook(lambda m, a, o, k=keep: k(m, a, o, "q")))
        handles.append(attention.key.register_forward_hook(lambda m, a, o, k=keep: k(m, a, o, "k")))
        handles.append(attention.register_forward_hook(record))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Use eager attention, the only implementation that returns attention maps."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


def _padded(samples: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    tensors = [torch.tensor(sample) for sample in samples]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill).to(device)
