"""Whether learning may stop: the share of held-out captions that name the concept.

The training captions are nearly memorised in the end, under instructions that were trained on (DESIGN §5): so
what counts is whether the name is said of views that no step saw, under instructions that none held.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows
from myvlm.backbones.tokens import heard
from myvlm.learning.dataset import Example, held_out_view
from myvlm.learning.settings import LearnSettings
from myvlm.text import contains_word

UNSEEN_PROMPTS = ("Tell me what you see.", "What is in the image?", "Write about the picture.")
"""Instructions that no step is under."""
ENOUGH = 0.75
"""Part of the captions that must name the concept; some views are too dark or too much turned."""
NEW_TOKENS = 48
"""The most that a held-out caption is long."""


class Validation:
    """Whether a concept is named in captions of views that were held out; deterministic by seed.

    Args:
        backbone: speaks.
        examples: their photos; one view of each is held out, the photo itself where nothing is augmented.
        settings: how views are made.
        identifier: the word that is looked for.
    """

    def __init__(
        self, backbone: Backbone, examples: Sequence[Example], settings: LearnSettings, identifier: str
    ) -> None:
        self.backbone, self.norm, self.word = backbone, settings.norm, heard(backbone, identifier)
        held_out = [
            held_out_view(
                e.photo.image, settings.views, augment=settings.augment, seed=settings.view_seed(number)
            )
            for number, e in enumerate(examples)
        ]
        prompts = backbone.caption_prompts or UNSEEN_PROMPTS
        self.asked: list[tuple[Image.Image, str]] = [
            (view, prompt) for view in held_out for prompt in prompts
        ]

    def share(self, direction: Tensor) -> float:
        """Part of the greedy captions that name the concept, with this `rows × dim` embedding."""
        images, prompts = zip(*self.asked, strict=True)
        rows = [[ConceptRows(direction.detach(), self.norm)]] * len(images)
        said = self.backbone.generate(images, prompts, rows, max_new_tokens=NEW_TOKENS)
        return sum(contains_word(one.text, self.word) for one in said) / len(said)
