"""Token ids of prompts and answers for BLIP-2's language models.

A causal model (OPT) reads image placeholders, prompt and answer as one text. An encoder-decoder (T5) reads
placeholders and prompt in the encoder and writes the answer in the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

from myvlm.backbones import tokens as text
from myvlm.backbones.frozen import exclusive_tokenizer
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import InputError

QUESTION = "Question: {} Answer:"
"""The format of questions that the checkpoints were trained with."""


@dataclass(frozen=True, eq=False)
class Taught:
    """A batch of prompts with answers for training, padded on the right.

    Args:
        inputs: the model's `input_ids` and `attention_mask`, `B × S`; for T5 also `labels`.
        labels: `B × N`, the answer and its end of sequence, -100 elsewhere; `N` is `S` in a causal model.
        starts: index in `labels` at which each answer starts.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    starts: list[int]


class Blip2Prompter:
    """Converts instructions and answers to token ids for a BLIP-2 model.

    Args:
        model: a `Blip2ForConditionalGeneration`.
        processor: its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._accepted_prompts: set[str] = set()
        self.positions = _max_positions(model.language_model)
        self.image_id = model.config.image_token_id
        self.image_tokens = int(model.config.num_query_tokens)
        self.causal = bool(model.config.use_decoder_only_language_model)
        # Generation uses the end-of-sequence ids of the language model, not those of the whole model.
        eos = model.language_model.generation_config.eos_token_id
        eos = self.tokenizer.eos_token_id if eos is None else eos
        self.eos_ids: list[int] = list(eos) if isinstance(eos, list) else [] if eos is None else [eos]

    @property
    def pad_id(self) -> int:
        """The id for padding a batch; it is masked out, so any id is valid."""
        return text.pad_id(self.tokenizer, self.eos_ids)

    def render(self, prompt: text.Prompt) -> str:
        """The prompt in the checkpoints' documented format: questions as `QUESTION`, other texts unchanged.

        For an empty prompt the model writes a caption; a text without a question mark is continued. Earlier
        turns of a conversation are put before the prompt, as answered questions.
        """
        *before, prompt = text.turns_of(prompt)
        for turn in (*before, prompt):
            text.check_prompt(self.processor, turn, self._accepted_prompts)
        if before:
            pairs = zip(before[::2], before[1::2], strict=True)
            told = " ".join(f"{QUESTION.format(asked.strip())} {answer.strip()}." for asked, answer in pairs)
            return f"{told} {QUESTION.format(prompt.strip())}"
        asked = "?" in prompt and not re.match(r"\s*question\s*:", prompt, flags=re.IGNORECASE)
        return QUESTION.format(prompt.strip()) if asked else prompt

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt]) -> Any:
        """The processor's output, as plain transformers expects it; several prompts are padded.

        Padding is on the left for a causal model, which continues at the right, and on the right for an
        encoder: left padding would come after the picture's placeholders, to which T5 counts the distance.

        Raises:
            InputError: the processor wrote no image placeholders, a prompt contains a special token or is too
                long, or there are several prompts but no padding token.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        text.check_can_pad(self.tokenizer, rendered)
        side = "left" if self.causal else "right"
        options: dict[str, Any] = {"padding": True, "padding_side": side} if len(rendered) > 1 else {}
        with exclusive_tokenizer(self.tokenizer):
            inputs = self.processor(images=list(images), text=rendered, return_tensors="pt", **options)
        self.check_placeholders(inputs["input_ids"])
        check_length(inputs["input_ids"].shape[1], self.positions)
        return inputs

    def check_placeholders(self, ids: Tensor) -> None:
        """Raise InputError unless each sequence of `B × S` ids has one placeholder per query token.

        Without placeholders, transformers silently ignores the picture.
        """
        counts = [0] * len(ids) if self.image_id is None else (ids == self.image_id).sum(1).tolist()
        if set(counts) != {self.image_tokens}:
            raise InputError(
                "The prompt has the wrong number of image placeholders.",
                got=f"{counts} image placeholders (id {self.image_id})",
                expected=f"{self.image_tokens} in each prompt",
                fix=f"set processor.num_query_tokens to {self.image_tokens}, and model.config.image_token_id "
                "to the id of the tokenizer's '<image>'; current checkpoints have both",
            )

    def qformer_inputs(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text inputs of the Q-Former, as keyword arguments of the model; none in BLIP-2."""
        return {}

    def prompt_ids(self, prompt: text.Prompt) -> list[int]:
        """The ids of a prompt, equal to the processor's: image placeholders, then the text."""
        with exclusive_tokenizer(self.tokenizer):
            ids: list[int] = self.tokenizer(self.render(prompt))["input_ids"]
        places = [] if self.image_id is None else [int(self.image_id)] * self.image_tokens
        return [*places, *ids]

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The ids of an answer to a prompt, without end of sequence."""
        rendered = self.render(prompt)
        if self.causal and rendered:
            return text.answer_ids(self.tokenizer, rendered, answer)
        # No text precedes the answer, so it is tokenised on its own.
        return text.standalone_ids(self.tokenizer, answer)

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> Taught:
        """Prompts and answers as one training batch.

        Raises:
            InputError: the prompts contain no image placeholders, or a text is too long.
        """
        asked = [self.prompt_ids(prompt) for prompt in prompts]
        targets = [
            [*self.answer_ids(*pair), *self.eos_ids[:1]] for pair in zip(prompts, answers, strict=True)
        ]
        if self.causal:
            ids = [[*one, *other] for one, other in zip(asked, targets, strict=True)]
            labels = [[IGNORED] * len(one) + other for one, other in zip(asked, targets, strict=True)]
        else:
            ids, labels = asked, targets
        inputs = {
            "input_ids": text.pad(ids, self.pad_id),
            "attention_mask": text.pad([[1] * len(sample) for sample in ids], 0),
        }
        self.check_placeholders(inputs["input_ids"])
        check_length(inputs["input_ids"].shape[1], self.positions)
        padded = text.pad(labels, IGNORED)
        if not self.causal:
            inputs["labels"] = padded
        starts = [len(one) if self.causal else 0 for one in asked]
        return Taught(inputs, padded, starts)

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Align the logits `B × N × V` of a teacher-forced pass with the labels `B × N` that they predict."""
        return (logits[:, :-1], labels[:, 1:]) if self.causal else (logits, labels)

    def new_ids(self, output: Tensor, inputs: Any) -> Tensor:
        """The ids that `generate` added, `B × N`, without the prompt or the decoder's start token."""
        return output[:, inputs["input_ids"].shape[1] if self.causal else 1 :]

    def reply(self, new_ids: Tensor) -> tuple[str, Tensor]:
        """The text and ids of a generated reply, up to but excluding the end of sequence."""
        return text.reply(self.tokenizer, new_ids, self.eos_ids)


def check_length(tokens: int, most: int | None) -> None:
    """Raise InputError if a text has more tokens than the model has positions; None means no limit.

    On a GPU this would trigger a device-side assertion, after which the process cannot use the device.
    """
    if most is not None and tokens > most:
        raise InputError(
            "The text is too long for the model.",
            got=f"{tokens:,} tokens, including the picture's",
            expected=f"at most {most:,}",
            fix="write a shorter prompt or caption",
        )


def _max_positions(language_model: nn.Module) -> int | None:
    """The maximum length of a model with a table of position embeddings; None if it has no such table."""
    tables = [
        part.num_embeddings - getattr(part, "offset", 0)
        for name, part in language_model.named_modules()
        if isinstance(part, nn.Embedding) and name.endswith("embed_positions")
    ]
    return min(tables, default=None)
