"""The contents of tinyworld: objects, appearances, places, and scenes with their ground truth.

Pure data and sampling; of myvlm it imports `boxes` only. Drawing is in `draw`, texts are in `language`.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Literal

from myvlm.boxes import Box

SIZE = 96
"""Side of a picture in pixels."""

CATEGORIES = (
    "mug", "teapot", "vase", "lamp", "chair", "car",
    "dog", "cat", "bird", "robot", "man", "woman",
)  # fmt: skip
PEOPLE = frozenset({"man", "woman"})
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "checked")
ACCENT_COLOURS = ("gold", "crimson", "teal", "indigo")
ACCENT_SHAPES = ("star", "heart", "ring", "cross")
PLACES = (
    "beach", "forest", "kitchen", "street", "desert",
    "bedroom", "garden", "office", "lake", "mountain",
)  # fmt: skip
WEATHERS = ("sun", "rain", "fog", "night", "snow")
SIZES = ("small", "large")

Row = Literal["front", "back"]


@dataclass(frozen=True)
class Accent:
    """A badge on an object: `Accent("gold", "star")`."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Appearance:
    """How an object looks. A tinyworld concept is one fixed appearance, accent included."""

    category: str
    colour: str
    pattern: str
    accent: Accent | None = None

    @property
    def held_out(self) -> bool:
        """Whether no training scene of `pretrain` shows this appearance (one in four with an accent)."""
        if self.accent is None:
            return False
        key = f"{self.category} {self.colour} {self.pattern} {self.accent.colour} {self.accent.shape}"
        return zlib.crc32(key.encode()) % 4 == 0


@dataclass(frozen=True)
class Thing:
    """One object in a scene: its appearance, its size, its box in pixels (left, top, right, bottom), its row,
    and the angle in degrees that it is drawn at."""

    look: Appearance
    size: str
    box: Box
    row: Row
    turn: float

    @property
    def category(self) -> str:
        return self.look.category


@dataclass(frozen=True)
class Scene:
    """The ground truth of a picture. `light` is a brightness factor, `seed` fixes all later random draws."""

    place: str
    weather: str
    things: tuple[Thing, ...]
    light: float
    seed: int

    def in_row(self, row: Row) -> list[Thing]:
        """Return the objects of one row, from left to right (at most two)."""
        return sorted((t for t in self.things if t.row == row), key=lambda t: t.box[0])

    def neighbour(self, thing: Thing) -> Thing | None:
        """Return the other object of the same row, if there is one."""
        return next((t for t in self.in_row(thing.row) if t is not thing), None)

    def find(self, look: Appearance) -> Thing | None:
        return next((t for t in self.things if t.look == look), None)


def random_appearance(random: Random, *, accent_share: float = 0.35, held_out: bool = False) -> Appearance:
    """Return a random appearance; `held_out` says from which side of the training split."""
    while True:
        accent = None
        if held_out or random.random() < accent_share:
            accent = Accent(random.choice(ACCENT_COLOURS), random.choice(ACCENT_SHAPES))
        look = Appearance(random.choice(CATEGORIES), random.choice(COLOURS), random.choice(PATTERNS), accent)
        if look.held_out == held_out:
            return look


def look_alike(look: Appearance, random: Random) -> Appearance:
    """Return an appearance of the same category that differs in exactly one attribute.

    >>> mug = Appearance("mug", "red", "plain", Accent("gold", "star"))
    >>> other = look_alike(mug, Random(0))
    >>> other.category, sum(a != b for a, b in zip(vars(mug).values(), vars(other).values()))
    ('mug', 1)
    """
    attribute = random.choice(("colour", "pattern", "accent"))
    colour, pattern, accent = look.colour, look.pattern, look.accent
    if attribute == "colour":
        colour = random.choice([c for c in COLOURS if c != colour])
    elif attribute == "pattern":
        pattern = random.choice([p for p in PATTERNS if p != pattern])
    else:
        accents = [Accent(c, s) for c in ACCENT_COLOURS for s in ACCENT_SHAPES]
        accent = random.choice([None, *(a for a in accents if a != look.accent)])
    return Appearance(look.category, colour, pattern, accent)


def random_scene(
    random: Random,
    *,
    looks: Collection[Appearance] = (),
    count: int | None = None,
    place: str | None = None,
    weather: str | None = None,
    avoid: Collection[str] = (),
    size: str | None = None,
    twins: float = 0.0,
) -> Scene:
    """Return a random scene with `looks` and, up to `count` objects, mostly random ones of other categories.

    Args:
        looks: appearances that must be in it. They come first in the scene's `things`, at random positions.
        count: number of objects, 1 to 4; random when None.
        place, weather: fixed when given.
        avoid: categories that the random objects must not have.
        size: `small` or `large` for the first of `looks`; random when None.
        twins: share of the scenes in which a random object is nearly the same as another object.
    """
    count = max(count or random.choices((1, 2, 3, 4), (0.2, 0.4, 0.25, 0.15))[0], len(looks))
    chosen = list(looks)
    taken = {look.category for look in chosen} | set(avoid)
    while len(chosen) < count:
        look = random_appearance(random)
        if look.accent and look.accent in [one.accent for one in looks]:
            continue  # no other object has a concept's accent
        # Now and then two of one category, so that texts must say which one they refer to.
        if look.category not in taken or (look.category not in avoid and random.random() < 0.08):
            chosen.append(look)
            taken.add(look.category)
    if twins and 1 < count > len(looks) and random.random() < twins:
        chosen[-1] = _near_duplicate(random.choice(chosen[:-1]), random)
    slots = _slots(count, random)
    things = []
    for index, (look, (row, column, width)) in enumerate(zip(chosen, slots, strict=True)):
        which = size if size and index == 0 and looks else random.choice(SIZES)
        things.append(_place_thing(look, which, row, column, width, count, random))
    return Scene(
        place or random.choice(PLACES),
        weather or random.choice(WEATHERS),
        tuple(things),
        random.uniform(0.85, 1.15),
        random.randrange(2**31),
    )


def _near_duplicate(look: Appearance, random: Random) -> Appearance:
    """Another appearance of the category, mostly different in one attribute only, and not held out."""
    while True:
        close = random.random() < 0.7
        other = look_alike(look, random) if close else random_appearance(random)
        if other.category == look.category and other != look and not other.held_out:
            return other


def _slots(count: int, random: Random) -> list[tuple[Row, int, int]]:
    """Row, column and number of columns in that row for each object, shuffled."""
    front = random.choice({1: (0, 1), 2: (2, 0, 1, 2), 3: (2, 1), 4: (2,)}[count])
    rows: tuple[tuple[Row, int], ...] = (("front", front), ("back", count - front))
    slots = [(row, column, width) for row, width in rows for column in range(width)]
    random.shuffle(slots)
    return slots


def _place_thing(
    look: Appearance, size: str, row: Row, column: int, width: int, count: int, random: Random
) -> Thing:
    alone = 1.25 if count == 1 else 1.0
    side = alone * (random.uniform(31, 35) if size == "small" else random.uniform(40, 45))
    centre = {1: (SIZE / 2,), 2: (SIZE * 0.27, SIZE * 0.73)}[width][column]
    centre += random.uniform(-14, 14) if width == 1 else random.uniform(-3.5, 3.5)
    bottom = (SIZE * 0.95 if row == "front" else SIZE * 0.49) + random.uniform(-2.5, 2.5)
    left, top = centre - side / 2, bottom - side
    left = min(max(left, 1.0), SIZE - side - 1.0)
    top = max(top, 1.0)
    return Thing(look, size, (left, top, left + side, top + side), row, random.uniform(-10, 10))
