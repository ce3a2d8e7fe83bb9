"""Builds what a causal language model reads: prompts with images, concept rows and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from myvlm.backbones import tokens as text
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.frozen import exclusive_tokenizer
from myvlm.backbones.tokens import IGNORED

MAX_CACHED = 2048  # maximum number of texts whose rendering or ids are cached


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """A batch of prompts with their answers, padded on the right to `S`.

    Args:
        ids: `B × S`.
        attention_mask: `B × S`, 0 at padding, else 1.
        labels: `B × S`, -100 except on the answer and its end of sequence.
        rows: `B × R` columns of the concept rows; -1 is padding.
        later: `B × Q` positions after the last concept row; -1 is padding.
        starts: index of each sample's first answer token.
        sentinels: number of sentinel ids of each sample.
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
        sentinel_id: id at the positions of concept rows; or a function that finds one, called again whenever
            words were added to the tokenizer, because they may take that id.
        eos_ids: ids that end a reply; learned answers end in the first.
        instruction: turns a bare instruction into the family's wording.
        completed: adds to a rendered prompt what the processor itself adds.
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
        self._tokenizes_answers_alone = template is None and text.reply_follows_without_space(processor)
        self._cached_ids: dict[tuple[str, ...], list[int]] = {}
        self._rendered: dict[tuple[str, text.Prompt], str] = {}
        self._checked_prompts: set[str] = set()
        self._vocabulary_size = -1
        self._refresh()

    @property
    def pad_id(self) -> int:
        """Id of padding in batches; it is masked, so any id is valid."""
        return text.pad_id(self.tokenizer, self.eos_ids)

    @property
    def sentinel_id(self) -> int:
        """Id at the positions of concept rows; not a word of the tokenizer."""
        self._refresh()
        return self._sentinel

    def _refresh(self) -> None:
        """Clear the caches and find the sentinel id again if words were added to the tokenizer."""
        if self._vocabulary_size != (words := len(self.tokenizer)):
            found = self._find_sentinel
            self._sentinel = found if isinstance(found, int) else found()
            self._cached_ids.clear()
            self._rendered.clear()
            self._vocabulary_size = words

    def render(self, prompt: text.Prompt) -> str:
        """Render a bare instruction or a conversation in the model's template, with one image placeholder."""
        template = self.template or getattr(self.processor, "chat_template", None)
        if not isinstance(template, str):
            return self._render(prompt)
        key = template, prompt
        if (rendered := self._rendered.get(key)) is None:
            rendered = self._render(prompt)
            _keep(self._rendered, key, rendered)
        return rendered

    def _render(self, prompt: text.Prompt) -> str:
        turns = text.turns_of(prompt)
        for turn in turns:
            text.check_prompt(self.processor, turn, self._checked_prompts)
        written = (turn if place % 2 else self.instruction(turn) for place, turn in enumerate(turns))
        return text.render(self.processor, self.template, tuple(written))

    def processed(self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt]) -> Any:
        """The processor's own output, as plain transformers takes it; several prompts are padded on the left.

        Raises:
            InputError: a prompt contains a special token, or several prompts need padding and the tokenizer
                has no token for it.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        text.check_can_pad(self.tokenizer, rendered)
        options: dict[str, Any] = {"padding": True, "padding_side": "left"} if len(rendered) > 1 else {}
        if not text.adds_special_tokens(self.tokenizer, rendered[0]):
            options["add_special_tokens"] = False
        # A list of pictures per text: some processors read a flat list as the pictures of one text.
        nested = [[image] for image in images]
        with exclusive_tokenizer(self.tokenizer):
            return self.processor(images=nested, text=rendered, return_tensors="pt", **options)

    def with_rows(self, inputs: Any, rows: Sequence[Sequence[ConceptRows]]) -> tuple[Any, list[int]]:
        """Insert a sentinel per concept row into `processed` inputs; also count the sentinels of each sample.

        Other inputs with one entry per token (token types) are extended too, with 0, text, for a row.
        """
        shape, real = inputs["input_ids"].shape, inputs["attention_mask"].bool()
        counts = [sum(concept.count for concept in concepts) for concepts in rows]
        ids = [own[mask].tolist() for own, mask in zip(inputs["input_ids"], real, strict=True)]
        places = [text.place_after_last(own, self.image_id) for own in ids]
        entries = {  # for a row, and for padding
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
        """Insert a sentinel per concept row after the last image placeholder of one prompt's ids.

        Raises:
            BackboneError: the prompt has no image placeholder.
        """
        count = sum(concept.count for concept in rows)
        return text.insert_after_last(ids, self.image_id, [self.sentinel_id] * count)

    def prompt_ids(self, prompt: text.Prompt, picture: str) -> list[int]:
        """The processor's ids for a prompt, where `picture` is the text that it writes for the image."""
        rendered = self.completed(self.render(prompt)).replace(self.processor.image_token, picture)
        return self._tokenize_once(text.prompt_ids, rendered)

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Token ids of an answer to a prompt, without end of sequence."""
        if self._tokenizes_answers_alone:
            return self._tokenize_once(text.standalone_ids, answer)
        return self._tokenize_once(text.answer_ids, self.completed(self.render(prompt)), answer)

    def _tokenize_once(self, tokenize: Callable[..., list[int]], *texts: str) -> list[int]:
        """Tokenize texts and cache the ids: learning asks for the same texts in every step, and a thousand
        placeholders take time."""
        self._refresh()
        key = (tokenize.__name__, *texts)
        if (ids := self._cached_ids.get(key)) is None:
            ids = tokenize(self.tokenizer, *texts)
            _keep(self._cached_ids, key, ids)
        return list(ids)

    def teacher_forced(
        self,
        pictures: Sequence[str],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> TeacherForced:
        """Prompts, concepts and answers as one batch; `pictures` are the texts that represent the images."""
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
        """Length of the longest tail that a prompt and its answer in `texts` take with this many rows.

        It counts all positions after the picture, end of sequence included; `picture` is the picture's text.
        """
        prompt_ids = {prompt: self.prompt_ids(prompt, picture) for prompt, _ in texts}
        prefix_lengths = {
            prompt: text.place_after_last(ids, self.image_id) for prompt, ids in prompt_ids.items()
        }
        lengths = (
            len(prompt_ids[prompt]) - prefix_lengths[prompt] + len(self.answer_ids(prompt, answer))
            for prompt, answer in texts
        )
        return rows + 1 + max(lengths)

    def reply(self, new_ids: Tensor) -> tuple[str, Tensor]:
        """Text and ids of a generated reply, without the end of sequence and anything after it."""
        return text.reply(self.tokenizer, new_ids, self.eos_ids)


def _keep(cache: dict[Any, Any], key: object, made: object) -> None:
    """Add to a cache that other threads read too, and clear it first if it is full."""
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = made
