"""A tinyworld user with several concepts, and unseen pictures that show none, one or several of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from myvlm.tinyworld.fewshot import FewShot, few_shot
from myvlm.tinyworld.world import scenes as world
from myvlm.tinyworld.world.scenes import Appearance, Scene, random_scene

MOST_THINGS = 4
"""Maximum number of objects in a picture."""


@dataclass(frozen=True)
class MultiConceptUser:
    """The concepts of one user, each with its own photos, and pictures to test them together on.

    Attributes:
        kits: one few-shot set per concept, with different identifiers.
        scenes: unseen scenes, grouped by how many of the concepts they show, from none on. Other objects fill
            some of the room left; none has the category of a concept that is shown.
    """

    kits: tuple[FewShot, ...]
    scenes: tuple[tuple[Scene, ...], ...]

    @property
    def names(self) -> dict[Appearance, str]:
        """The user's name for each appearance."""
        return {kit.look: kit.identifier for kit in self.kits}

    def present(self, scene: Scene) -> set[str]:
        """Return the identifiers of the concepts in a scene."""
        return {kit.identifier for kit in self.kits if scene.find(kit.look)}


def multi_concept_user(
    number: int, *, seed: int = 0, size: int = 5, photos: int = 4, tests: int = 20
) -> MultiConceptUser:
    """Return the `number`-th user of a seed; no two users of a seed share a concept.

    Args:
        size: number of concepts, at most 12, so that no two have the same category.
        photos: number of training photos per concept.
        tests: number of scenes for each number of concepts that a picture can show.

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
    """A scene with `count` of the concepts anywhere in it, and random other objects up to `MOST_THINGS`."""
    chosen = random.sample(kits, count)
    return random_scene(
        random,
        looks=[kit.look for kit in chosen],
        count=random.randint(max(count, 1), MOST_THINGS),
        avoid=[kit.category for kit in chosen],
        place=random.choice(world.PLACES),
        weather=random.choice(world.WEATHERS),
    )
