"""What is compared with learned rows and needs no optimisation: a concept told in words, and one that is
remembered by its own visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.backbones import Backbone, ConceptRows
from myvlm.boxes import Box, cells_inside
from myvlm.concepts.concept import Concept
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.methods.baselines import GatedSpeaker
from myvlm.evaluation.methods.personalized import Personal, PersonalSpeaker, alone
from myvlm.evaluation.methods.registry import Setting, register_method
from myvlm.images import ImageSource, LoadedImage, load_images
from myvlm.speaking.addressing import build_model_input, with_identifiers
from myvlm.text import contains_word

MEMORY = 16
"""Visual tokens that are kept of a concept, of all its photos together."""


@register_method("introduced")
class Introduced:
    """`MyVLM.introduce`: a head, and a sentence before the instruction where it sees the concept."""

    name = "introduced"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        told = alone(vlm)
        self._introduce(told, subject, photos)
        return Personal(told)

    def _introduce(self, told: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Concept:
        return told.introduce(
            subject.identifier,
            [photo.file for photo in photos],
            category=subject.category,
            description=self.setting.descriptions.get(subject.name),
            kind=subject.kind,
        )


@register_method("visual_memory")
class VisualMemory(Introduced):
    """The same, with the concept's own visual tokens as rows: a memory of its photos, in their own norms.

    Of each photo those tokens inside the head's box to which the model attends as it calls the thing by its
    category; an idea of https://arxiv.org/abs/2603.09771, whose prompts and choice of layers are not these.
    """

    name = "visual_memory"

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        told = alone(vlm)
        concept = self._introduce(told, subject, photos)
        loaded = load_images([photo.file for photo in photos])
        boxes = [found[0].box for found in told.concepts.recognise(loaded)]
        memory = remembered(vlm.backbone, loaded, boxes, subject.category)
        return GatedSpeaker(told, Remembering(vlm.backbone, concept, ConceptRows(memory, "none")))


class Remembering:
    """Speaks of every picture behind rows that nobody learned, told in words whose they are.

    Args:
        concept: has a description, and no embedding.
    """

    def __init__(self, backbone: Backbone, concept: Concept, rows: ConceptRows) -> None:
        self.backbone, self.concept, self.rows = backbone, concept, rows

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self._say(images, self.backbone.caption_prompt)

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return self._say(images, question)

    def _say(self, images: Sequence[ImageSource], prompt: str) -> list[str]:
        told = build_model_input(self.backbone, prompt, [self.concept]).prompt
        texts = []
        for photo in load_images(list(images)):
            [reply] = self.backbone.generate([photo.image], [told], [[self.rows]])
            texts.append(with_identifiers(self.backbone, prompt, reply.text, [self.concept]))
        return texts


def remembered(
    backbone: Backbone, photos: Sequence[LoadedImage], boxes: Sequence[Box | None], category: str
) -> Tensor:
    """`R × D` float32, `R` at most `MEMORY`: the visual tokens of the thing in its photos.

    Args:
        boxes: where the head sees it in each photo, in pixels; None where it does not say.
    """
    probe, each = backbone.probe(), max(1, MEMORY // len(photos))
    kept = []
    for photo, box in zip(photos, boxes, strict=True):
        [features] = backbone.encode([photo.image])
        tokens = probe.visual_tokens(features)
        # `h × w`: the number of the token that shows each cell
        places = probe.arranged(features, torch.arange(len(tokens)))
        height, width = places.shape
        looked = _attended(backbone, photo, category, (height, width))
        weights = looked * _inside(box, backbone.field_of_view(photo.image.size), (height, width))
        best = [cell for cell in np.argsort(-weights, axis=None)[:each].tolist() if weights.flat[cell] > 0]
        kept.append(tokens[places.flatten()[best]].float())
    return torch.cat(kept)


def _attended(
    backbone: Backbone, photo: LoadedImage, category: str, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """`h × w`: where the plain model looks as it says the category; the same everywhere if it never does."""
    everywhere = np.ones(shape, dtype=np.float32)
    if "attention_map" in backbone.lacks:
        return everywhere
    prompt = backbone.caption_prompt
    [reply] = backbone.generate([photo.image], [prompt], [[]])
    if not contains_word(reply.text, category):
        return everywhere
    return backbone.attention_map(photo.image, prompt, reply.text, category, [])


def _inside(box: Box | None, field: Box, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """`h × w`: the cells of a map over `field`, in pixels, inside the box; all where there is no box, or no
    cell is."""
    inside = cells_inside(box or field, field, shape)
    return inside if inside.any() else np.ones(shape, bool)
