"""Methods without optimisation: an introduced concept, and one whose rows are its own visual tokens."""

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
from myvlm.evaluation.methods.personalized import ConceptSpeaker, PersonalSpeaker, with_only_concepts
from myvlm.evaluation.methods.registry import Setting, register_method
from myvlm.images import ImageSource, LoadedImage, load_images
from myvlm.speaking.addressing import build_model_input, with_identifiers
from myvlm.text import contains_word

MAX_VISUAL_TOKENS = 16
"""Maximum number of visual tokens kept for a concept, over all its photos."""


@register_method("introduced")
class Introduced:
    """`MyVLM.introduce`: a head, and a hint in the prompt where the head detects the concept."""

    name = "introduced"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        own_vlm = with_only_concepts(vlm)
        self._introduce(own_vlm, subject, photos)
        return ConceptSpeaker(own_vlm)

    def _introduce(self, own_vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> Concept:
        return own_vlm.introduce(
            subject.identifier,
            [photo.file for photo in photos],
            category=subject.category,
            description=self.setting.descriptions.get(subject.name),
            kind=subject.kind,
        )


@register_method("visual_memory")
class VisualMemory(Introduced):
    """An introduced concept with rows: visual tokens of its training photos, with their own norms.

    From each photo it takes the tokens inside the head's box that get the most attention when the model
    generates the category. The idea is from https://arxiv.org/abs/2603.09771; prompts and choice of layers
    differ from it.
    """

    name = "visual_memory"

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        own_vlm = with_only_concepts(vlm)
        concept = self._introduce(own_vlm, subject, photos)
        loaded = load_images([photo.file for photo in photos])
        boxes = [found[0].box for found in own_vlm.concepts.recognise(loaded)]
        memory = select_visual_tokens(vlm.backbone, loaded, boxes, subject.category)
        return GatedSpeaker(own_vlm, VisualMemorySpeaker(vlm.backbone, concept, ConceptRows(memory, "none")))


class VisualMemorySpeaker:
    """A speaker that inserts given rows for every picture and says in the prompt which concept they show.

    Args:
        concept: an introduced concept: it has a description and no embedding.
    """

    def __init__(self, backbone: Backbone, concept: Concept, rows: ConceptRows) -> None:
        self.backbone, self.concept, self.rows = backbone, concept, rows

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self._replies(images, self.backbone.caption_prompt)

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return self._replies(images, question)

    def _replies(self, images: Sequence[ImageSource], prompt: str) -> list[str]:
        prompt_with_hint = build_model_input(self.backbone, prompt, [self.concept]).prompt
        texts = []
        for photo in load_images(list(images)):
            [reply] = self.backbone.generate([photo.image], [prompt_with_hint], [[self.rows]])
            texts.append(with_identifiers(self.backbone, prompt, reply.text, [self.concept]))
        return texts


def select_visual_tokens(
    backbone: Backbone, photos: Sequence[LoadedImage], boxes: Sequence[Box | None], category: str
) -> Tensor:
    """Select visual tokens that show the concept in its photos.

    Args:
        boxes: the head's box in each photo, in pixels; None if it gives none.

    Returns:
        `R × D` float32, with `R` at most `MAX_VISUAL_TOKENS` or, if that is more, the number of photos.
    """
    probe, each = backbone.probe(), max(1, MAX_VISUAL_TOKENS // len(photos))
    kept = []
    for photo, box in zip(photos, boxes, strict=True):
        [features] = backbone.encode([photo.image])
        tokens = probe.visual_tokens(features)
        # `h × w`: index of the token that shows each cell
        token_of_cell = probe.arranged(features, torch.arange(len(tokens)))
        height, width = token_of_cell.shape
        attention = _attention_to_category(backbone, photo, category, (height, width))
        weights = attention * _box_mask(box, backbone.field_of_view(photo.image.size), (height, width))
        best = [cell for cell in np.argsort(-weights, axis=None)[:each].tolist() if weights.flat[cell] > 0]
        kept.append(tokens[token_of_cell.flatten()[best]].float())
    return torch.cat(kept)


def _attention_to_category(
    backbone: Backbone, photo: LoadedImage, category: str, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """`h × w` attention map of the plain model for the category's word; uniform if its caption lacks it."""
    everywhere = np.ones(shape, dtype=np.float32)
    if "attention_map" in backbone.lacks:
        return everywhere
    prompt = backbone.caption_prompt
    [reply] = backbone.generate([photo.image], [prompt], [[]])
    if not contains_word(reply.text, category):
        return everywhere
    return backbone.attention_map(photo.image, prompt, reply.text, category, [])


def _box_mask(box: Box | None, field: Box, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """`h × w` mask of a grid over `field` (in pixels): cells inside the box; all if no box is given or no
    cell is inside."""
    inside = cells_inside(box or field, field, shape)
    return inside if inside.any() else np.ones(shape, bool)
