"""Few-shot sets, and a quickly learned tinyworld concept, for tests of everything around learning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.images import load_images
from myvlm.learning import Example, gather_examples
from myvlm.tinyworld import FewShot

SHORT = LearnSettings(steps=2, views=2)
PHOTOS = [Image.effect_noise((40, 30), 60 + i).convert("RGB") for i in range(2)]
CAPTIONS = [["sks on a table", "a photo of sks"], "sks and a mug"]


def teach(vlm: MyVLM, kit: FewShot, **changes: Any) -> Concept:
    given: dict[str, Any] = {"images": kit.photos(), "captions": kit.captions(), "settings": SHORT, **changes}
    identifier = given.pop("identifier", kit.identifier)
    images = given.pop("images")
    return vlm.learn(identifier, images, category=kit.category, progress=False, **given)


@contextmanager
def interrupted_at_two(*_: Any, **__: Any) -> Iterator[Any]:
    """Raise Ctrl-C after two steps, in place of `api.learning_progress`."""

    def report(step: int, *_: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    yield report


def examples(**changes: Any) -> list[Example]:
    """Two photos of noise with texts."""
    questions = [("What is next to sks?", "a table")]
    given: dict[str, Any] = {"captions": CAPTIONS, "questions": questions, **changes}
    return gather_examples("sks", load_images(PHOTOS), **given)
