"""Introduced in words: a concept with a head and a description, and no embedding; nothing is optimised."""

from __future__ import annotations

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.concepts.notebook import thumbnails_of
from myvlm.heads import Head
from myvlm.learning.captions import described
from myvlm.learning.dataset import LoadedLesson
from myvlm.learning.teach import check_text, describing


def introduce(backbone: Backbone, lesson: LoadedLesson, head: Head, *, description: str | None) -> Concept:
    """The concept of a lesson with its head fitted and a description; no embedding.

    Args:
        description: such as `the dotted purple mug`; where not given, by the frozen model's own captions of
            the photos (`described`).

    Raises:
        InputError: the description is no text, or holds a special token of the model's.
    """
    photos = lesson.images
    if description is not None:
        check_text(backbone, description, "Description")
    head.fit(photos, lesson.negatives, category=lesson.category)
    words = description or describing(described(backbone, photos, lesson.category))
    names = [photo.path.name if photo.path else photo.name for photo in photos]
    recipe = {"description": words, "photos": names}
    shown = thumbnails_of(photos, head)
    return Concept(lesson.identifier, lesson.category, head, recipe=recipe, thumbnails=shown)
