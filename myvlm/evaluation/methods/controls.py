"""Control methods: embeddings that know nothing of the concept, and a gate that is always open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.api import MyVLM
from myvlm.backbones.tokens import as_written
from myvlm.concepts.concept import Concept
from myvlm.concepts.embedding import Embedding
from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.methods.personalized import ConceptSpeaker, Teaching, with_only_concepts
from myvlm.evaluation.methods.registry import Setting, register_method
from myvlm.images import ImageSource, load_images
from myvlm.text import replace_word


class EmbeddingControl:
    """Base of methods whose concept has the usual head and an embedding that was not learned from it."""

    name: str

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.teaching: Teaching = setting.teaching

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> ConceptSpeaker:
        embedding = self.embedding(vlm, subject, photos, seed)
        concept = self.teaching.concept_without_embedding(vlm, subject, photos)
        concept.embeddings[vlm.backbone.name] = embedding
        return ConceptSpeaker(with_only_concepts(vlm, concept))

    def embedding(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], seed: int) -> Embedding:
        raise NotImplementedError


@register_method("random")
class RandomVector(EmbeddingControl):
    """Random directions, with the same number of rows and the same norm as a learned embedding."""

    name = "random"

    def embedding(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], seed: int) -> Embedding:
        settings = self.teaching.settings_for(vlm, subject, seed)
        random = np.random.default_rng([seed, *subject.identifier.encode()])
        return _embedding(vlm, random.standard_normal((settings.rows, vlm.backbone.dim)), settings.norm)


@register_method("own_word")
class OwnWord(EmbeddingControl):
    """The model's own embedding of the identifier's tokens (their mean) as a row, with a learned row's norm.

    In BLIP-2, the row is the vision feature that the Q-Former's values and the projector map to it.

    Raises (in `teach`):
        InputError: the rows of this family are not word embeddings.
    """

    name = "own_word"

    def embedding(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], seed: int) -> Embedding:
        direction = vlm.backbone.word_direction(subject.identifier)
        if direction is None:
            raise InputError(
                "A word of this model cannot be used as a concept's embedding.",
                got=f"{vlm.backbone.name} ({vlm.backbone.family}), whose rows are not word embeddings",
                expected="a family whose concepts are rows of the language model",
                fix="omit the method own_word",
            )
        norm = self.teaching.settings_for(vlm, subject, seed).norm
        return _embedding(vlm, direction.detach().cpu().numpy()[None], norm)


@register_method("another")
class Another(EmbeddingControl):
    """The embedding of another subject, learned from as many photos, gated by this subject's head.

    The other subject is the next one in the setting, of another category if there is one.
    """

    name = "another"

    def embedding(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], seed: int) -> Embedding:
        other = self._another_subject(subject)
        concept = self.teaching.concept(vlm, other, other.photos[: len(photos)], seed=seed)
        return concept.embeddings[vlm.backbone.name]

    def _another_subject(self, subject: Subject) -> Subject:
        subjects = list(self.setting.subjects)
        names = [one.name for one in subjects]
        start = names.index(subject.name) + 1 if subject.name in names else 0
        others = [one for one in subjects[start:] + subjects[:start] if one.name != subject.name]
        if not others:
            raise InputError(
                f"There is no subject other than {subject.name!r} whose embedding could be used.",
                got=f"{len(subjects)} subjects in the setting",
                expected="two or more",
                fix="pass those of the data set: Setting(subjects=dataset.subjects)",
            )
        return next((one for one in others if one.category != subject.category), others[0])


@register_method("open_gate")
class OpenGate:
    """The learned embedding in every picture, whether or not the head detects the concept.

    On pictures without the concept it shows how much of the accuracy is due to the head.
    """

    name = "open_gate"

    def __init__(self, setting: Setting) -> None:
        self.teaching = setting.teaching

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> UngatedSpeaker:
        concept = self.teaching.concept(vlm, subject, photos, seed=seed)
        return UngatedSpeaker(vlm, concept)


class UngatedSpeaker:
    """A speaker that inserts a concept's embedding for every picture."""

    def __init__(self, vlm: MyVLM, concept: Concept) -> None:
        self.vlm, self.concept = vlm, concept
        self.rows = vlm.backbone.rows_of(concept)

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self._replies(images, self.vlm.backbone.caption_prompt)

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return self._replies(images, question)

    def _replies(self, images: Sequence[ImageSource], prompt: str) -> list[str]:
        shown = [photo.image for photo in load_images(list(images))]
        texts: list[str] = []
        for start in range(0, len(shown), 16):
            some = shown[start : start + 16]
            replies = self.vlm.backbone.generate(some, [prompt] * len(some), [[self.rows]] * len(some))
            texts += [reply.text for reply in replies]
        word = as_written(self.vlm.backbone, self.concept.spoken)
        return [replace_word(text, word, self.concept.identifier) for text in texts]


def _embedding(vlm: MyVLM, directions: npt.NDArray[Any], norm: str) -> Embedding:
    backbone = vlm.backbone
    return Embedding(
        np.asarray(directions, dtype=np.float32),
        norm=norm,
        prompt=backbone.caption_prompt,
        fingerprint=backbone.fingerprint(),
    )
