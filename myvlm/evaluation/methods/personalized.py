"""Learn a subject of a data set once for all compared methods, and generate replies with the result."""

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

CACHE_SIZE = 8
"""Number of cached concepts: enough for the methods of one table, which ask for the same ones in turn."""


class PersonalSpeaker(Protocol):
    """Result of teaching a method: captions pictures and answers questions about them."""

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        """Generate a caption of each picture."""
        ...

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        """Answer a question about each picture."""
        ...


class ConceptSpeaker:
    """A `MyVLM` with its concepts as a `PersonalSpeaker`, gated by the concepts' heads."""

    def __init__(self, vlm: MyVLM) -> None:
        self.vlm = vlm

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return [reply.text for reply in self.vlm.caption(list(images))]

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return [reply.text for reply in self.vlm.ask(list(images), question)]


class Teaching:
    """Learns concepts and caches the last few, so that several methods share them.

    Args:
        settings: learning settings; those not set are the backbone's defaults. The seed is given per call.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings
        self._concepts: OrderedDict[object, tuple[MyVLM, Concept]] = OrderedDict()
        self._heads: OrderedDict[object, tuple[MyVLM, Head]] = OrderedDict()

    def settings_for(self, vlm: MyVLM, subject: Subject, seed: int) -> LearnSettings:
        """The complete learning settings of a subject."""
        default = default_settings(vlm.backbone.name, family=vlm.backbone.family, kind=subject.kind)
        return as_settings(self.settings).over(default).model_copy(update={"seed": seed})

    def concept(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Concept:
        """Learn a concept with `MyVLM.learn` from these photos, their captions and questions.

        If any photo has no caption, the model writes the captions of all photos.

        Raises: as `MyVLM.learn`; also KeyboardInterrupt if Ctrl-C ended learning early.
        """
        settings = self.settings_for(vlm, subject, seed)
        key = (*_head_key(vlm, subject, photos), settings.model_dump_json())
        if key not in self._concepts:
            written = all(photo.captions for photo in photos)
            learned = with_only_concepts(vlm).learn(
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
            _store(self._concepts, key, (vlm, concept))
            _store(self._heads, _head_key(vlm, subject, photos), (vlm, concept.head))
        self._concepts.move_to_end(key)
        return self._concepts[key][1]

    def head(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Head:
        """The head that the concept learned from these photos has or would have."""
        key = _head_key(vlm, subject, photos)
        if key not in self._heads:
            head = new_head(subject.kind, encoder=vlm.encoder, device=vlm.concepts.device)
            head.fit([photo.file for photo in photos], category=subject.category)
            _store(self._heads, key, (vlm, head))
        self._heads.move_to_end(key)
        return self._heads[key][1]

    def concept_without_embedding(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Concept:
        """A concept with the same head and no embedding; the method decides what is generated."""
        return Concept(subject.identifier, subject.category, self.head(vlm, subject, photos))


def with_only_concepts(vlm: MyVLM, *concepts: Concept) -> MyVLM:
    """A `MyVLM` that shares the frozen model and backbone of another, with only these concepts."""
    return vlm.with_concepts(ConceptLibrary(concepts, device=vlm.concepts.device))


def _head_key(vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> tuple[object, ...]:
    """Cache key of a head. The cache also holds the model, so that no other object gets its `id`."""
    return id(vlm), subject.identifier, subject.category, subject.kind, tuple(photo.file for photo in photos)


def _store(cache: OrderedDict[object, Any], key: object, value: Any) -> None:
    cache[key] = value
    while len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
