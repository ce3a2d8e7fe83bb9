"""Builds what a causal language model reads: prompts with images, concept rows and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from myvlm.backbones import tokens as text
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.frozen import tokenizing
from myvlm.backbones.tokens import IGNORED

KNOWN = 2048  # texts whose ids are kept


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
        template: the prompt, with `{image}` and `{prompt}`; None for the processor's chat template.
        image_id: id of the image placeholder.
        sentinel_id: id that stands where a concept row goes; or what finds one, again whenever the
            tokenizer has got new words, which it may be one of.
        eos_ids: ids that end a reply; the first is the one that is learned.
        instruction: what the family makes of a bare instruction.
        completed: what the processor itself adds to a rendered prompt.
    """

    def __init__(
        self,
        processor: Any,
        *,
        template: str | None,
        image_id: int,
        sentinel_id: int | Callable[[], int],
        eos_ids: Sequence[int],
        instruction: Callable[[str], str] = str,
        completed: Callable[[str], str] = str,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.template = template
        self.image_id = image_id
        self._find_sentinel = sentinel_id
        self.eos_ids = list(eos_ids)
        self.instruction = instruction
        self.completed = completed
        self._apart = template is None and text.replies_right_behind(processor)
        self._known: dict[tuple[str, ...], list[int]] = {}
        self._rendered: dict[tuple[str, text.Prompt] | None, str] = {}
        self._fine: set[str] = set()
        self._words = -1
        self._renew()

    @property
    def pad_id(self) -> int:
        """What fills a batch: masked out, so that any id would do."""
        return text.pad_id(self.tokenizer, self.eos_ids)

    @property
    def sentinel_id(self) -> int:
        """Id that stands where a concept row goes: no word of the tokenizer."""
        self._renew()
        return self._sentinel

    def _renew(self) -> None:
        """Forget what was found of the tokenizer once it has got new words."""
        if self._words != (words := len(self.tokenizer)):
            found = self._find_sentinel
            self._sentinel = found if isinstance(found, int) else found()
            self._known.clear()
            self._rendered.clear()
            self._words = words

    def render(self, prompt: text.Prompt) -> str:
        """The bare instruction, or conversation, as the model expects it, with one image placeholder."""
        template = self.template or getattr(self.processor, "chat_template", None)
        key = (template, prompt) if isinstance(template, str) else None
        if key not in self._rendered or key is None:
            if len(self._rendered) >= KNOWN:
                self._rendered.clear()
            self._rendered[key] = self._render(prompt)
        return self._rendered[key]

    def _render(self, prompt: text.Prompt) -> str:
        turns = text.turns_of(prompt)
        for turn in turns:
            text.check_prompt(self.processor, turn, self._fine)
        written = (turn if place % 2 else self.instruction(turn) for place, turn in enumerate(turns))
        return text.render(self.processor, self.template, tuple(written))

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt]) -> Any:
        """The processor's own output for plain transformers, a list padded on the left.

        Raises:
            InputError: a prompt holds a special token, or several come without a token to pad with.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        text.refuse_unpadded(self.tokenizer, rendered)
        options: dict[str, Any] = {"padding": True, "padding_side": "left"} if len(rendered) > 1 else {}
        if not text.adds_special_tokens(self.tokenizer, rendered[0]):
            options["add_special_tokens"] = False
        # A list of pictures for each text: some processors take a flat list for the pictures of one text.
        nested = [[image] for image in images]
        with tokenizing(self.tokenizer):
            return self.processor(images=nested, text=rendered, return_tensors="pt", **options)

    def with_rows(self, inputs: Any, rows: Sequence[Sequence[ConceptRows]]) -> tuple[Any, list[int]]:
        """`processed` inputs with a sentinel for each concept row, and how many sentinels each sample has.

        Whatever else has one entry a token (token types) is laid out anew too, with 0 for a row: text.
        """
        shape, real = inputs["input_ids"].shape, inputs["attention_mask"].bool()
        counts = [sum(concept.count for concept in concepts) for concepts in rows]
        ids = [own[mask].tolist() for own, mask in zip(inputs["input_ids"], real, strict=True)]
        places = [text.place_after_last(own, self.image_id) for own in ids]
        entries = {  # of a row, and of padding
            "input_ids": (self.sentinel_id, self.pad_id),
            "attention_mask": (1, 0),
            "labels": (IGNORED, IGNORED),
        }
        for name, table in list(inputs.items()):
            if isinstance(table, Tensor) and table.shape == shape:
                entry, filler = entries.get(name, (0, 0))
                samples = []
                for own, mask, place, count in zip(table, real, places, counts, strict=True):
                    kept = own[mask].tolist()
                    samples.append([*kept[:place], *[entry] * count, *kept[place:]])
                inputs[name] = text.pad(samples, filler, left=True).to(table.dtype)
        return inputs, (inputs["input_ids"] == self.sentinel_id).sum(1).tolist()

    def with_sentinels(self, ids: Sequence[int], rows: Sequence[ConceptRows]) -> list[int]:
        """Ids of one prompt with a sentinel for each concept row after its last image placeholder.

        Raises:
            BackboneError: the prompt has no image placeholder.
        """
        count = sum(concept.count for concept in rows)
        return text.insert_after_last(ids, self.image_id, [self.sentinel_id] * count)

    def prompt_ids(self, prompt: text.Prompt, picture: str) -> list[int]:
        """The ids that the processor makes of a prompt, `picture` being what it writes for its image."""
        rendered = self.completed(self.render(prompt)).replace(self.processor.image_token, picture)
        return self._once(text.prompt_ids, rendered)

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The ids of an answer to a prompt, without end of sequence."""
        if self._apart:
            return self._once(text.alone_ids, answer)
        return self._once(text.answer_ids, self.completed(self.render(prompt)), answer)

    def _once(self, ids_of: Callable[..., list[int]], *texts: str) -> list[int]:
        """Ids of texts, as a learner asks for them again and again: a thousand placeholders take a while."""
        self._renew()
        key = (ids_of.__name__, *texts)
        if key not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = ids_of(self.tokenizer, *texts)
        return list(self._known[key])

    def teacher_forced(
        self,
        pictures: Sequence[str],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> TeacherForced:
        """Prompts, concepts and answers as one batch; `pictures` are what the processor writes for images."""
        ids, labels, columns, later, starts = [], [], [], [], []
        for picture, prompt, answer, concepts in zip(pictures, prompts, answers, rows, strict=True):
            plain = self.prompt_ids(prompt, picture)
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

    def longest_tail(self, texts: Sequence[tuple[str, str]], rows: int, picture: str) -> int:
        """The most positions behind its picture that one of these prompts takes with its answer and so many
        rows, the end of sequence included; `picture` is what stands for it."""
        asked = {prompt: self.prompt_ids(prompt, picture) for prompt, _ in texts}
        spared = {prompt: text.place_after_last(ids, self.image_id) for prompt, ids in asked.items()}
        lengths = (
            len(asked[prompt]) - spared[prompt] + len(self.answer_ids(prompt, answer))
            for prompt, answer in texts
        )
        return rows + 1 + max(lengths)

    def reply(self, new_ids: Tensor) -> tuple[str, Tensor]:
        """The text and the ids of what was generated, without end of sequence and what follows it."""
        return text.reply(self.tokenizer, new_ids, self.eos_ids)
