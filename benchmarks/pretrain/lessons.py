"""The texts that one training picture is shown with: captions, questions, boxes, with and without hints.

A hint names a thing in words: before the instruction, or, all its words in one place, beside the features of
the picture. From hints a model learns what every large one knows: that a word from its context can stand
where a noun phrase stands, for one thing and no other. No vector that was learned ever stands there.
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
"""What every sample begins with, as the chat template has it."""


def lessons(scene: Scene, random: Random, *, boxes: bool = True) -> list[Exchange]:
    """About seven exchanges about one picture; `boxes=False` where the picture was turned."""
    asked = [reworded(e, random) for e in questions(scene, random)]
    plain = [e for e in asked if "[refer]" not in e.prompt][:2]
    drawn = [e for e in asked if "[refer]" in e.prompt][: 1 if boxes else 0]
    told = [_plain_caption(scene, random), *(_hints(scene, random, at_least=n).caption() for n in (1, 2))]
    named = [_hints(scene, random).question(boxes=boxes) for _ in range(2)]
    # What comes last is left out where a row is full: now this, now that.
    return random.sample([*told, *plain, *drawn, *named], len(told + plain + drawn + named))


def _plain_caption(scene: Scene, random: Random) -> Exchange:
    # A few captions name a thing out of the blue: identifiers can stand where a noun phrase stands.
    stray = {random.choice(scene.things).look: random.choice(IDENTIFIERS)} if random.random() < 0.04 else {}
    text = caption(scene, random, stray)
    return Exchange(random.choice(CAPTION_PROMPTS), text, begins=begins(text, scene))


@dataclass(frozen=True)
class Hint:
    """A line that gives a name to the `thing`-th thing of a scene, from 1, or, 0, to what is not there."""

    line: str
    name: str
    thing: int

    @property
    def words(self) -> list[str]:
        """Those that say something.

        >>> Hint("the mug is called sks .", "sks", 1).words
        ['mug', 'sks']
        """
        return [word for word in self.line.split() if word not in _SAY_NOTHING]


@dataclass(frozen=True)
class Lesson:
    """The texts of one picture, and the hints that stand beside its features."""

    scene: Scene
    texts: list[Exchange]
    hints: list[Hint]


def teach(scene: Scene, random: Random, boxes: bool, *, beside: float) -> Lesson:
    """Some pictures, this part of them, have their hints beside their features, for all their texts; the
    rest in the words of each text."""
    if random.random() < beside:
        return told_lesson(scene, random, boxes=boxes)
    return Lesson(scene, lessons(scene, random, boxes=boxes), [])


def told_lesson(scene: Scene, random: Random, *, boxes: bool = True) -> Lesson:
    """One to four hints, and what is said of the picture by who was told them beforehand: two captions, where
    everything named is, and questions until a row is full.

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
"""Words and signs of a hint that hold it together."""


NOISE = 0.3
"""Of a hint's direction of unit mean square: a row that is learned is not quite its words'."""


def scattered(direction: Tensor, random: Random, generator: torch.Generator) -> Tensor:
    """One to four rows of a direction (D), all but for noise; its own size does not matter."""
    noise = torch.randn(random.randint(1, 4), len(direction), generator=generator).to(direction)
    spread: Tensor = direction * (len(direction) ** 0.5 / direction.norm()) + NOISE * noise
    return spread


def rows_of(
    hints: Sequence[Sequence[Hint]], directions: Tensor, random: Random, device: torch.device
) -> list[list[ConceptRows]]:
    """Each picture's hints as rows on the device, of their `directions` (N × D, one a hint, in turn) but for
    noise."""
    generator = torch.Generator().manual_seed(random.randrange(2**62))
    rows = [scattered(direction, random, generator) for direction in directions.cpu()]
    # Moved in one piece: a hundred small ones take a GPU longer than what it does with them.
    there = iter(torch.split(torch.cat(rows).to(device), [len(one) for one in rows]) if rows else ())
    return [[ConceptRows(next(there)) for _ in own] for own in hints]


@dataclass(frozen=True)
class _Told:
    """What is told of a scene in hints."""

    scene: Scene
    random: Random
    hints: list[Hint]

    @property
    def hint(self) -> str:
        return " ".join(hint.line for hint in self.hints)

    @property
    def here(self) -> dict[str, Thing]:
        """What is there of all that was named."""
        return {hint.name: self.scene.things[hint.thing - 1] for hint in self.hints if hint.thing}

    @property
    def names(self) -> dict[Appearance, str]:
        return {thing.look: name for name, thing in self.here.items()}

    def caption(self) -> Exchange:
        """A caption in the names that were told."""
        text = caption(self.scene, self.random, self.names)
        return Exchange(self.random.choice(CAPTION_PROMPTS), text, self.hint, begins(text, self.scene))

    def places(self) -> list[Exchange]:
        """Where everything is that was named."""
        return [Exchange(f"[refer] {name}", box_words(t.box), self.hint) for name, t in self.here.items()]

    def question(self, *, boxes: bool) -> Exchange:
        """A question, mostly about something that was named."""
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
    """One to four hints, most about things that are there.

    As many names in one picture as it has room for: a model that met two at most says one of three.
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
    """An appearance that no thing of the scene could be mistaken for, not even from afar."""
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
    """Several that go together."""

    def to(self, device: torch.device) -> Self:
        """The same there."""
        return type(self)(*(getattr(self, part.name).to(device) for part in fields(self)))


@dataclass(frozen=True)
class PackedTexts(Tensors):
    """All texts of B pictures, each picture's in one row behind one image.

    Shapes: `ids`, `targets` (−100 where not trained), `segment` (−1 padding), `position`, `begins` (the
    thing, from 1, of which the next word begins to speak, else 0): B × L, L counting the texts only.
    """

    ids: Tensor
    targets: Tensor
    segment: Tensor
    position: Tensor
    begins: Tensor

    def mask(self, prefix: int) -> Tensor:
        """B × 1 × (prefix+L) × (prefix+L) bfloat16: 0 where a query may look (the image, and its own text's
        past), else −10⁴ to be added to the scores."""
        segment = torch.nn.functional.pad(self.segment, (prefix, 0), value=-2)
        same = segment[:, :, None] == segment[:, None, :]
        same[:, :, :prefix] = True
        causal = torch.ones_like(same[0]).tril()
        return (~(same & causal))[:, None].to(torch.bfloat16) * -1e4


TEXT_TOKENS = 184
"""Length of every packed row, fixed so that a compiled model is compiled once; what is over is left out."""


def chat_words(exchange: Exchange) -> str:
    """What stands before the answer, as LLaVA's chat template has it."""
    return f"{exchange.hint} {exchange.prompt} assistant :"


def pack(
    texts: Sequence[Sequence[Exchange]],
    words: dict[str, int],
    *,
    ask: Callable[[Exchange], str] = chat_words,
    prefix: int = len(PREFIX),
) -> PackedTexts:
    """Turn the lessons of B pictures into ids; the answers and the end of sequence are the targets.

    `ask` says what stands before an answer, `prefix` how many positions the picture takes.
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
