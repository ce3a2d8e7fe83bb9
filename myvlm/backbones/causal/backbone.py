"""Base class of families in which concept rows enter a causal language model after the image's tokens.

A family adds a few lines: its prompt template, the grid of its image tokens, and how it differs from plain
LLaVA in where its modules are and which per-token inputs its model takes.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from myvlm.backbones import tokens as text
from myvlm.backbones.base import Backbone, ConceptRows, Generation, Loss
from myvlm.backbones.causal.attention import AttentionRecorder, objective, record_attention
from myvlm.backbones.causal.cuda_graph import Replay
from myvlm.backbones.causal.features import (
    Features,
    Layout,
    encode_pictures,
    encoder_outputs,
    read_pictures,
    token_mismatch_in,
)
from myvlm.backbones.causal.fused import FusedLayers
from myvlm.backbones.causal.hooks import InsertedRows
from myvlm.backbones.causal.prefix_cache import (
    Prefix,
    cache_argument,
    cache_of,
    generation_batches,
    prefill,
    stack_prefixes,
    tail_of,
)  # fmt: skip
from myvlm.backbones.causal.probe import CausalProbe
from myvlm.backbones.causal.prompts import Prompter, TeacherForced
from myvlm.backbones.frozen import exclusive_use
from myvlm.backbones.generation import can_reuse_cache, options_for, run_generate, with_suppressed_token
from myvlm.errors import BackboneError


class CausalBackbone(Backbone):
    """Backbone that inserts concept rows after the last image token of a causal language model (§3.3).

    Raises:
        BackboneError: the model has no output head, takes no encoded images, or has no spare token id.
    """

    template: ClassVar[str]
    """The prompt, with `{image}` and `{prompt}`, used if the processor has no chat template."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Tokens that end a reply, besides those of the generation settings; learned answers end in the first."""
    kept_inputs: ClassVar[tuple[str, ...]] = ()
    """Names of processor outputs for an image that the language model needs too."""

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        super().__init__(model, processor, name=name)
        forward = inspect.signature(model.forward).parameters
        if model.get_output_embeddings() is None or "mm_encoder_outputs" not in forward:
            raise BackboneError(
                "The model has no language head, or does not accept encoded images.",
                got=type(model).__name__,
                expected="a ...ForConditionalGeneration whose forward has `mm_encoder_outputs`",
                fix="load the model with its language head, in transformers 5.23 or later",
            )
        tokenizer = processor.tokenizer
        template = self.prompt_template()
        text.check_template(processor, template)
        eos_ids = text.eos_ids(model, tokenizer, self.ends)
        ends = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, self.image_id}
        template_ids = text.template_ids(processor, template)
        used_ids = {*ends, *eos_ids, *template_ids, *text.image_marker_ids(processor)}
        self.prompter = Prompter(
            processor,
            template=template,
            image_id=self.image_id,
            sentinel_id=partial(text.sentinel_id, model, tokenizer, used_ids),
            eos_ids=eos_ids if template is not None else text.end_of_turn_first(processor, eos_ids),
            instruction=self.instruction,
            completed=self.completed,
        )

    @property
    def language_model(self) -> nn.Module:
        """The module that takes `inputs_embeds`."""
        module: nn.Module = self.model.model.language_model
        return module

    @property
    def reader(self) -> nn.Module:
        """The module that takes the token ids, image placeholders included."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    @property
    def image_id(self) -> int:
        """Token id of the image placeholder."""
        return int(self.model.config.image_token_id)

    @abstractmethod
    def grid(self, features: Features) -> tuple[int, int, int]:
        """The visual tokens that show the whole image, row by row: index of the first, height, width."""

    def prompt_template(self) -> str | None:
        """The family's template; None where the processor has a chat template."""
        return self.template if getattr(self.processor, "chat_template", None) is None else None

    def instruction(self, prompt: str) -> str:
        """A bare instruction, worded as the family was trained on."""
        return prompt

    def completed(self, rendered: str) -> str:
        """A rendered prompt, plus any text that the processor itself adds to it."""
        return rendered

    def read(self, images: Sequence[Image.Image]) -> tuple[Any, list[str]]:
        """Process images into the model's inputs and the text that represents each image in a prompt."""
        return read_pictures(self.processor, images)

    def arguments(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        """Per-token inputs of the model besides `ids` and `mask`, such as token types and positions.

        Args:
            ids: `B × S`, padded on the right where `mask` is 0.
            starts: index of each sample's first answer token.
            layouts: how the samples' images are laid out in their prompts.
        """
        return {}

    @property
    def _has_arguments(self) -> bool:
        """Whether the model needs more than ids and a mask, see `arguments`."""
        return type(self).arguments is not CausalBackbone.arguments

    @property
    def dim(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def encode(self, images: Sequence[Image.Image]) -> list[Features]:
        features: list[Features] = []
        mark = self.processor.tokenizer.convert_ids_to_tokens(self.image_id)
        with self.frozen():
            for batch in self._in_batches(images):
                inputs, texts = self.read(batch)
                inputs = inputs.to(self.device, self.dtype)
                features += encode_pictures(self.model, inputs, texts, mark=mark, keep=self.kept_inputs)
        return features

    def answer_loss(
        self,
        features: Sequence[Features],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, features=features, prompts=prompts, answers=answers)
        batch = self.prompter.teacher_forced([f.layout.text for f in features], prompts, answers, rows)
        logits, recorder = self._forward(features, batch, rows, queries=batch.later, keys=batch.rows)
        labels = batch.labels[:, -logits.shape[1] :]
        return objective(logits, labels, recorder.stacked(), batch.later, batch.rows)

    def prefixes(self, features: Sequence[Features]) -> list[Prefix] | None:
        kept = []
        with self.frozen():
            for feature in features:
                ids = self.prompter.prompt_ids("", feature.layout.text)
                ids = ids[: text.place_after_last(ids, self.image_id)]
                arguments = self._arguments_on_device(
                    torch.tensor([ids]),
                    torch.ones(1, len(ids), dtype=torch.long),
                    [len(ids)],
                    [feature.layout],
                )
                kept.append(
                    prefill(self.model, self.language_model, ids, feature, arguments, image_id=self.image_id)
                )
        return kept

    def tail_loss(
        self,
        prefixes: Sequence[Prefix],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        return self._tail_loss(None, prefixes, prompts, answers, rows)

    def tail_losses(self, texts: Sequence[tuple[str, str]], rows: int) -> Callable[..., Loss]:
        # A CUDA graph covers one device; a model on several devices has hooks that move tensors between them.
        placed = {weight.device for weight in self.model.parameters()}
        if len(placed) != 1 or self.device.type != "cuda":
            return self.tail_loss
        longest = partial(self.prompter.longest_tail, texts, rows)
        return partial(self._tail_loss, Replay(self._run_tail, longest, self._fused.room))

    def _tail_loss(
        self,
        replay: Replay | None,
        prefixes: Sequence[Prefix],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        self._check(rows, prefixes=prefixes, prompts=prompts, answers=answers)
        layouts = [prefix.layout for prefix in prefixes]
        batch = self.prompter.teacher_forced([own.text for own in layouts], prompts, answers, rows)
        arguments = self._arguments_on_device(batch.ids, batch.attention_mask, batch.starts, layouts)
        at_least = replay.lengths(prefixes) if replay else (0, 0)
        tail = tail_of(self.model, prefixes, batch, rows, arguments.get("position_ids"), at_least=at_least)
        if replay:
            logits, probabilities = replay(tail, prefixes)
        else:
            past = stack_prefixes(prefixes, tail.prefix_length, self._fused.room(tail.embeds.shape[1]))
            logits, probabilities = self._run_tail(*tail.inputs, past)
        return objective(logits[:, :-1], tail.labels[:, 1:], probabilities, tail.queries, tail.keys)

    @cached_property
    def _fused(self) -> FusedLayers:
        return FusedLayers(self.language_model, self.language_model.config)

    def _run_tail(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        past: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Run the model on a tail after its cached prefixes: logits `B × T × V`, recorded probabilities."""
        prefix_length = mask.shape[1] - embeds.shape[1]

        def run() -> tuple[Tensor, Tensor]:
            cache = cache_of(list(past) if self._fused.has_untested else past, prefix_length)
            with (
                record_attention(self.language_model.config, queries=queries, keys=keys) as recorder,
                self._fused.step(recorder),
            ):
                logits = self.model(
                    inputs_embeds=embeds,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=True,
                    **{cache_argument(self.model): cache},
                ).logits
            return logits, recorder.stacked()

        with self.frozen():
            if self._fused.has_untested:
                with torch.no_grad():
                    run()
            return run()

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        self._check([rows])
        place = text.place_of(answer, word, rows)
        features = self.encode([image])
        batch = self.prompter.teacher_forced([features[0].layout.text], [prompt], [answer], [rows])
        if place is None:
            queries = batch.rows
        else:
            before_word = self.prompter.answer_ids(prompt, answer[:place])
            queries = torch.tensor([[batch.starts[0] + len(before_word) - 1]])
        keys = (batch.ids == self.image_id).nonzero()[:, 1][None]
        with torch.no_grad():
            _, recorder = self._forward(features, batch, [rows], queries=queries, keys=keys)
        given = torch.stack([p.mean((0, 1, 2)).cpu() for p in recorder.probabilities]).mean(0)
        patches = self.arranged(features[0], given)
        return np.asarray(patches / patches.sum(), dtype=np.float32)

    def arranged(self, features: Features, values: Tensor) -> Tensor:
        """Arrange values of an image's visual tokens as a grid over the picture: `h × w × …`."""
        first, height, width = self.grid(features)
        # If the tower has no [CLS] token, a model that drops "the first token" drops the first patch.
        missing = values.new_zeros(max(-first, 0), *values.shape[1:])
        shown = torch.cat([missing, values[max(first, 0) :]])[: height * width]
        return shown.reshape(height, width, *values.shape[1:])

    def entering(self, features: Features) -> Tensor:
        """A picture's visual tokens as they enter the language model: `T × D`."""
        return features.tokens

    def probe(self) -> CausalProbe:
        return CausalProbe(self)

    def word_direction(self, word: str) -> Tensor:
        return functional.normalize(self.token_directions(word).mean(0), dim=-1)

    def token_directions(self, words: str) -> Tensor:
        return text.embeddings_of(self.model, self.word_ids(words))

    def inserted(
        self, rows: Sequence[Sequence[ConceptRows]], sentinels: Sequence[int] | None = None
    ) -> InsertedRows:
        """Context manager in which the model reads sentinel ids as these rows."""
        return InsertedRows(
            self.reader,
            self.language_model,
            rows,
            image_id=self.image_id,
            sentinel_id=self.prompter.sentinel_id,
            sentinels=sentinels,
        )

    def _replies(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[text.Prompt],
        rows: Sequence[Sequence[ConceptRows]],
        options: Mapping[str, Any],
    ) -> list[Generation]:
        inputs = self.prompter.processed(images, prompts)
        if any(rows):
            inputs, sentinels = self.prompter.with_rows(inputs, rows)
            inputs = inputs.to(self.device, self.dtype)
            with self.inserted(rows, sentinels):
                return self._generated(inputs, with_suppressed_token(options, self.prompter.sentinel_id))
        return self._generated(inputs.to(self.device, self.dtype), options)

    def replies_to_each(
        self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt], **generation: Any
    ) -> list[list[Generation]]:
        options = options_for(self.model, self.processor.tokenizer, generation)
        if len(prompts) < 2 or self._has_arguments or not can_reuse_cache(self.model, options):
            return super().replies_to_each(images, prompts, **generation)
        pad_id, at_once, ids_of = self.prompter.pad_id, self.images_at_once, self.prompter.prompt_ids
        each: list[list[Generation]] = []
        for shown in self._in_batches(images):
            prefixes = self.prefixes(self.encode(shown))
            if prefixes is None:  # the family has none
                return super().replies_to_each(images, prompts, **generation)
            samples = [(own, ids_of(prompt, own.layout.text)) for own in prefixes for prompt in prompts]
            with self.frozen(), exclusive_use(self.model), torch.no_grad():
                batches = generation_batches(self.model, samples, pad_id=pad_id, at_least=at_once)
                replies = [reply for inputs in batches for reply in self._generated(inputs, options)]
            each += [replies[start : start + len(prompts)] for start in range(0, len(replies), len(prompts))]
            del prefixes, samples  # free their memory before the next are computed
        return each

    def _generated(self, inputs: Any, options: Mapping[str, Any]) -> list[Generation]:
        """Generate the replies to a batch of processed prompts."""
        try:
            output = run_generate(self.model, inputs, options)
        except ValueError as error:
            if (mismatch := token_mismatch_in(error, self.model, options)) is None:
                raise
            raise mismatch from error
        new = output[:, inputs["input_ids"].shape[1] :]
        return [Generation(*self.prompter.reply(ids)) for ids in new]

    def _forward(
        self,
        features: Sequence[Features],
        batch: TeacherForced,
        rows: Sequence[Sequence[ConceptRows]],
        *,
        queries: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, AttentionRecorder]:
        """A full pass from encoded features: logits `B × N × V` of the last `N` labels, and the recorder."""
        first, layouts = min(batch.starts), [feature.layout for feature in features]
        arguments = self._arguments_on_device(batch.ids, batch.attention_mask, batch.starts, layouts)
        queries, keys = queries.to(self.device), keys.to(self.device)
        with (
            self.frozen(),
            self.inserted(rows, batch.sentinels),
            record_attention(self.language_model.config, queries=queries, keys=keys) as recorder,
        ):
            output = self.model(
                input_ids=batch.ids.to(self.device),
                attention_mask=batch.attention_mask.to(self.device),
                mm_encoder_outputs=encoder_outputs(features, self.device),
                use_cache=False,
                # No logits are needed for the thousands of image tokens.
                logits_to_keep=batch.ids.shape[1] - first + 1,
                **arguments,
            )
        return output.logits[:, :-1], recorder

    def _arguments_on_device(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        """`arguments`, on the model's device."""
        arguments = self.arguments(ids.to(self.device), mask.to(self.device), starts, layouts)
        return {name: value.to(self.device) for name, value in arguments.items()}
