"""Teaches a concept of tinyworld in a moment, for tests of what surrounds the learning."""

from __future__ import annotations

from typing import Any

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.tinyworld import FewShot

SHORT = LearnSettings(steps=2, views=2)


def teach(vlm: MyVLM, kit: FewShot, **changes: Any) -> Concept:
    given: dict[str, Any] = {"images": kit.photos(), "captions": kit.captions(), "settings": SHORT, **changes}
    identifier = given.pop("identifier", kit.identifier)
    images = given.pop("images")
    return vlm.learn(identifier, images, category=kit.category, progress=False, **given)
