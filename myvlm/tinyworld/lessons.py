"""The texts that one training picture is shown with: captions, questions, boxes, with and without hints.

A hint names a thing in words, before the instruction. From hints the language model learns what every large
one knows: that a word from its context can stand where a noun phrase stands, for one thing and no other.
No model of the world is ever trained to read a vector there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from myvlm.tinyworld import scenes as world
from myvlm.tinyworld.language import (
    CAPTION_PROMPTS,
    IDENTIFIERS,
    Exchange,
    caption,
    hint,
    questions,
    reworded,
    telling_hint,
)
from myvlm.tinyworld.models import SPECIAL
from myvlm.tinyworld.scenes import Appearance, Scene

PREFIX = ("<s>", "user", ":", *("<image>",) * 64)
"""What every sample begins with, as the chat template has it."""


def lessons(scene: Scene, random: Random, *, boxes: bool = True) -> list[Exchange]:
    """About seven exchanges about one picture; `boxes=False` where the picture was turned."""
    asked = [reworded(e, random) for e in questions(scene, random)]
    plain = [e for e in asked if "[refer]" not in e.prompt][:2]
    drawn = [e for e in asked if "[refer]" in e.prompt][: 1 if boxes else 0]
    told = [_caption_lesson(scene, random, at_least=n) for n in (0, 1, 2)]
    named = [_named_question(scene, random, boxes=boxes) for _ in range(2)]
    # What comes last is left out where a row is full: now this, now that.
    return random.sample([*told, *plain, *drawn, *named], len(told + plain + drawn + named))


def _caption_lesson(scene: Scene, random: Random, *, at_least: int) -> Exchange:
    """A caption after so many hints or more; after none of them where `at_least` is 0."""
    prompt = random.choice(CAPTION_PROMPTS)
    if at_least:
        lines, names, _ = _hints(scene, random, at_least=at_least)
        return Exchange(prompt, caption(scene, random, names), lines)
    # A few captions name a thing out of the blue: identifiers can stand where a noun phrase stands.
    stray = {random.choice(scene.things).look: random.choice(IDENTIFIERS)} if random.random() < 0.04 else {}
    return Exchange(prompt, caption(scene, random, stray))


def _named_question(scene: Scene, random: Random, *, boxes: bool) -> Exchange:
    lines, names, absent = _hints(scene, random)
    if absent and random.random() < 0.3:
        name = random.choice(absent)
        form = random.choice(("is {} in the picture ?", "is there {} in the picture ?", "do you see {} ?"))
        return Exchange(form.format(name), "no", lines)
    asked = [e for e in questions(scene, random, names) if boxes or "[refer]" not in e.prompt]
    about_named = [e for e in asked if any(name in e.prompt.split() for name in names.values())]
    pool = about_named if about_named and random.random() < 0.8 else asked
    chosen = reworded(pool[0], random)
    return Exchange(chosen.prompt, chosen.answer, lines)


def _hints(
    scene: Scene, random: Random, *, at_least: int = 1
) -> tuple[str, dict[Appearance, str], list[str]]:
    """One to four hints, most about things that are there: lines, names in use, names of absentees.

    As many names in one picture as it has room for: a model that met two at most says one of three.
    """
    count = max(random.choices((1, 2, 3, 4), (0.35, 0.25, 0.2, 0.2))[0], at_least)
    words = random.sample(IDENTIFIERS, count)
    here = list(dict.fromkeys(t.look for t in scene.things))
    random.shuffle(here)
    lines, names, absent = [], {}, []
    for word in words:
        if here and random.random() < 0.85:
            look = here.pop()
            if sum(_told_apart(t.look) == _told_apart(look) for t in scene.things) > 1:
                continue
            alone = sum(t.category == look.category for t in scene.things) == 1
        else:
            look = _absentee(scene, random)
            here_too = any(t.category == look.category for t in scene.things)
            alone = not here_too
        line = hint(look, word, scene, random)
        if alone and random.random() < 0.35:
            word, line = telling_hint(look, random)
        if any(t.look == look for t in scene.things):
            names[look] = word
        else:
            absent.append(word)
        lines.append(line[:-2] if random.random() < 0.35 else line)
    return "\n".join(lines), names, absent


def _absentee(scene: Scene, random: Random) -> Appearance:
    """An appearance that no words of a hint could mistake for a thing of the scene."""
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
class PackedTexts:
    """All texts of B pictures, each picture's in one row behind one image.

    Shapes: `ids`, `targets` (−100 where not trained), `segment` (−1 padding), `position`: B × L, L counting
    the texts only.
    """

    ids: Tensor
    targets: Tensor
    segment: Tensor
    position: Tensor

    def mask(self, prefix: int) -> Tensor:
        """B × 1 × (prefix+L) × (prefix+L) bfloat16: 0 where a query may look (the image, and its own text's
        past), else −10⁴ to be added to the scores."""
        size, length = self.ids.shape
        segment = torch.cat([torch.full((size, prefix), -2), self.segment], dim=1)
        same = segment[:, :, None] == segment[:, None, :]
        same[:, :, :prefix] = True
        causal = torch.ones(prefix + length, prefix + length, dtype=torch.bool).tril()
        return (~(same & causal))[:, None].to(torch.bfloat16) * -1e4

    def interleaved(self, other: PackedTexts) -> PackedTexts:
        """A row of this, a row of the other, and so on; both have as many."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return PackedTexts(*(torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs))


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
    among: Callable[[Exchange], list[int]] = lambda exchange: [],
) -> PackedTexts:
    """Turn the lessons of B pictures into ids; the answers and the end of sequence are the targets.

    `ask` says what stands before an answer, `prefix` how many positions the picture takes. `among` gives the
    first words of a text positions among the picture's, one each; the rest follow behind the picture.
    """
    rows = []
    for lesson in texts:
        ids: list[int] = []
        targets: list[int] = []
        segment: list[int] = []
        position: list[int] = []
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
            early = among(exchange)
            position += [*early, *range(prefix, prefix + length - len(early))]
        rows.append((ids, targets, segment, position))
    columns = [
        torch.tensor([values + [fill] * (TEXT_TOKENS - len(values)) for values in column])
        for column, fill in zip(zip(*rows, strict=True), (0, -100, -1, 0), strict=True)
    ]
    return PackedTexts(*columns)
