"""Teach a subject of a data set, and speak with what was learned. Imports `myvlm.api` and below."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

from myvlm.api import MyVLM
from myvlm.concept import Concept
from myvlm.evaluation.data import Photo, Subject
from myvlm.images import ImageSource
from myvlm.learning import LearnSettings
from myvlm.library import ConceptLibrary
from myvlm.loading import default_settings


class Speaker(Protocol):
    """What speaks of pictures once it is taught."""

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        """A caption of each picture."""
        ...

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        """An answer about each picture."""
        ...


class Personal:
    """A `MyVLM` with its concepts as a speaker; its head is the gate."""

    def __init__(self, vlm: MyVLM) -> None:
        self.vlm = vlm

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return [reply.text for reply in self.vlm.caption(list(images))]

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return [reply.text for reply in self.vlm.ask(list(images), question)]


class Teaching:
    """Learns concepts as `MyVLM.learn` does.

    Args:
        settings: how to learn; the backbone's default where not given. The seed is the call's.
    """

    def __init__(self, settings: LearnSettings | None = None) -> None:
        self.settings = settings

    def concept(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Concept:
        """The concept of these photos; the captions are the model's own where a photo has none."""
        default = default_settings(vlm.backbone.name, family=vlm.backbone.family, kind=subject.kind)
        written = all(photo.captions for photo in photos)
        return alone(vlm).learn(
            subject.identifier,
            [photo.file for photo in photos],
            category=subject.category,
            captions=[list(photo.captions) for photo in photos] if written else None,
            questions=[[(one.question, one.answer) for one in photo.questions] for photo in photos],
            kind=subject.kind,
            settings=(self.settings or default).model_copy(update={"seed": seed}),
            progress=False,
        )


def alone(vlm: MyVLM, *concepts: Concept) -> MyVLM:
    """The same frozen model, and the adapter as it is set up, with a library of its own."""
    one = copy.copy(vlm)
    one.concepts = ConceptLibrary(concepts, device=vlm.concepts.device)
    one._generic = 0
    return one
