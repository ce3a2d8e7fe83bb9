"""A user of tinyworld with several concepts, and unseen pictures that hold none, one or many of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from myvlm.tinyworld.fewshot import FewShot, few_shot
from myvlm.tinyworld.world import scenes as world
from myvlm.tinyworld.world.scenes import Appearance, Scene, random_scene

MOST_THINGS = 4
"""What a picture of the world has room for."""


@dataclass(frozen=True)
class MultiConceptUser:
    """The concepts of one user, each with its own photos, and pictures to try them on together.

    Attributes:
        kits: one a concept; their identifiers differ.
        scenes: by how many of the concepts are in them, from none on: unseen scenes, with other things too
            where there is room. No other thing is of the category of a concept that is there.
    """

    kits: tuple[FewShot, ...]
    scenes: tuple[tuple[Scene, ...], ...]

    @property
    def names(self) -> dict[Appearance, str]:
        """What the user calls each appearance."""
        return {kit.look: kit.identifier for kit in self.kits}

    def present(self, scene: Scene) -> set[str]:
        """The identifiers of the concepts that are in a scene."""
        return {kit.identifier for kit in self.kits if scene.find(kit.look)}


def multi_concept_user(
    number: int, *, seed: int = 0, size: int = 5, photos: int = 4, tests: int = 20
) -> MultiConceptUser:
    """The `number`-th user of a seed; no two users of a seed share a concept.

    Args:
        size: concepts of the user, at most 12: of twelve things no two are of one category.
        photos: training photos a concept.
        tests: scenes for each number of concepts that can be in one picture.

    >>> user = multi_concept_user(0, size=3, tests=2)
    >>> [len(user.present(scene)) for scenes in user.scenes for scene in scenes]
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    kits = [few_shot(number * size + i, seed=seed, photos=photos, tests=0) for i in range(size)]
    random = Random(f"household {seed} {number} {size}")
    scenes = []
    for count in range(min(size, MOST_THINGS) + 1):
        scenes.append(tuple(_unseen(kits, count, random) for _ in range(tests)))
    return MultiConceptUser(tuple(kits), tuple(scenes))


def _unseen(kits: list[FewShot], count: int, random: Random) -> Scene:
    """A scene with so many of the concepts, in front and behind in any order, and others up to four."""
    chosen = random.sample(kits, count)
    return random_scene(
        random,
        looks=[kit.look for kit in chosen],
        count=random.randint(max(count, 1), MOST_THINGS),
        avoid=[kit.category for kit in chosen],
        place=random.choice(world.PLACES),
        weather=random.choice(world.WEATHERS),
    )
