"""Teaches a concept of tinyworld in a moment, for tests of what surrounds the learning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.tinyworld import FewShot

SHORT = LearnSettings(steps=2, views=2)


def teach(vlm: MyVLM, kit: FewShot, **changes: Any) -> Concept:
    given: dict[str, Any] = {"images": kit.photos(), "captions": kit.captions(), "settings": SHORT, **changes}
    identifier = given.pop("identifier", kit.identifier)
    images = given.pop("images")
    return vlm.learn(identifier, images, category=kit.category, progress=False, **given)


@contextmanager
def interrupted_at_two(*_: Any, **__: Any) -> Iterator[Any]:
    """Ctrl-C after two steps, in place of `api.learning_progress`."""

    def report(step: int, *_: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    yield report
