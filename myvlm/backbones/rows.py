"""Every family in which concepts enter as rows of a causal language model, after the image's tokens.

A family adds a few lines: where its language model and projector are, its image placeholder, its
prompt template, the grid of its image tokens. Imports torch, `attention` and its neighbours here.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from myvlm.attention import AttentionRecorder, record_attention
from myvlm.backbones import text
from myvlm.backbones.base import Backbone, ConceptRows, Generation, Loss
from myvlm.backbones.fingerprint import weights_fingerprint
from myvlm.backbones.hooks import InsertedRows
from myvlm.backbones.options import generate_options
from myvlm.backbones.prefix import Prefix, prefill, tail_of
from myvlm.backbones.prompter import IGNORED, Prompter, TeacherForced
from myvlm.errors import BackboneError, InputError

ENCODED_AT_ONCE = 16  # images; bounds the vision tower's memory


class LanguageRows(Backbone):
    """Concept rows after the last image token of a causal language model (§3.3 of the paper, DESIGN §4).

    Raises:
        BackboneError: the model has no output head, takes no encoded images, or has no id to spare.
    """

    template: ClassVar[str]

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, processor, name=name)
        forward = inspect.signature(model.forward).parameters
        if model.get_output_embeddings() is None or "mm_encoder_outputs" not in forward:
            raise BackboneError(
                "The model cannot speak, or takes no images that were encoded before.",
                got=type(model).__name__,
                expected="a ...ForConditionalGeneration whose forward has `mm_encoder_outputs`",
                fix="load the model with its language head, in transformers 5.23 or later",
            )
        tokenizer = processor.tokenizer
        eos = model.generation_config.eos_token_id
        eos = tokenizer.eos_token_id if eos is None else eos
        eos_ids: list[int] = eos if isinstance(eos, list) else [] if eos is None else [eos]
        ends = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, self.image_id}
        self.prompter = Prompter(
            processor,
            template=self.template,
            image_id=self.image_id,
            sentinel_id=text.sentinel_id(model, tokenizer, {*ends, *eos_ids}),
            eos_ids=eos_ids,
        )
        self._fingerprint: str | None = None

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The module that is given `inputs_embeds`."""

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """The module that takes visual features to the language model's width."""

    @property
    @abstractmethod
    def image_id(self) -> int:
        """Id of the image placeholder."""

    @abstractmethod
    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of the last of an image's `tokens`; any before them are no patches."""

    @property
    def dim(self) -> int:
        return int(self.model.get_input_embeddings().embedding_dim)

    def fingerprint(self) -> str:
        # Of the weights that stay in floating point when a model is quantised.
        if self._fingerprint is None:
            tables = [self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight]
            vectors = [weight for weight in self.model.parameters() if weight.ndim == 1]
            matrices = [weight for weight in self.projector.parameters() if weight.ndim > 1]
            self._fingerprint = weights_fingerprint([*tables, *matrices, *vectors])
        return self._fingerprint

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        features: list[Tensor] = []
        with self.frozen(), torch.no_grad():
            for start in range(0, len(images), ENCODED_AT_ONCE):
                batch = list(images[start : start + ENCODED_AT_ONCE])
                pixels = self.processor.image_processor(batch, return_tensors="pt").to(
                    self.device, self.dtype
                )
                features.extend(self.model.get_image_features(**pixels, return_dict=True).pooler_output)
        return features

    def answer_loss(
        self,
        features: Sequence[Tensor],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, features=features, prompts=prompts, answers=answers)
        batch = self.prompter.teacher_forced([len(feature) for feature in features], prompts, answers, rows)
        logits, recorder = self._forward(features, batch, rows, queries=batch.later, keys=batch.rows)
        return _loss(logits, batch.labels[:, -logits.shape[1] :], recorder)

    def prefixes(self, features: Sequence[Tensor]) -> list[Prefix]:
        kept = []
        with self.frozen():
            for feature in features:
                ids = self.prompter.prompt_ids("", len(feature))
                end = len(ids) - ids[::-1].index(self.image_id)
                kept.append(prefill(self.model, ids[:end], feature))
        return kept

    def tail_loss(
        self,
        prefixes: Sequence[Prefix],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, prefixes=prefixes, prompts=prompts, answers=answers)
        tokens = [prefix.ids.count(self.image_id) for prefix in prefixes]
        batch = self.prompter.teacher_forced(tokens, prompts, answers, rows)
        tail = tail_of(self.model, prefixes, batch, rows)
        with (
            self.frozen(),
            record_attention(self.language_model.config, queries=tail.queries, keys=tail.keys) as recorder,
        ):
            logits = self.model(inputs_embeds=tail.embeds, **tail.inputs).logits
        return _loss(logits[:, :-1], tail.labels[:, 1:], recorder)

    def generate(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
        **generation: Any,
    ) -> list[Generation]:
        self._check(rows, images=images, prompts=prompts)
        options = generate_options(generation)
        replies: dict[int, Generation] = {}
        plain = [index for index, concepts in enumerate(rows) if not concepts]
        taught = [index for index, concepts in enumerate(rows) if concepts]
        with self.frozen(), torch.no_grad():
            for samples in (plain, taught):
                if samples:
                    inputs = self.prompter.processed(
                        [images[i] for i in samples], [prompts[i] for i in samples]
                    )
                    made = self._generate(inputs, [rows[i] for i in samples], options)
                    replies.update(zip(samples, made, strict=True))
        return [replies[index] for index in range(len(rows))]

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        self._check([rows])
        place = text.find_word(answer, word)
        if place is None and not rows:
            raise InputError(
                f"Nothing says {word!r}: there is no attention to show.",
                got=repr(answer),
                expected=f"{word!r} in the answer, or concept rows",
                fix="pass an answer that names it",
            )
        features = self.encode([image])
        batch = self.prompter.teacher_forced([len(features[0])], [prompt], [answer], [rows])
        if place is None:
            queries = batch.rows
        else:
            spoken = self.prompter.answer_ids(prompt, answer[:place])
            queries = torch.tensor([[batch.starts[0] + len(spoken) - 1]])
        keys = (batch.ids == self.image_id).nonzero()[:, 1][None]
        with torch.no_grad():
            _, recorder = self._forward(features, batch, [rows], queries=queries, keys=keys)
        tokens = torch.stack([p.mean((0, 1, 2)).cpu() for p in recorder.probabilities]).mean(0)
        height, width = self.grid(len(tokens))
        patches = tokens[len(tokens) - height * width :].reshape(height, width)
        return np.asarray(patches / patches.sum(), dtype=np.float32)

    def word_ids(self, word: str) -> list[int]:
        return text.answer_ids(self.processor.tokenizer, "a", word)

    def word_direction(self, word: str) -> Tensor:
        table = self.model.get_input_embeddings().weight
        with torch.no_grad():
            rows = functional.normalize(table[self.word_ids(word)].float(), dim=-1)
            return functional.normalize(rows.mean(0), dim=-1)

    def inserted(
        self, rows: Sequence[Sequence[ConceptRows]], sentinels: Sequence[int] | None = None
    ) -> InsertedRows:
        """A context manager: within it the model reads sentinel ids as these rows."""
        return InsertedRows(
            self.model.get_input_embeddings(),
            self.language_model,
            rows,
            image_id=self.image_id,
            sentinel_id=self.prompter.sentinel_id,
            sentinels=sentinels,
        )

    def _generate(
        self, inputs: Any, rows: Sequence[Sequence[ConceptRows]], options: Mapping[str, Any]
    ) -> list[Generation]:
        """Replies of one sub-batch: plain when no sample has rows, else through the hooks."""
        if any(rows):
            inputs, sentinels = self.prompter.with_rows(inputs, rows)
            inputs = inputs.to(self.device, self.dtype)
            with self.inserted(rows, sentinels):
                output = self.model.generate(**inputs, **self._without_sentinel(options))
        else:
            inputs = inputs.to(self.device, self.dtype)
            output = self.model.generate(**inputs, **options)
        output = getattr(output, "sequences", output)  # a generation config may ask for more than the ids
        new = output[:, inputs["input_ids"].shape[1] :]
        return [Generation(*self.prompter.reply(ids)) for ids in new]

    def _without_sentinel(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, with the sentinel among the tokens that generation may not choose."""
        config = options.get("generation_config") or self.model.generation_config
        suppressed = options.get("suppress_tokens") or config.suppress_tokens or []
        return {**options, "suppress_tokens": sorted({*suppressed, self.prompter.sentinel_id})}

    def _forward(
        self,
        features: Sequence[Tensor],
        batch: TeacherForced,
        rows: Sequence[Sequence[ConceptRows]],
        *,
        queries: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, AttentionRecorder]:
        """One pass from kept features: logits `B × N × V` of the last `N` labels, and what was recorded."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        first = min(batch.starts)
        images = BaseModelOutputWithPooling(pooler_output=[feature.to(self.device) for feature in features])
        queries, keys = queries.to(self.device), keys.to(self.device)
        with (
            self.frozen(),
            self.inserted(rows, batch.sentinels),
            record_attention(self.language_model.config, queries=queries, keys=keys) as recorder,
        ):
            output = self.model(
                input_ids=batch.ids.to(self.device),
                attention_mask=batch.attention_mask.to(self.device),
                mm_encoder_outputs={"image": images},
                use_cache=False,
                # Of thousands of image tokens no logits are needed.
                logits_to_keep=batch.ids.shape[1] - first + 1,
            )
        if not recorder.probabilities:
            raise BackboneError(
                "The language model's attention could not be recorded.",
                got="no layer called the attention that its configuration names",
                expected="layers that look their attention up in transformers' AttentionInterface",
                fix="load the model with attn_implementation='sdpa', without remote code",
            )
        return output.logits[:, :-1], recorder


def _loss(logits: Tensor, targets: Tensor, recorder: AttentionRecorder) -> Loss:
    """Cross-entropy of logits `B × N × V` against the `B × N` tokens that follow, and the penalty."""
    targets = targets.to(logits.device)
    cross_entropy = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
    )
    return Loss(cross_entropy, attention_penalty(recorder).to(cross_entropy.device))


def attention_penalty(recorder: AttentionRecorder) -> Tensor:
    """`Σ_layers mean(p²)` over heads, queries and keys that are not -1; mean over samples that have any."""
    valid = recorder.valid.flatten(1).sum(1)
    total = torch.zeros((), device=valid.device)
    if not bool(valid.any()):
        return total
    for probabilities in recorder.probabilities:
        squares = probabilities.pow(2).mean(1).flatten(1).sum(1).to(valid.device)
        total = total + (squares / valid.clamp(min=1))[valid > 0].mean()
    return total
