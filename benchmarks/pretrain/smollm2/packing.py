"""Pack several texts of one picture into one row, with the same result as one row per text.

Each text attends to the picture and to itself only, so the picture, most of the work, is processed once. A
text may also be packed without access to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from myvlm.tinyworld.smollm2.parts import IMAGE_TOKEN

FAR = -1e9
BLIND = 1000
"""Texts with this owner number or a higher one do not attend to the picture."""


@dataclass(frozen=True)
class Text:
    """An instruction and its answer.

    Attributes:
        facts: the picture's content in words, for the frozen language model as teacher.
        teacher: weight (0 to 1) of the frozen language model's distribution; the rest is cross-entropy with
            the written answer.
        sees: whether the text attends to the picture.
    """

    prompt: str
    answer: str
    facts: str = ""
    teacher: float = 0.0
    sees: bool = True

    def in_words(self) -> Text:
        """The text for the frozen language model: facts in place of the picture."""
        return Text(f"{self.facts}\n{self.prompt}".strip(), self.answer, teacher=self.teacher, sees=False)


@dataclass(frozen=True)
class Packed:
    """`ids`, `positions`, `labels` (−100: not learned), `owner` and `teacher`: B × T.

    `owner` is 0 for the picture's tokens and the tokens before them, the text's number for a text (from
    `BLIND` on if it does not attend to the picture), and −1 for padding.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    owner: Tensor
    teacher: Tensor

    def to(self, device: str) -> Packed:
        return Packed(*(getattr(self, one.name).to(device) for one in fields(self)))

    def mask(self) -> Tensor:
        """B × 1 × T × T, to be added to attention scores."""
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        own = self.owner[:, :, None] == self.owner[:, None, :]
        picture = (self.owner[:, None, :] == 0) & (self.owner[:, :, None] < BLIND)
        seen = earlier & (own | picture)
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, FAR)[:, None]


def pack(tokenizer: Any, template: str, texts: Sequence[Sequence[Text]], image_tokens: int) -> Packed:
    """Pack the texts of each picture after it; `image_tokens` is 0 if no text attends to a picture."""
    rows = [_pack_one(tokenizer, template, own, image_tokens) for own in texts]
    longest = max(len(row[0]) for row in rows)
    fills = (tokenizer.pad_token_id, 0, -100, -1, 0.0)
    columns = [
        torch.tensor([row[i] + [fill] * (longest - len(row[i])) for row in rows])
        for i, fill in enumerate(fills)
    ]
    return Packed(*columns)


def _pack_one(
    tokenizer: Any, template: str, texts: Sequence[Text], image_tokens: int
) -> tuple[list[int], list[int], list[int], list[int], list[float]]:
    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    def ask(prompt: str, *, sees: bool) -> str:
        content = [{"type": "image"}] * sees + [{"type": "text", "text": prompt}]
        asked: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False,
            add_generation_prompt=True,
        )  # fmt: skip
        return asked

    ids: list[int] = []
    if image_tokens:
        before = encode(ask("", sees=True).split(IMAGE_TOKEN)[0])
        ids = before + [tokenizer.image_token_id] * image_tokens
    labels, owner, positions, teacher = (
        [-100] * len(ids),
        [0] * len(ids),
        list(range(len(ids))),
        [0.0] * len(ids),
    )
    behind = len(ids)
    for number, text in enumerate(texts, start=1):
        prompt = ask(text.prompt, sees=text.sees)
        asked = encode(prompt.split(IMAGE_TOKEN)[1] if text.sees else prompt)
        answer = [*encode(text.answer), tokenizer.eos_token_id]
        start, count = behind if text.sees else 0, len(asked) + len(answer)
        ids += asked + answer
        labels += [-100] * len(asked) + answer
        owner += [number if text.sees else BLIND + number] * count
        positions += range(start, start + count)
        teacher += [text.teacher] * count
    return ids, positions, labels, owner, teacher
