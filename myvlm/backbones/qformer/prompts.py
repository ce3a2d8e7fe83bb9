"""What BLIP-2's language models read and write: prompts behind a picture's placeholders, and answers.

A causal model (OPT) reads prompt and answer as one text; an encoder and decoder (T5) reads the one and writes
the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

from myvlm.backbones import tokens as text
from myvlm.backbones.frozen import tokenizing
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import InputError

QUESTION = "Question: {} Answer:"
"""How the checkpoints are asked."""


@dataclass(frozen=True, eq=False)
class Taught:
    """A batch of prompts with their answers, padded on the right.

    Args:
        inputs: the model's `input_ids` and `attention_mask`, `B × S`; for a T5 also `labels`.
        labels: `B × N` of the answer and its end of sequence, -100 elsewhere: `N` is `S` in a causal model.
        starts: where each answer starts among the labels.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    starts: list[int]


class Blip2Prompter:
    """Turns bare instructions and answers into token ids for one BLIP-2.

    Args:
        model: a `Blip2ForConditionalGeneration`.
        processor: its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._fine: set[str] = set()
        self.positions = _learned_positions(model.language_model)
        self.image_id = model.config.image_token_id
        self.image_tokens = int(model.config.num_query_tokens)
        self.causal = bool(model.config.use_decoder_only_language_model)
        # What ends a reply is the language model's own: generation asks it, not the whole.
        eos = model.language_model.generation_config.eos_token_id
        eos = self.tokenizer.eos_token_id if eos is None else eos
        self.eos_ids: list[int] = list(eos) if isinstance(eos, list) else [] if eos is None else [eos]

    @property
    def pad_id(self) -> int:
        """What fills a batch: masked out, so that any id would do."""
        return text.pad_id(self.tokenizer, self.eos_ids)

    def render(self, prompt: text.Prompt) -> str:
        """The prompt as the checkpoints document it: a question in its form, any other text as it is.

        Without a text the model writes a caption; a text without a question mark is one to go on with. What
        was asked and answered before stands before it, in the form of a question.
        """
        *before, prompt = text.turns_of(prompt)
        for turn in (*before, prompt):
            text.check_prompt(self.processor, turn, self._fine)
        if before:
            pairs = zip(before[::2], before[1::2], strict=True)
            told = " ".join(f"{QUESTION.format(asked.strip())} {answer.strip()}." for asked, answer in pairs)
            return f"{told} {QUESTION.format(prompt.strip())}"
        asked = "?" in prompt and not re.match(r"\s*question\s*:", prompt, flags=re.IGNORECASE)
        return QUESTION.format(prompt.strip()) if asked else prompt

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt]) -> Any:
        """The processor's own output for plain transformers, several padded.

        Padded on the left for a causal model, which goes on at the right. On the right for an encoder: the
        processor puts padding behind the picture's placeholders, and a T5 counts the distance to them.

        Raises:
            InputError: the processor put no place for the picture into the text, a prompt holds a special
                token or is too long, or several prompts come without a token to pad with.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        text.refuse_unpadded(self.tokenizer, rendered)
        side = "left" if self.causal else "right"
        options: dict[str, Any] = {"padding": True, "padding_side": side} if len(rendered) > 1 else {}
        with tokenizing(self.tokenizer):
            inputs = self.processor(images=list(images), text=rendered, return_tensors="pt", **options)
        self.check_places(inputs["input_ids"])
        check_length(inputs["input_ids"].shape[1], self.positions)
        return inputs

    def check_places(self, ids: Tensor) -> None:
        """Raise InputError unless each of `B × S` ids has one placeholder for every query token.

        With none, transformers ignores the picture and says nothing.
        """
        counts = [0] * len(ids) if self.image_id is None else (ids == self.image_id).sum(1).tolist()
        if set(counts) != {self.image_tokens}:
            raise InputError(
                "The prompt does not keep a place for the picture.",
                got=f"{counts} image placeholders (id {self.image_id})",
                expected=f"{self.image_tokens} in each prompt",
                fix=f"set processor.num_query_tokens to {self.image_tokens}, and model.config.image_token_id "
                "to the id of the tokenizer's '<image>'; current checkpoints have both",
            )

    def read_beside(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the Q-Former reads beside the pictures, as the model's inputs: nothing in BLIP-2."""
        return {}

    def prompt_ids(self, prompt: text.Prompt) -> list[int]:
        """The ids that the processor makes of a prompt: the picture's places, then the text."""
        with tokenizing(self.tokenizer):
            ids: list[int] = self.tokenizer(self.render(prompt))["input_ids"]
        places = [] if self.image_id is None else [int(self.image_id)] * self.image_tokens
        return [*places, *ids]

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The ids of an answer to a prompt, without end of sequence."""
        rendered = self.render(prompt)
        if self.causal and rendered:
            return text.answer_ids(self.tokenizer, rendered, answer)
        # A text of its own: nothing stands before it.
        return text.alone_ids(self.tokenizer, answer)

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> Taught:
        """Prompts and answers as one batch.

        Raises:
            InputError: the model keeps no place for the picture in its text, or the text is too long.
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
        self.check_places(inputs["input_ids"])
        check_length(inputs["input_ids"].shape[1], self.positions)
        padded = text.pad(labels, IGNORED)
        if not self.causal:
            inputs["labels"] = padded
        starts = [len(one) if self.causal else 0 for one in asked]
        return Taught(inputs, padded, starts)

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `B × N × V` and the `B × N` labels that they are of, from a teacher-forced pass."""
        return (logits[:, :-1], labels[:, 1:]) if self.causal else (logits, labels)

    def new_ids(self, output: Tensor, inputs: Any) -> Tensor:
        """What `generate` wrote, `B × N`, without the prompt or the decoder's start."""
        return output[:, inputs["input_ids"].shape[1] if self.causal else 1 :]

    def reply(self, new_ids: Tensor) -> tuple[str, Tensor]:
        """The text and the ids of what was generated, without end of sequence and what follows it."""
        return text.reply(self.tokenizer, new_ids, self.eos_ids)


def check_length(tokens: int, most: int | None) -> None:
    """Raise InputError where a text has more tokens than a model has places for; None is no bound.

    On a GPU it would be an assertion after which the process can use the device no more.
    """
    if most is not None and tokens > most:
        raise InputError(
            "The text is longer than the model has places for.",
            got=f"{tokens:,} tokens, the picture's included",
            expected=f"at most {most:,}",
            fix="write a shorter prompt or caption",
        )


def _learned_positions(language_model: nn.Module) -> int | None:
    """The most tokens that a model with a table of positions takes; None where positions are computed."""
    tables = [
        part.num_embeddings - getattr(part, "offset", 0)
        for name, part in language_model.named_modules()
        if isinstance(part, nn.Embedding) and name.endswith("embed_positions")
    ]
    return min(tables, default=None)
