"""Teach a subject of a data set, once for all methods that are compared, and speak with what was learned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from myvlm.api import MyVLM
from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.heads import Head
from myvlm.images import ImageSource
from myvlm.learning import LearnSettings
from myvlm.learning.settings import Settings, as_settings, default_settings
from myvlm.learning.teach import check_not_interrupted, new_head

KEPT = 8
"""Concepts that are kept: those that the methods of one table, one after the other, ask for again."""


class PersonalSpeaker(Protocol):
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
    """Learns concepts, and keeps the last few, so that several methods need not learn the same again.

    Args:
        settings: how to learn; what is not set is the backbone's default. The seed is the call's.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings
        self._concepts: OrderedDict[object, tuple[MyVLM, Concept]] = OrderedDict()
        self._heads: OrderedDict[object, tuple[MyVLM, Head]] = OrderedDict()

    def settings_for(self, vlm: MyVLM, subject: Subject, seed: int) -> LearnSettings:
        """How a subject is learned."""
        default = default_settings(vlm.backbone.name, family=vlm.backbone.family, kind=subject.kind)
        return as_settings(self.settings).over(default).model_copy(update={"seed": seed})

    def concept(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Concept:
        """The concept as `MyVLM.learn` makes it of these photos, their captions and questions.

        Where a photo has no caption, all are the model's own.

        Raises: as `MyVLM.learn`; KeyboardInterrupt also where Ctrl-C ended the learning.
        """
        settings = self.settings_for(vlm, subject, seed)
        key = (*_key(vlm, subject, photos), settings.model_dump_json())
        if key not in self._concepts:
            written = all(photo.captions for photo in photos)
            learned = alone(vlm).learn(
                subject.identifier,
                [photo.file for photo in photos],
                category=subject.category,
                captions=[list(photo.captions) for photo in photos] if written else None,
                questions=[[(one.question, one.answer) for one in photo.questions] for photo in photos],
                kind=subject.kind,
                settings=settings,
                progress=False,
            )
            concept = check_not_interrupted(learned)
            _keep(self._concepts, key, (vlm, concept))
            _keep(self._heads, _key(vlm, subject, photos), (vlm, concept.head))
        self._concepts.move_to_end(key)
        return self._concepts[key][1]

    def head(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Head:
        """The head that the concept has, or would have."""
        key = _key(vlm, subject, photos)
        if key not in self._heads:
            head = new_head(subject.kind, encoder=vlm.encoder, device=vlm.concepts.device)
            head.fit([photo.file for photo in photos], category=subject.category)
            _keep(self._heads, key, (vlm, head))
        self._heads.move_to_end(key)
        return self._heads[key][1]

    def bare_concept(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Concept:
        """A concept that is recognised as ours is and has no embedding: what it says is up to the method."""
        return Concept(subject.identifier, subject.category, self.head(vlm, subject, photos))


def alone(vlm: MyVLM, *concepts: Concept) -> MyVLM:
    """The same frozen model, and the adapter as it is set up, with a library of its own."""
    backbone, library = vlm.backbone, ConceptLibrary(concepts, device=vlm.concepts.device)
    one = MyVLM(backbone.model, backbone.processor, name=backbone.name, encoder=vlm.encoder, concepts=library)
    one.backbone = backbone
    return one


def _key(vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> tuple[object, ...]:
    """What a head depends on. The model is kept beside it, so that no other can come by its number."""
    return id(vlm), subject.identifier, subject.category, subject.kind, tuple(photo.file for photo in photos)


def _keep(kept: OrderedDict[object, Any], key: object, value: Any) -> None:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
