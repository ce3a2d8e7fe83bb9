"""A face detector for tinyworld's people; it recognizes a picture's scene by its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from myvlm.boxes import Box
from myvlm.heads.faces.encoders import Faces
from myvlm.images import load_images
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.world.scenes import PEOPLE, Appearance, Scene, Thing
from tests.support.fake_faces import DIM, FakeFaces, descriptor


class SceneFaces(FakeFaces):
    """Finds the heads of all people in these scenes.

    Args:
        twins: maps appearances to those whose face they share.
    """

    def __init__(
        self, id: str, scenes: Iterable[Scene], twins: Mapping[Appearance, Appearance] | None = None
    ) -> None:
        super().__init__(id)
        self.scenes = list(scenes)
        self.twins = dict(twins or {})
        shown = load_images(pictures(self.scenes))
        self._known = {one.digest: scene for one, scene in zip(shown, self.scenes, strict=True)}
        self._people: dict[Appearance, int] = {}

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        return [self._faces_in(self._known[one.digest]) for one in load_images(list(images))]

    def _faces_in(self, scene: Scene) -> Faces:
        people = [thing for thing in scene.things if thing.category in PEOPLE]
        rows = [self._face_of(thing.look, scene.seed) for thing in people]
        return Faces(tuple(map(head_of, people)), np.stack(rows) if rows else np.empty((0, DIM), np.float32))

    def _face_of(self, look: Appearance, draw: int) -> np.ndarray:
        whose = self.twins.get(look, look)
        return descriptor(self._people.setdefault(whose, len(self._people) + 1), draw)


def head_of(person: Thing) -> Box:
    """The box of a person's face: the middle of the upper third, as tinyworld draws people."""
    left, top, right, bottom = person.box
    width, height = right - left, bottom - top
    return left + 0.35 * width, top + 0.03 * height, left + 0.65 * width, top + 0.36 * height
