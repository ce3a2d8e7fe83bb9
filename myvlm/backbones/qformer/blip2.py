"""BLIP-2 (https://arxiv.org/abs/2301.12597): a vision tower, a Q-Former, an OPT or a T5.

A concept enters beside the picture's features, where the Q-Former's queries look (§3.3, arXiv 2403.14599).
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
from myvlm.backbones.generation import generated
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

    A row is as wide as the vision tower. With a norm rule other than `none` it enters at that norm of the
    picture's features, and in every cross-attention its key and value get the same norm (mean, or first) of
    the picture's keys and values, so that only its direction is learned; with `none` nothing is rescaled.

    Raises:
        BackboneError: the model cannot speak, or takes no pictures that were encoded before.
    """

    family = "blip2"
    model_types = ("blip-2",)
    default_caption_prompt = ""  # the checkpoints write a caption where nothing is said
    caption_prompts: ClassVar[tuple[str, ...]] = ("",)
    prompter_kind: ClassVar[type[Blip2Prompter]] = Blip2Prompter
    lacks: ClassVar[Mapping[Lack, str]] = {"kept_prefixes": "what stands before the concept depends on it"}

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, processor, name=name)
        forward = inspect.signature(model.forward).parameters
        if not hasattr(model, "language_model") or "mm_encoder_outputs" not in forward:
            raise BackboneError(
                "The model cannot speak, or takes no images that were encoded before.",
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
        # Of the pictures: query tokens and Q-Former stay in float32 beside a tower that is not.
        dtype: torch.dtype = self.model.vision_model.embeddings.patch_embedding.weight.dtype
        return dtype

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        features: list[Tensor] = []
        with self.frozen(), torch.no_grad():
            for batch in self._at_once(images):
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

        What the position that predicts the word gives to each query token, times where that one looks. Where
        the answer lacks the word, the query tokens count by what they give to the concept.
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
        seen_by = (weights @ looks).float()  # autocast may have made it less
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
        """As `Backbone.word_direction`: the feature that the Q-Former's values hand on as that embedding.

        A row stands among features of the vision tower, where no word has a place; see `features_of_words`.
        """
        path = value_path(self.model.qformer, self.model.language_projection, self.dtype)
        middle = text.embeddings_of(self.model, self.word_ids(word)).mean(0)
        return functional.normalize(features_of_words(path, middle[None].to(path))[0], dim=-1)

    def inserted(self, rows: Sequence[Sequence[ConceptRows]], *, record: bool = False) -> QFormerRows:
        """A context manager: within it the Q-Former also sees these rows."""
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
            output = generated(self.model, inputs, options)
        return [Generation(*self.prompter.reply(ids)) for ids in self.prompter.new_ids(output, inputs)]

    def _forward(
        self, features: Sequence[Tensor], taught: Taught, rows: Sequence[Sequence[ConceptRows]]
    ) -> tuple[Tensor, QFormerRows]:
        """One pass of Q-Former and language model: logits `B × N × V`, and what the queries attended to."""
        from transformers.models.blip_2.modeling_blip_2 import BaseModelOutputWithVisionQformerOutputs

        images = torch.stack([feature.to(self.device) for feature in features])
        inputs = {name: value.to(self.device) for name, value in taught.inputs.items()}
        with self.frozen(), self.inserted(rows, record=True) as seen:
            projected = self.model.language_projection(self.looked(images, inputs).to(images.dtype))
            encoded = BaseModelOutputWithVisionQformerOutputs(pooler_output=projected)
            output = self.model(pixel_values=None, **inputs, mm_encoder_outputs={"image": encoded})
        return output.logits, seen

    @torch.no_grad()
    def projected(self, features: Sequence[Tensor], rows: Sequence[Sequence[ConceptRows]]) -> Tensor:
        """What the language model reads of pictures in which these concepts are seen: `B × Q × W`.

        Args:
            features: of `encode`.
            rows: of each picture.
        """
        images = torch.stack([feature.to(self.device) for feature in features])
        with self.frozen(), self.inserted(rows) if any(rows) else nullcontext():
            projected: Tensor = self.model.language_projection(self.looked(images, {}).to(images.dtype))
        return projected

    def looked(self, images: Tensor, read: dict[str, Tensor]) -> Tensor:
        """What the Q-Former's queries took from pictures: `B × Q × W`.

        Args:
            images: `B × T × D`, the vision tower's features.
            read: the model's inputs of the prompts.
        """
        queries: Tensor = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(images), -1, -1),
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=images.device),
            return_dict=True,
        ).last_hidden_state
        return queries
