"""The training texts of a picture: captions, questions and boxes, with and without hints.

A hint names an object in words, either in the text before the instruction, or with its words summed into one
vector next to the picture's features. From hints the models learn what every large model knows: a word from
the context can replace the noun phrase of one particular object. No learned vector is ever used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Self

import torch
from torch import Tensor

from benchmarks.pretrain.models import SPECIAL
from myvlm.backbones.base import ConceptRows
from myvlm.tinyworld.language import (
    CAPTION_PROMPTS,
    IDENTIFIERS,
    Exchange,
    begins,
    box_words,
    caption,
    hint,
    questions,
    reworded,
    suggestive_hint,
)
from myvlm.tinyworld.world import scenes as world
from myvlm.tinyworld.world.scenes import Appearance, Scene, Thing

PREFIX = ("<s>", "user", ":", *("<image>",) * 64)
"""The tokens before every sample, as in the chat template."""


def lessons(scene: Scene, random: Random, *, boxes: bool = True) -> list[Exchange]:
    """About seven exchanges about one picture; pass `boxes=False` if the picture was rotated."""
    asked = [reworded(e, random) for e in questions(scene, random)]
    plain = [e for e in asked if "[refer]" not in e.prompt][:2]
    drawn = [e for e in asked if "[refer]" in e.prompt][: 1 if boxes else 0]
    told = [_plain_caption(scene, random), *(_hints(scene, random, at_least=n).caption() for n in (1, 2))]
    named = [_hints(scene, random).question(boxes=boxes) for _ in range(2)]
    # Shuffled, because a full row drops its last exchanges.
    return random.sample([*told, *plain, *drawn, *named], len(told + plain + drawn + named))


def _plain_caption(scene: Scene, random: Random) -> Exchange:
    # A few captions use a name without a hint, to show that identifiers can replace noun phrases.
    stray = {random.choice(scene.things).look: random.choice(IDENTIFIERS)} if random.random() < 0.04 else {}
    text = caption(scene, random, stray)
    return Exchange(random.choice(CAPTION_PROMPTS), text, begins=begins(text, scene))


@dataclass(frozen=True)
class Hint:
    """A line that names object number `thing` of a scene (from 1), or an absent object (0)."""

    line: str
    name: str
    thing: int

    @property
    def words(self) -> list[str]:
        """Its words without function words.

        >>> Hint("the mug is called sks .", "sks", 1).words
        ['mug', 'sks']
        """
        return [word for word in self.line.split() if word not in _SAY_NOTHING]


@dataclass(frozen=True)
class Lesson:
    """The texts of one picture, and the hints given as rows next to its features."""

    scene: Scene
    texts: list[Exchange]
    hints: list[Hint]


def teach(scene: Scene, random: Random, boxes: bool, *, beside: float) -> Lesson:
    """Draw a lesson. In the fraction `beside` of pictures the hints are rows next to the features, shared by
    all texts; otherwise they are words in each text."""
    if random.random() < beside:
        return told_lesson(scene, random, boxes=boxes)
    return Lesson(scene, lessons(scene, random, boxes=boxes), [])


def told_lesson(scene: Scene, random: Random, *, boxes: bool = True) -> Lesson:
    """A picture with one to four hints, and texts that use them: two captions, the boxes of all named
    objects, and questions until the row is full.

    >>> from myvlm.tinyworld.world.scenes import random_scene
    >>> lesson = told_lesson(random_scene(Random(5)), Random(5))
    >>> [(hint.words, hint.thing) for hint in lesson.hints]
    [(['blue', 'lamp', 'qlk'], 0), (['dog', 'otto'], 3), (['miss'], 1)]
    >>> lesson.texts[2].prompt, lesson.texts[2].answer
    ('[refer] otto', '{ <26> <18> <58> <52> }')
    """
    told = _hints(scene, random, at_least=random.choice((1, 2, 3, 4)))
    said = [told.caption(), told.caption(), *(told.places() if boxes else ())]
    said += [told.question(boxes=False) for _ in range(12 - len(said))]
    return Lesson(scene, [replace(exchange, hint="") for exchange in said], told.hints)


_SAY_NOTHING = frozenset("is the a an with called this my : .".split())
"""Function words and punctuation of hints."""


NOISE = 0.3
"""Noise relative to a hint's direction of unit mean square: a learned row differs from its words' sum."""


def scattered(direction: Tensor, random: Random, generator: torch.Generator) -> Tensor:
    """One to four noisy rows along a direction (D), whatever its norm."""
    noise = torch.randn(random.randint(1, 4), len(direction), generator=generator).to(direction)
    spread: Tensor = direction * (len(direction) ** 0.5 / direction.norm()) + NOISE * noise
    return spread


def rows_of(
    hints: Sequence[Sequence[Hint]], directions: Tensor, random: Random, device: torch.device
) -> list[list[ConceptRows]]:
    """Each picture's hints as noisy rows on the device, along `directions` (N × D, one per hint in order)."""
    generator = torch.Generator().manual_seed(random.randrange(2**62))
    rows = [scattered(direction, random, generator) for direction in directions.cpu()]
    # Moved to the device in one piece: a hundred small copies take longer than the work with them.
    there = iter(torch.split(torch.cat(rows).to(device), [len(one) for one in rows]) if rows else ())
    return [[ConceptRows(next(there)) for _ in own] for own in hints]


@dataclass(frozen=True)
class _Told:
    """A scene with the hints given about it."""

    scene: Scene
    random: Random
    hints: list[Hint]

    @property
    def hint(self) -> str:
        return " ".join(hint.line for hint in self.hints)

    @property
    def here(self) -> dict[str, Thing]:
        """The named objects that are in the scene, by name."""
        return {hint.name: self.scene.things[hint.thing - 1] for hint in self.hints if hint.thing}

    @property
    def names(self) -> dict[Appearance, str]:
        return {thing.look: name for name, thing in self.here.items()}

    def caption(self) -> Exchange:
        """A caption that uses the names."""
        text = caption(self.scene, self.random, self.names)
        return Exchange(self.random.choice(CAPTION_PROMPTS), text, self.hint, begins(text, self.scene))

    def places(self) -> list[Exchange]:
        """The boxes of all named objects."""
        return [Exchange(f"[refer] {name}", box_words(t.box), self.hint) for name, t in self.here.items()]

    def question(self, *, boxes: bool) -> Exchange:
        """A question, mostly about a named object."""
        random, absent = self.random, [hint.name for hint in self.hints if not hint.thing]
        if absent and random.random() < 0.3:
            form = random.choice(
                ("is {} in the picture ?", "is there {} in the picture ?", "do you see {} ?")
            )
            return Exchange(form.format(random.choice(absent)), "no", self.hint)
        asked = [e for e in questions(self.scene, random, self.names) if boxes or "[refer]" not in e.prompt]
        about_named = [e for e in asked if not set(self.names.values()).isdisjoint(e.prompt.split())]
        pool = about_named if about_named and random.random() < 0.8 else asked
        return replace(reworded(pool[0], random), hint=self.hint)


def _hints(scene: Scene, random: Random, *, at_least: int = 1) -> _Told:
    """Draw one to four hints, most about objects in the scene.

    A scene gets as many names as it has room for: a model trained with at most two says only one of three.
    """
    count = max(random.choices((1, 2, 3, 4), (0.35, 0.25, 0.2, 0.2))[0], at_least)
    words = random.sample(IDENTIFIERS, count)
    here = list(dict.fromkeys(t.look for t in scene.things))
    random.shuffle(here)
    told = _Told(scene, random, [])
    for word in words:
        if here and random.random() < 0.85:
            look = here.pop()
            if sum(t.look == look for t in scene.things) > 1:
                continue
            alone = sum(t.category == look.category for t in scene.things) == 1
        else:
            look = _absentee(scene, random)
            alone = all(t.category != look.category for t in scene.things)
        line = hint(look, word, scene, random)
        if alone and random.random() < 0.35:
            word, line = suggestive_hint(look, random)
        line = line[:-2] if random.random() < 0.35 else line
        number = next((n for n, t in enumerate(scene.things, start=1) if t.look == look), 0)
        told.hints.append(Hint(line, word, number))
    return told


def _absentee(scene: Scene, random: Random) -> Appearance:
    """An appearance that cannot be mistaken for an object of the scene, even if it is small."""
    taken = {_told_apart(t.look) for t in scene.things}
    while True:
        near = random.random() < 0.6
        look = (
            world.look_alike(random.choice(scene.things).look, random)
            if near
            else world.random_appearance(random)
        )
        if _told_apart(look) not in taken:
            return look


def _told_apart(look: Appearance) -> tuple[str, str, str]:
    return look.category, look.colour, look.pattern


@dataclass(frozen=True)
class Tensors:
    """A dataclass of tensors that are moved together."""

    def to(self, device: torch.device) -> Self:
        """A copy on the device."""
        return type(self)(*(getattr(self, part.name).to(device) for part in fields(self)))


@dataclass(frozen=True)
class PackedTexts(Tensors):
    """The texts of B pictures; all texts of a picture share one row after its image.

    Shapes: `ids`, `targets` (−100: not trained), `segment` (the number of the text; −1: padding), `position`,
    and `begins` (the number, from 1, of the object that the next word starts to describe, else 0) are B × L,
    where L excludes the image.
    """

    ids: Tensor
    targets: Tensor
    segment: Tensor
    position: Tensor
    begins: Tensor

    def mask(self, prefix: int) -> Tensor:
        """B × 1 × (prefix+L) × (prefix+L) bfloat16, added to attention scores: 0 where a query may attend
        (the image and the past of its own text), else −10⁴."""
        segment = torch.nn.functional.pad(self.segment, (prefix, 0), value=-2)
        same = segment[:, :, None] == segment[:, None, :]
        same[:, :, :prefix] = True
        causal = torch.ones_like(same[0]).tril()
        return (~(same & causal))[:, None].to(torch.bfloat16) * -1e4


TEXT_TOKENS = 184
"""Length of every packed row, fixed so that a compiled model compiles once; texts beyond it are dropped."""


def chat_words(exchange: Exchange) -> str:
    """The text before the answer, as in LLaVA's chat template."""
    return f"{exchange.hint} {exchange.prompt} assistant :"


def pack(
    texts: Sequence[Sequence[Exchange]],
    words: dict[str, int],
    *,
    ask: Callable[[Exchange], str] = chat_words,
    prefix: int = len(PREFIX),
) -> PackedTexts:
    """Tokenize the lessons of B pictures; the answers and the end-of-sequence token are the targets.

    Args:
        ask: returns the text before an answer.
        prefix: number of positions taken by the picture.
    """
    rows = []
    for lesson in texts:
        ids: list[int] = []
        targets: list[int] = []
        segment: list[int] = []
        position: list[int] = []
        things: list[int] = []
        for number, exchange in enumerate(lesson):
            asked = [words[w] for w in ask(exchange).split()]
            answer = [*(words[w] for w in exchange.answer.split()), SPECIAL.index("</s>")]
            length = len(asked) + len(answer)
            if len(ids) + length > TEXT_TOKENS:
                continue
            ids += asked + answer
            # The target of a position is the next token.
            targets += [-100] * (len(asked) - 1) + answer + [-100]
            segment += [number] * length
            position += range(prefix, prefix + length)
            due = {len(asked) - 1 + word: thing for word, thing in exchange.begins}
            things += [due.get(number, 0) for number in range(length)]
        rows.append((ids, targets, segment, position, things))
    columns = [
        torch.tensor([values + [fill] * (TEXT_TOKENS - len(values)) for values in column])
        for column, fill in zip(zip(*rows, strict=True), (0, -100, -1, 0, 0), strict=True)
    ]
    return PackedTexts(*columns)
