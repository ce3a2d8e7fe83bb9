"""BLIP-2 (https://arxiv.org/abs/2301.12597): a vision tower, a Q-Former, and OPT or T5.

Concept rows are appended to the picture's features, to which the Q-Former's queries attend (§3.3 of arXiv
2403.14599).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones import tokens as text
from myvlm.backbones.base import Backbone, ConceptRows, Generation, Loss
from myvlm.backbones.generation import run_generate
from myvlm.backbones.probe import Lack
from myvlm.backbones.qformer.attention import query_token_attention
from myvlm.backbones.qformer.hooks import QFormerRows, features_of_words, value_path
from myvlm.backbones.qformer.probe import QFormerProbe
from myvlm.backbones.qformer.prompts import Blip2Prompter, Taught
from myvlm.backbones.registry import register_backbone
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import BackboneError


@register_backbone
class Blip2Backbone(Backbone):
    """`Blip2ForConditionalGeneration` with OPT or T5.

    A row is as wide as the vision tower's features. With a norm rule other than `none`, a row is rescaled to
    that norm of the picture's features, and in every cross-attention its key and value are rescaled to the
    same norm (mean or first) of the picture's keys and values, so that only its direction is learned. With
    `none` nothing is rescaled.

    Raises:
        BackboneError: the model has no language model, or does not accept pictures that are already encoded.
    """

    family = "blip2"
    model_types = ("blip-2",)
    default_caption_prompt = ""  # without a prompt, the checkpoints write a caption
    caption_prompts: ClassVar[tuple[str, ...]] = ("",)
    prompter_kind: ClassVar[type[Blip2Prompter]] = Blip2Prompter
    lacks: ClassVar[Mapping[Lack, str]] = {"kept_prefixes": "the tokens before the concept depend on it"}

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, processor, name=name)
        forward = inspect.signature(model.forward).parameters
        if not hasattr(model, "language_model") or "mm_encoder_outputs" not in forward:
            raise BackboneError(
                "The model has no language head, or does not accept encoded images.",
                got=type(model).__name__,
                expected="a Blip2ForConditionalGeneration whose forward has `mm_encoder_outputs`",
                fix="load the model with its language head, in transformers 5.23 or later",
            )
        self.prompter = self.prompter_kind(model, processor)

    @property
    def dim(self) -> int:
        return int(self.model.config.qformer_config.encoder_hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        # The dtype of the pixels: query tokens and Q-Former stay in float32 when the vision tower does not.
        dtype: torch.dtype = self.model.vision_model.embeddings.patch_embedding.weight.dtype
        return dtype

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        features: list[Tensor] = []
        with self.frozen(), torch.no_grad():
            for batch in self._in_batches(images):
                pixels = self.processor.image_processor(list(batch), return_tensors="pt")["pixel_values"]
                seen = self.model.vision_model(pixels.to(self.device, self.dtype), return_dict=True)
                features.extend(seen.last_hidden_state)
        return features

    def answer_loss(
        self,
        features: Sequence[Tensor],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, features=features, prompts=prompts, answers=answers)
        taught = self.prompter.teacher_forced(prompts, answers)
        logits, seen = self._forward(features, taught, rows)
        logits, targets = self.prompter.aligned(logits, taught.labels.to(logits.device))
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        cross_entropy = functional.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        return Loss(cross_entropy, seen.penalty().to(cross_entropy.device))

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """As `Backbone.attention_map`, through the query tokens.

        The attention that the position predicting the word gives to each query token, times the attention of
        that query token over the picture. If the answer lacks the word, query tokens are weighted by the
        attention that they give to the concept instead.
        """
        self._check([rows])
        place = text.place_of(answer, word, rows)
        [features] = self.encode([image])
        taught = self.prompter.teacher_forced([prompt], [answer])
        before = self.prompter.answer_ids(prompt, answer[: place or 0])
        position = taught.starts[0] + len(before) - (1 if self.prompter.causal else 0)
        with (
            torch.no_grad(),
            query_token_attention(
                self.model.language_model,
                causal=self.prompter.causal,
                position=position,
                image_tokens=self.prompter.image_tokens,
            ) as spoken,
        ):
            _, seen = self._forward([features], taught, [rows])
        looks = torch.stack([layer[0].mean(0).cpu() for layer in seen.probabilities]).mean(0)
        if place is None:
            weights = looks[:, len(features) :].sum(1)
        else:
            weights = torch.stack([layer.cpu() for layer in spoken]).mean(0).to(looks)
        seen_by = (weights @ looks).float()  # autocast may have lowered the precision
        patches = self.arranged(seen_by[: len(features)])
        return np.asarray(patches / patches.sum(), dtype=np.float32)

    def arranged(self, values: Tensor) -> Tensor:
        """`h × w × …`: values of a picture's features, arranged over it; the tower's [CLS] is left out."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return values[-side * side :].reshape(side, side, *values.shape[1:])

    def probe(self) -> QFormerProbe:
        return QFormerProbe(self)

    def word_direction(self, word: str) -> Tensor:
        """As `Backbone.word_direction`: the feature that the Q-Former's values map to the word's embedding.

        Rows are in the space of the vision tower's features, which has no words; see `features_of_words`.
        """
        path = value_path(self.model.qformer, self.model.language_projection, self.dtype)
        middle = text.embeddings_of(self.model, self.word_ids(word)).mean(0)
        return functional.normalize(features_of_words(path, middle[None].to(path))[0], dim=-1)

    def inserted(self, rows: Sequence[Sequence[ConceptRows]], *, record: bool = False) -> QFormerRows:
        """Context manager: the Q-Former also attends to these rows."""
        return QFormerRows(self.model.qformer, rows, record=record)

    def _replies(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[text.Prompt],
        rows: Sequence[Sequence[ConceptRows]],
        options: Mapping[str, Any],
    ) -> list[Generation]:
        inputs = self.prompter.processed(images, prompts).to(self.device, self.dtype)
        with self.inserted(rows) if any(rows) else nullcontext():
            output = run_generate(self.model, inputs, options)
        return [Generation(*self.prompter.reply(ids)) for ids in self.prompter.new_ids(output, inputs)]

    def _forward(
        self, features: Sequence[Tensor], taught: Taught, rows: Sequence[Sequence[ConceptRows]]
    ) -> tuple[Tensor, QFormerRows]:
        """One pass of Q-Former and language model: logits `B × N × V`, and the recorded attention."""
        from transformers.models.blip_2.modeling_blip_2 import BaseModelOutputWithVisionQformerOutputs

        images = torch.stack([feature.to(self.device) for feature in features])
        inputs = {name: value.to(self.device) for name, value in taught.inputs.items()}
        with self.frozen(), self.inserted(rows, record=True) as seen:
            projected = self.model.language_projection(self.query_outputs(images, inputs).to(images.dtype))
            encoded = BaseModelOutputWithVisionQformerOutputs(pooler_output=projected)
            output = self.model(pixel_values=None, **inputs, mm_encoder_outputs={"image": encoded})
        return output.logits, seen

    @torch.no_grad()
    def projected(self, features: Sequence[Tensor], rows: Sequence[Sequence[ConceptRows]]) -> Tensor:
        """The language model's input for pictures with the rows of these concepts: `B × Q × W`.

        Args:
            features: results of `encode`.
            rows: rows of the concepts in each picture.
        """
        images = torch.stack([feature.to(self.device) for feature in features])
        with self.frozen(), self.inserted(rows) if any(rows) else nullcontext():
            projected: Tensor = self.model.language_projection(
                self.query_outputs(images, {}).to(images.dtype)
            )
        return projected

    def query_outputs(self, images: Tensor, read: dict[str, Tensor]) -> Tensor:
        """The Q-Former's output for pictures: `B × Q × W`.

        Args:
            images: `B × T × D`, the vision tower's features.
            read: the model's inputs for the prompts, which only InstructBLIP's Q-Former reads.
        """
        queries: Tensor = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(images), -1, -1),
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=images.device),
            return_dict=True,
        ).last_hidden_state
        return queries
