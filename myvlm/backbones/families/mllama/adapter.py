"""Mllama (Llama 3.2 Vision): a language model with cross-attention layers over the tiles of a picture.

Concept rows are appended to the picture's states, as in BLIP-2's Q-Former (§3.3 of arXiv 2403.14599).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from myvlm.backbones import tokens as text
from myvlm.backbones.base import Backbone, ConceptRows, Generation, Loss
from myvlm.backbones.causal.attention import AttentionRecorder, objective, record_attention
from myvlm.backbones.causal.prompts import Prompter, TeacherForced
from myvlm.backbones.families.mllama.hooks import CrossAttentionRows
from myvlm.backbones.families.mllama.probe import MllamaProbe
from myvlm.backbones.generation import run_generate
from myvlm.backbones.probe import Lack
from myvlm.backbones.registry import register_backbone
from myvlm.errors import BackboneError


@dataclass(frozen=True, eq=False)
class CrossFeatures:
    """The encoded states of one picture for the cross-attentions.

    Args:
        states: `M × D`, the tokens of the maximum number of tiles; those of empty tiles come last.
        tiles: number of tiles of the picture, down and across.
        patches: number of patches of these tiles that the picture covers, down and across.
        tile_tokens: number of tokens per tile.
    """

    states: Tensor
    tiles: tuple[int, int]
    patches: tuple[int, int]
    tile_tokens: int

    def __len__(self) -> int:
        return self.tiles[0] * self.tiles[1] * self.tile_tokens

    @property
    def tokens(self) -> Tensor:
        """`T × D`, the tokens of the picture's own tiles."""
        return self.states[: len(self)]

    @property
    def nbytes(self) -> int:
        """Size of `states` in bytes."""
        return self.states.nbytes


@register_backbone
class MllamaBackbone(Backbone):
    """`MllamaForConditionalGeneration`.

    A row is as wide as the language model and is rescaled to a norm of the picture's projected tokens. Its
    keys need no rescaling, since the cross-attentions normalise keys themselves. The penalty is on the
    attention that text tokens give to rows in those layers.

    Raises:
        BackboneError: the model has no language head, or its chat template writes no image placeholder.
    """

    family = "mllama"
    model_types = ("mllama",)
    template = "{image}<|begin_of_text|>{prompt}"
    images_at_once = 4
    lacks: ClassVar[Mapping[Lack, str]] = {"kept_prefixes": "the tokens before the concept depend on it"}

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, processor, name=name)
        if "cross_attention_states" not in inspect.signature(model.forward).parameters or not hasattr(
            model, "lm_head"
        ):
            raise BackboneError(
                "The model has no language head, or does not accept encoded images.",
                got=type(model).__name__,
                expected="a MllamaForConditionalGeneration, whose forward has `cross_attention_states`",
                fix="load the model with its language head, with AutoModelForImageTextToText",
            )
        template = self.template if getattr(processor, "chat_template", None) is None else None
        text.check_template(processor, template)
        ends = text.eos_ids(model, processor.tokenizer)
        self.prompter = Prompter(
            processor,
            template=template,
            image_id=int(model.config.image_token_id),
            sentinel_id=-1,  # no token stands for a row
            eos_ids=ends if template is not None else text.end_of_turn_first(processor, ends),
            completed=self.completed,
        )

    def completed(self, rendered: str) -> str:
        """A rendered prompt with the beginning-of-sequence token that the processor adds if it is missing."""
        from transformers.models.mllama.processing_mllama import build_string_from_input

        completed: str = build_string_from_input(
            rendered, self.processor.bos_token, self.processor.image_token
        )
        return completed

    @property
    def language_model(self) -> nn.Module:
        """The module that contains the cross-attention layers."""
        module: nn.Module = self.model.model.language_model
        return module

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The cross-attention modules, in the order of their layers."""
        layers: Any = self.language_model.layers
        return [layer.cross_attn for layer in layers if hasattr(layer, "cross_attn")]

    @property
    def dim(self) -> int:
        return int(self.model.config.text_config.hidden_size)

    def encode(self, images: Sequence[Image.Image]) -> list[CrossFeatures]:
        seen: list[CrossFeatures] = []
        vision = self.model.model.vision_model
        with self.frozen(), torch.no_grad():
            for batch in self._in_batches(images):
                made = self.processor.image_processor([[image] for image in batch], return_tensors="pt")
                inputs = {
                    name: made[name].to(self.device)
                    for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
                }
                states = self.model.model.multi_modal_projector(vision(**inputs).last_hidden_state)
                for image, own in zip(batch, states, strict=True):
                    tiles, patches, _ = self._tile_layout(image.size)
                    seen.append(CrossFeatures(own.flatten(0, -2), tiles, patches, vision.num_patches))
        return seen

    def answer_loss(
        self,
        features: Sequence[CrossFeatures],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, features=features, prompts=prompts, answers=answers)
        batch = self.read(prompts, answers)
        looking = [range(place, int(n)) for place, n in self._attending_spans(batch)]
        queries = text.pad([own if concepts else [] for own, concepts in zip(looking, rows, strict=True)], -1)
        columns = [
            range(len(feature.states), len(feature.states) + sum(concept.count for concept in concepts))
            for feature, concepts in zip(features, rows, strict=True)
        ]
        keys = text.pad(columns, -1)
        logits, recorder = self._forward(features, batch, rows, queries=queries, keys=keys)
        labels = batch.labels[:, -logits.shape[1] :]
        return objective(logits, labels, recorder.stacked(), queries, keys)

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """As `Backbone.attention_map`, over the cross-attention layers.

        Rows do not attend to anything here. If the answer lacks the word, the text tokens are weighted by the
        attention that they give to the concept instead.
        """
        self._check([rows])
        place = text.place_of(answer, word, rows)
        [feature] = self.encode([image])
        batch = self.read([prompt], [answer])
        if place is None:
            [(first, last)] = self._attending_spans(batch)
            queries = torch.arange(first, last)[None]
        else:
            spoken = self.prompter.answer_ids(prompt, answer[:place])
            queries = torch.tensor([[batch.starts[0] + len(spoken) - 1]])
        count, own = sum(concept.count for concept in rows), len(feature)
        keys = torch.tensor([[*range(own), *range(len(feature.states), len(feature.states) + count)]])
        with torch.no_grad():
            _, recorder = self._forward([feature], batch, [rows], queries=queries, keys=keys)
        given = torch.stack([layer[0].mean(0).cpu() for layer in recorder.probabilities]).mean(0)
        weights = given[:, own:].sum(1) if place is None else torch.ones(1)
        patches = self.arranged(feature, weights @ given[:, :own])
        return np.asarray(patches / patches.sum(), dtype=np.float32)

    def arranged(self, feature: CrossFeatures, values: Tensor) -> Tensor:
        """`h × w × …`: values of a picture's tokens, arranged over it; the [CLS] of each tile is left out."""
        down, across = feature.tiles
        side = self.model.config.vision_config.image_size // self.model.config.vision_config.patch_size
        tiles = values.reshape(down, across, feature.tile_tokens, *values.shape[1:])[:, :, 1:]
        laid = tiles.reshape(down, across, side, side, *values.shape[1:]).transpose(1, 2)
        whole = laid.reshape(down * side, across * side, *values.shape[1:])
        return whole[: feature.patches[0], : feature.patches[1]]

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        # The picture fills the upper left part of its tiles; rounded to the nearest patch.
        _, (down, across), (height, width) = self._tile_layout(size)
        patch = self.model.config.vision_config.patch_size
        return 0.0, 0.0, across * patch * size[0] / width, down * patch * size[1] / height

    def word_direction(self, word: str) -> None:
        # Rows are in the space of the picture's states, which has no words.
        return None

    def probe(self) -> MllamaProbe:
        return MllamaProbe(self)

    def inserted(self, rows: Sequence[Sequence[ConceptRows]]) -> CrossAttentionRows:
        """Context manager: the cross-attentions also attend to these rows."""
        return CrossAttentionRows(self.language_model, rows)

    def read(self, prompts: Sequence[str], answers: Sequence[str]) -> TeacherForced:
        """Prompts and answers as one training batch."""
        pictures = [str(self.processor.image_token)] * len(prompts)
        return self.prompter.teacher_forced(pictures, prompts, answers, [[] for _ in prompts])

    def model_inputs(self, batch: TeacherForced, features: Sequence[CrossFeatures]) -> dict[str, Tensor]:
        """The model's inputs for a batch, without pictures. As in the processor, tokens from the image
        placeholder on may attend to the tiles of the picture."""
        mask = torch.zeros(*batch.ids.shape, 1, self.model.config.vision_config.max_num_tiles)
        for own, (place, _), feature in zip(mask, self._attending_spans(batch), features, strict=True):
            own[place:, :, : feature.tiles[0] * feature.tiles[1]] = 1
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.attention_mask,
            "cross_attention_mask": mask.long(),
        }
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _attending_spans(self, batch: TeacherForced) -> list[tuple[int, int]]:
        """For each sample, start and end of the tokens that attend to its picture."""
        firsts = (batch.ids == self.prompter.image_id).long().argmax(1).tolist()
        return list(zip(firsts, batch.attention_mask.sum(1).tolist(), strict=True))

    def _tile_layout(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Tiles of a picture, and its patches and pixels in them; each down and across."""
        from transformers.models.mllama.image_processing_mllama import (
            get_image_size_fit_to_canvas,
            get_optimal_tiled_canvas,
        )

        images, vision = self.processor.image_processor, self.model.config.vision_config
        tile = images.size.height
        canvas = get_optimal_tiled_canvas(size[1], size[0], images.max_image_tiles, tile)
        height, width = get_image_size_fit_to_canvas(size[1], size[0], *canvas, tile)
        down, across = (max(round(length / vision.patch_size), 1) for length in (height, width))
        return (int(canvas[0]) // tile, int(canvas[1]) // tile), (down, across), (int(height), int(width))

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
        new = output[:, inputs["input_ids"].shape[1] :]
        return [Generation(*self.prompter.reply(ids)) for ids in new]

    def _forward(
        self,
        features: Sequence[CrossFeatures],
        batch: TeacherForced,
        rows: Sequence[Sequence[ConceptRows]],
        *,
        queries: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, AttentionRecorder]:
        """One pass from encoded states: logits `B × N × V` of the last `N` labels, and recorded attention."""
        config: Any = self.language_model.config
        attentions = self.cross_attentions
        with (
            self.frozen(),
            self.inserted(rows),
            record_attention(config, queries=queries, keys=keys, modules=attentions) as recorder,
        ):
            output = self.model(
                **self.model_inputs(batch, features),
                cross_attention_states=torch.cat([feature.states.to(self.device) for feature in features]),
                use_cache=False,
                logits_to_keep=batch.ids.shape[1] - min(batch.starts) + 1,
            )
        return output.logits[:, :-1], recorder
