"""Builds what a causal language model reads: prompts with images, concept rows and answers.

Imports torch, the errors, `base` and `text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from myvlm.backbones import text
from myvlm.backbones.base import ConceptRows
from myvlm.errors import InputError

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """A batch of prompts with their answers, padded on the right to `S`.

    Args:
        ids: `B × S`.
        attention_mask: `B × S`, 1 but on padding.
        labels: `B × S`, -100 everywhere but on the answer and its end of sequence.
        rows: `B × R` columns of the concept rows; -1 is none.
        later: `B × Q` positions after the last concept row; -1 is none.
        starts: where each answer starts.
        sentinels: how many sentinel ids each sample holds.
    """

    ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: Tensor
    later: Tensor
    starts: list[int]
    sentinels: list[int]


class Prompter:
    """Turns bare instructions, answers and concepts into token ids for one model.

    Args:
        processor: the model's processor.
        template: the family's prompt, with `{image}` and `{prompt}`, for want of a chat template.
        image_id: id of the image placeholder.
        sentinel_id: id that stands where a concept row goes.
        eos_ids: ids that end a reply.
    """

    def __init__(
        self, processor: Any, *, template: str, image_id: int, sentinel_id: int, eos_ids: Sequence[int]
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.template = template
        self.image_id = image_id
        self.sentinel_id = sentinel_id
        self.eos_ids = list(eos_ids)

    @property
    def pad_id(self) -> int:
        """What fills a batch: masked out, so that any id would do."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else next(iter(self.eos_ids), 0))

    def render(self, prompt: str) -> str:
        """The bare instruction as the model expects it, with one image placeholder."""
        text.refuse_placeholder(prompt, self.processor.image_token)
        return text.render(self.processor, self.template, prompt)

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        """The processor's own output for plain transformers, a list padded on the left."""
        rendered = [self.render(prompt) for prompt in prompts]
        if len(rendered) > 1 and self.tokenizer.pad_token_id is None:
            raise InputError(
                "The tokenizer has no padding token, which several images at once need.",
                got="pad_token None",
                expected="any token",
                fix="set processor.tokenizer.pad_token, or pass one image at a time",
            )
        options: dict[str, Any] = {"padding": True, "padding_side": "left"} if len(rendered) > 1 else {}
        if not text.adds_special_tokens(self.tokenizer, rendered[0]):
            options["add_special_tokens"] = False
        return self.processor(images=list(images), text=rendered, return_tensors="pt", **options)

    def with_rows(self, inputs: Any, rows: Sequence[Sequence[ConceptRows]]) -> tuple[Any, list[int]]:
        """`processed` inputs with a sentinel for each concept row, and how many sentinels each sample has."""
        samples = []
        for ids, mask, concepts in zip(
            inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), rows, strict=True
        ):
            plain = [token for token, real in zip(ids, mask, strict=True) if real]
            samples.append(self.with_sentinels(plain, concepts))
        inputs["input_ids"] = text.pad(samples, self.pad_id, left=True)
        inputs["attention_mask"] = text.pad([[1] * len(sample) for sample in samples], 0, left=True)
        return inputs, [sample.count(self.sentinel_id) for sample in samples]

    def with_sentinels(self, ids: Sequence[int], rows: Sequence[ConceptRows]) -> list[int]:
        """Ids of one prompt with a sentinel for each concept row after its last image placeholder."""
        count = sum(concept.count for concept in rows)
        return text.insert_after_last(ids, self.image_id, [self.sentinel_id] * count)

    def prompt_ids(self, prompt: str, image_tokens: int) -> list[int]:
        """The ids that the processor makes of a prompt whose image has that many tokens."""
        token = self.processor.image_token
        return text.prompt_ids(self.tokenizer, self.render(prompt).replace(token, token * image_tokens))

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The ids of an answer to a prompt, without end of sequence."""
        return text.answer_ids(self.tokenizer, self.render(prompt), answer)

    def teacher_forced(
        self,
        image_tokens: Sequence[int],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> TeacherForced:
        """Prompts, concepts and answers as one batch; `image_tokens` says how many each image has."""
        ids, labels, columns, later, starts = [], [], [], [], []
        for tokens, prompt, answer, concepts in zip(image_tokens, prompts, answers, rows, strict=True):
            plain = self.prompt_ids(prompt, tokens)
            question = self.with_sentinels(plain, concepts)
            target = [*self.answer_ids(prompt, answer), *self.eos_ids[:1]]
            first = len(question) - list(reversed(question)).index(self.image_id)
            last = first + len(question) - len(plain)
            ids.append([*question, *target])
            labels.append([IGNORED] * len(question) + target)
            columns.append(range(first, last))
            later.append(range(last, len(ids[-1])) if concepts else [])
            starts.append(len(question))
        return TeacherForced(
            ids=text.pad(ids, self.pad_id),
            attention_mask=text.pad([[1] * len(sample) for sample in ids], 0),
            labels=text.pad(labels, IGNORED),
            rows=text.pad(columns, -1),
            later=text.pad(later, -1),
            starts=starts,
            sentinels=[sample.count(self.sentinel_id) for sample in ids],
        )

    def reply(self, new_ids: Tensor) -> tuple[str, Tensor]:
        """The text and the ids of what was generated, without end of sequence and what follows it."""
        return text.reply(self.tokenizer, new_ids, self.eos_ids)
