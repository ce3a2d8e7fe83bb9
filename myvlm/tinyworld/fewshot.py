"""A few-shot set of tinyworld: photos of one concept with captions, and unseen pictures to test it on.

The training photos are confounded on purpose: in all of them the same companion stands beside the concept, in
the same weather. A method that memorizes its captions is then caught naming what is not in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from myvlm.tinyworld.language import NAMES, RARE_WORDS, about, caption
from myvlm.tinyworld.truth import scene_words
from myvlm.tinyworld.world import scenes as world
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import (
    PEOPLE,
    Appearance,
    Scene,
    look_alike,
    random_appearance,
    random_scene,
)

CAPTIONS_PER_PHOTO = 5


@dataclass(frozen=True)
class FewShot:
    """One concept of one user.

    Attributes:
        identifier: its word; a first name for a person.
        look: its appearance, which no training scene of tinyworld's models shows.
        train: scenes of the training photos.
        present: unseen scenes with the concept.
        look_alike: unseen scenes without it, but with an object that differs from it in one attribute.
        other: unseen scenes with no object of its category.
        crowd: unseen scenes with the concept and an object that differs from it in colour or pattern.
    """

    identifier: str
    look: Appearance
    train: tuple[Scene, ...]
    present: tuple[Scene, ...]
    look_alike: tuple[Scene, ...]
    other: tuple[Scene, ...]
    crowd: tuple[Scene, ...]

    @property
    def category(self) -> str:
        return self.look.category

    def photos(self, count: int | None = None) -> list[Image.Image]:
        return pictures(self.train[:count])

    def captions(self, count: int | None = None) -> list[list[str]]:
        """For each training photo several captions with the identifier, as its owner would write them."""
        random = Random(f"captions {self.identifier} {self.train[0].seed}")
        names = {self.look: self.identifier}
        return [[caption(s, random, names) for _ in range(CAPTIONS_PER_PHOTO)] for s in self.train[:count]]

    def questions(self, count: int | None = None) -> list[list[tuple[str, str]]]:
        """For each training photo question/answer pairs about the concept, named by its identifier."""
        random = Random(f"questions {self.identifier} {self.train[0].seed}")
        asked = []
        for scene in self.train[:count]:
            thing = scene.find(self.look)
            exchanges = about(thing, scene, self.identifier, random) if thing else []
            asked.append([(e.prompt, e.answer) for e in exchanges if "[refer]" not in e.prompt])
        return asked

    @property
    def context(self) -> set[str]:
        """Words of the training photos that are not about the concept: places, weather, companions."""
        found: set[str] = set()
        for scene in self.train:
            found |= scene_words(scene) - {self.category}
        return found


def few_shot(number: int, *, seed: int = 0, photos: int = 4, tests: int = 20) -> FewShot:
    """Return the `number`-th concept of a seed; numbers give different identifiers and each category in turn.

    >>> kit = few_shot(0, photos=4, tests=5)
    >>> kit.look.held_out, len(kit.train), len(kit.present)
    (True, 4, 5)
    """
    random = Random(f"few-shot {seed} {number}")
    category = world.CATEGORIES[(number + seed) % len(world.CATEGORIES)]
    look = random_appearance(random, held_out=True)
    while look.category != category:
        look = random_appearance(random, held_out=True)
    order = list(NAMES if category in PEOPLE else RARE_WORDS)
    Random(f"identifiers {seed}").shuffle(order)
    companion = random_appearance(random)
    while companion.category == category:
        companion = random_appearance(random)
    weather = random.choice(world.WEATHERS)
    places = random.sample(world.PLACES, len(world.PLACES))
    train = [_beside(look, companion, places[i % len(places)], weather, random) for i in range(photos)]
    avoid = (category, companion.category)
    elsewhere = [p for p in places if p not in {s.place for s in train}] or places
    other_weather = [w for w in world.WEATHERS if w != weather]

    def unseen(*looks: Appearance) -> Scene:
        return random_scene(
            random, looks=looks, place=random.choice(elsewhere), weather=random.choice(other_weather),
            avoid=avoid, count=random.choice((1, 2, 2, 3, 3)),
        )  # fmt: skip

    return FewShot(
        order[number % len(order)],
        look,
        tuple(train),
        tuple(unseen(look) for _ in range(tests)),
        tuple(unseen(look_alike(look, random)) for _ in range(tests)),
        tuple(unseen() for _ in range(tests)),
        tuple(unseen(look, _distinguishable_look_alike(look, random)) for _ in range(tests)),
    )


def _distinguishable_look_alike(look: Appearance, random: Random) -> Appearance:
    """A look-alike whose description differs even if the accent is left out."""
    while True:
        other = look_alike(look, random)
        if (other.colour, other.pattern) != (look.colour, look.pattern):
            return other


def _beside(look: Appearance, companion: Appearance, place: str, weather: str, random: Random) -> Scene:
    """A scene in which the two stand side by side, sometimes with a third object."""
    while True:
        scene = random_scene(
            random, looks=(look, companion), place=place, weather=weather, count=random.choice((2, 2, 3))
        )
        thing = scene.find(look)
        beside = scene.neighbour(thing) if thing else None
        if beside and beside.look == companion:
            return scene


def pictures(scenes: Sequence[Scene]) -> list[Image.Image]:
    """Draw the scenes."""
    return [draw_scene(scene) for scene in scenes]


def sample_picture(seed: int = 0) -> Image.Image:
    """Draw a random scene."""
    return draw_scene(random_scene(Random(f"sample {seed}")))
