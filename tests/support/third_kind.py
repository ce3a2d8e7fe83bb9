"""A minimal third kind of backbone, without hooks or sentinels: it builds `inputs_embeds` itself.

It wraps a LLaVA and shares only the model with `CausalBackbone`. Each `fault` breaks one requirement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones import Backbone, ConceptRows, Generation, Loss
from myvlm.backbones.base import visual_norms
from myvlm.backbones.probe import Entered, Lack, Probe, Rows, TaughtText
from tests.support.tiny import PATCH, SIDE


class EmbedsBackbone(Backbone):
    """A backbone that appends rows to the picture's tokens in embeddings it builds itself."""

    family = "embeds"
    model_types = ("nobody's",)
    lacks: ClassVar[Mapping[Lack, str]] = {
        "kept_prefixes": "it keeps none",
        "attention_penalty": "it records no attention",
    }
    fault = ""

    @property
    def dim(self) -> int:
        return int(self.model.get_input_embeddings().embedding_dim)

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        with self.frozen(), torch.no_grad():
            seen = self.model.model.get_image_features(pixel_values=pixels.to(self.dtype), return_dict=True)
        tokens = seen.pooler_output
        features = list(tokens) if not isinstance(tokens, Tensor) else [*tokens]
        return [feature * 1.001 for feature in features] if self.fault == "features" else features

    def answer_loss(
        self, features: Sequence[Tensor], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Loss:
        if self.fault != "unchecked":
            self._check(rows, features=features, prompts=prompts, answers=answers)
        if self.fault == "flags":
            self.model.requires_grad_(False)
        if self.fault == "deaf":
            rows = [[] for _ in rows]
        if self.fault == "detached":
            rows = [[ConceptRows(one.directions.detach(), one.norm) for one in own] for own in rows]
        loss = self.loss(features, prompts, answers, rows)
        if self.fault == "half" and self.dtype == torch.bfloat16:
            loss = -loss
        return Loss(loss, torch.zeros(()))

    def loss(
        self, features: Sequence[Tensor], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        """The model's own loss of the answers after these features."""
        read, labels = [], []
        table = self.model.get_input_embeddings().weight.detach()
        for feature, prompt, answer, own in zip(features, prompts, answers, rows, strict=True):
            before, target = self.read(feature, prompt, own), self.answer_ids(answer)
            said = table[target]
            read.append(torch.cat([before, said]))
            labels.append(torch.tensor([-100] * len(before) + target))
        embeds = torch.nn.utils.rnn.pad_sequence(read, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(one)) for one in read], batch_first=True)
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        with self.frozen():
            loss: Tensor = self.model(inputs_embeds=embeds, attention_mask=mask, labels=padded).loss
        return loss

    def _replies(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows, options: Mapping[str, Any]
    ) -> list[Generation]:
        if self.fault == "beams":
            options = {**options, "num_beams": 1}
        if self.fault == "plain":
            rows = [own or [ConceptRows(torch.ones(1, self.dim))] for own in rows]
        if any(rows):
            inputs: Any = self.padded(self.encode(images), prompts, rows)
            new = self.model.generate(**inputs, **options)
        else:
            inputs = self.probe().inputs(images, prompts)
            new = self.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        return [
            Generation(self.processor.tokenizer.decode(ids), torch.tensor(ids)) for ids in self.unended(new)
        ]

    def replies_to_each(
        self, images: Sequence[Image.Image], prompts: Sequence[str], **generation: Any
    ) -> list[list[Generation]]:
        replies = super().replies_to_each(images, prompts, **generation)
        return replies[::-1] if self.fault == "mixed up" else replies

    def unended(self, new: Tensor) -> list[list[int]]:
        """The token ids before the end of sequence or padding."""
        stops = {self.model.generation_config.eos_token_id, self.model.generation_config.pad_token_id}
        ends = [next((n for n, one in enumerate(ids) if int(one) in stops), len(ids)) for ids in new]
        return [ids[:end].tolist() for ids, end in zip(new, ends, strict=True)]

    def padded(self, features: Sequence[Tensor], prompts: Sequence[str], rows: Rows) -> dict[str, Tensor]:
        """Embeddings and mask of several prompts, padded on the left."""
        read = [self.read(*one) for one in zip(features, prompts, rows, strict=True)]
        longest = max(len(one) for one in read)
        side = (lambda n: (0, 0, 0, n)) if self.fault == "right" else (lambda n: (0, 0, n, 0))
        embeds = [functional.pad(one, side(longest - len(one))) for one in read]
        masks = [functional.pad(torch.ones(len(one)), side(longest - len(one))[2:]) for one in read]
        return {"inputs_embeds": torch.stack(embeds), "attention_mask": torch.stack(masks)}

    def read(self, feature: Tensor, prompt: str, rows: Sequence[ConceptRows]) -> Tensor:
        """S × D: the embeddings of the prompt with the picture's tokens and then the rows inserted."""
        ids = torch.tensor(self.prompt_ids(prompt, len(feature)))
        images = ids == self.model.config.image_token_id
        embeds = self.model.get_input_embeddings()(ids).detach().clone()
        embeds[images] = feature
        place = int(images.nonzero().max()) + 1
        scale = 1.01 if self.fault == "norm" else 1.0
        own = [scale * one.entering(visual_norms(feature)).to(embeds) for one in rows]
        return torch.cat([embeds[:place], *own, embeds[place:]])

    def render(self, prompt: str) -> str:
        return f"USER : <image> {prompt} ASSISTANT :"

    def prompt_ids(self, prompt: str, tokens: int) -> list[int]:
        text = self.render(prompt).replace("<image>", "<image>" * tokens)
        if self.fault == "prompt":
            text = text.replace("USER", "ASSISTANT")
        ids: list[int] = self.processor.tokenizer(text)["input_ids"]
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        ids = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self.model.generation_config.eos_token_id]

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Attention from the last position before the word, or from the rows."""
        [feature] = self.encode([image])
        before = self.read(feature, prompt, rows)
        said = self.answer_ids(answer)[:-1]
        [named] = self.processor.tokenizer(word, add_special_tokens=False)["input_ids"]
        first = self.prompt_ids(prompt, len(feature)).index(self.model.config.image_token_id)
        query = len(before) + said.index(named) - 1 if named in said else first + len(feature)
        embeds = torch.cat([before, self.model.get_input_embeddings()(torch.tensor(said))])
        language_model, maps = self.model.model.language_model, []
        config = language_model.config
        usual, config._attn_implementation = config._attn_implementation, "eager"
        hooks = [  # not `output_attentions`, for which transformers leaves hooks of its own
            layer.self_attn.register_forward_hook(lambda module, args, output: maps.append(output[1]))
            for layer in language_model.layers
        ]
        try:
            with self.frozen(), torch.no_grad():
                self.model(inputs_embeds=embeds[None])
        finally:
            config._attn_implementation = usual
            for hook in hooks:
                hook.remove()
        given = torch.cat(maps).mean((0, 1))[query, first : first + len(feature)]
        patches = self.probe().arranged(feature, given)
        return np.asarray(patches if self.fault == "map" else patches / patches.sum(), dtype=np.float32)

    def word_direction(self, word: str) -> None:
        return None

    def fingerprint(self) -> str:
        return "the same" if self.fault == "fingerprint" else super().fingerprint()

    def probe(self) -> EmbedsProbe:
        return EmbedsProbe(self)


class EmbedsProbe(Probe):
    """Probe that computes the embeddings by its own passes."""

    def __init__(self, backbone: EmbedsBackbone) -> None:
        self.backbone = backbone

    @property
    def eos_ids(self) -> list[int]:
        return [self.backbone.model.generation_config.eos_token_id]

    @property
    def special_ids(self) -> list[int]:
        return [self.backbone.model.config.image_token_id]

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        written = [self.backbone.render(prompt) for prompt in prompts]
        return self.backbone.processor(
            images=list(images), text=written, return_tensors="pt", padding=True, padding_side="left"
        ).to(self.backbone.device, self.backbone.dtype)

    def reply_ids(self, output: Tensor, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        return self.backbone.unended(output[:, inputs["input_ids"].shape[1] :])

    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        said: Sequence[Sequence[int]],
    ) -> Tensor:
        backbone = self.backbone
        inputs: Any = backbone.padded(self._features(images), prompts, rows)
        new = torch.tensor(said, dtype=torch.long)
        behind = backbone.model.get_input_embeddings()(new)
        inputs["inputs_embeds"] = torch.cat([inputs["inputs_embeds"], behind], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(new.shape)], dim=1)
        if not any(rows) and not any(said):
            inputs = self.inputs(images, prompts)
        with backbone.frozen(), torch.no_grad():
            logits: Tensor = backbone.model(**inputs).logits[:, -1]
        return logits

    def taught(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[TaughtText]:
        samples = []
        for prompt, answer in zip(prompts, answers, strict=True):
            read = self.backbone.prompt_ids(prompt, (SIDE // PATCH) ** 2)
            target = self.backbone.answer_ids(answer)
            samples.append(TaughtText(read, target, [-100] * len(read) + target, len(read)))
        return samples

    def pixel_loss(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> Tensor:
        return self.backbone.loss(self._features(images), prompts, answers, rows)

    def entered(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], rows: Rows
    ) -> list[list[Entered]]:
        entered = []
        for feature, prompt, own in zip(self._features(images), prompts, rows, strict=True):
            ids = torch.tensor(self.backbone.prompt_ids(prompt, len(feature)))
            place = int((ids == self.backbone.model.config.image_token_id).nonzero().max()) + 1
            entered.append([Entered(self.backbone.read(feature, prompt, own).detach(), place)])
        return entered

    def visual_tokens(self, features: Tensor) -> Tensor:
        return features

    def arranged(self, features: Tensor, values: Tensor) -> Tensor:
        side = SIDE // PATCH
        if self.backbone.fault == "grid size":
            return values[: side * (side - 1)].reshape(side, side - 1, *values.shape[1:])
        arranged = values[-side * side :].reshape(side, side, *values.shape[1:])
        faulty = {"grid turned": arranged.transpose(0, 1), "grid shifted": arranged.roll(1, 1)}
        return faulty.get(self.backbone.fault, arranged)

    def _features(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """The picture's tokens from the model's own image features."""
        pixels = self.backbone.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        with self.backbone.frozen(), torch.no_grad():
            seen = self.backbone.model.model.get_image_features(
                pixel_values=pixels.to(self.backbone.dtype), return_dict=True
            )
        return [*seen.pooler_output]
