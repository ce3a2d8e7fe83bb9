"""When learning may stop, and which embedding is the best so far.

The training captions are nearly memorised in the end, under instructions that were trained on (DESIGN §5): so
what counts is whether the name is said of views that no step saw, under instructions that none held.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone, ConceptRows
from myvlm.learning.dataset import Example
from myvlm.learning.settings import LearnSettings
from myvlm.learning.views import held_out_view
from myvlm.text import contains_word

UNSEEN_PROMPTS = ("Tell me what you see.", "What is in the image?", "Write about the picture.")
"""Instructions that no step is under."""
CHECK_EVERY = 10
"""Steps between two checks."""
IN_A_ROW = 2
"""Checks that have to pass, one after the other: one alone may be luck, at the full learning rate."""
ENOUGH = 0.75
"""Part of the captions that must name the concept; some views are too dark or too much turned."""
NEW_TOKENS = 48
"""The most that a held-out caption is long."""
WINDOW = 10
"""Steps over whose mean the objective is compared: one step has other views and words than the next."""


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
        self.backbone, self.norm, self.identifier = backbone, settings.norm, identifier
        held_out = [
            held_out_view(
                e.photo.image, settings.views, augment=settings.augment, seed=view_seed(settings, number)
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
        return sum(contains_word(one.text, self.identifier) for one in said) / len(said)


def view_seed(settings: LearnSettings, photo: int) -> int:
    """The seed of one photo's views."""
    return settings.seed * 1000 + photo


class Progress:
    """How far one concept is: when it ends, and which embedding was the best.

    With fixed steps the end is known and the last embedding is the result. With `steps="auto"` the learning
    rate stays full until the validation has passed `IN_A_ROW` times, and falls off over as many steps again.

    Args:
        settings: of the concept.
        validation: with `steps="auto"`.
    """

    def __init__(self, settings: LearnSettings, validation: Validation | None) -> None:
        self.validation = validation
        self.end = settings.longest
        self.step = 0
        self.said: float | None = None
        self._passed = 0
        self._best: Tensor | None = None
        self._score = (-1.0, math.inf)  # said more often, then a lower objective
        self._recent: deque[float] = deque(maxlen=WINDOW)

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.end

    def advance(self, direction: Tensor, objective: float) -> None:
        """Note one step: the embedding after it, and the loss that it had."""
        self.step += 1
        self._recent.append(objective)
        mean = sum(self._recent) / len(self._recent)
        if self.validation is None:
            if len(self._recent) < WINDOW or mean <= self._score[1]:
                self._keep(direction, (0.0, mean))
            return
        if self.step % CHECK_EVERY and not self.done:
            return
        said = self.validation.share(direction)
        self._passed = self._passed + 1 if said >= ENOUGH else 0
        if self._passed == IN_A_ROW:
            self.end = min(self.end, 2 * self.step)
        if (said, -mean) >= (self._score[0], -self._score[1]):
            self._keep(direction, (said, mean))
            self.said = said

    def best(self, direction: Tensor, *, interrupted: bool) -> Tensor:
        """The result: of what was there so far, where it was interrupted or checked, else the last."""
        kept = self._best if interrupted or self.validation is not None else None
        return direction if kept is None else kept

    def _keep(self, direction: Tensor, score: tuple[float, float]) -> None:
        self._best, self._score = direction.detach().clone(), score
