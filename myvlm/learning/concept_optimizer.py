"""The optimization of one concept: its samples, embedding, optimizer, schedule and early stopping."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.base import Backbone
from myvlm.learning.dataset import CAPTION_PROMPTS, Example, make_views, reduced_for_model
from myvlm.learning.likelihood import REQUIRED_NAMED_SHARE, Validation
from myvlm.learning.noun_phrases import definite_phrase
from myvlm.learning.settings import LearnSettings
from myvlm.text import in_words

VALIDATION_INTERVAL = 5
"""Steps between two validations."""
PASSES_TO_STOP = 2
"""Consecutive validations that have to pass: a single one may pass by luck at the full learning rate."""
OBJECTIVE_WINDOW = 10
"""Steps over which the objective is averaged, since views and texts differ from step to step."""


@dataclass(frozen=True)
class LearnRequest:
    """Everything needed to learn one concept, already validated.

    Attributes:
        examples: its photos with their captions and questions.
        settings: the settings to learn with.
        words: its identifier, then the words that the model uses for the object. The optimizer starts at
            them; if empty, at random.
        taught_loss: the plain model's loss of the least likely training caption, in nats per token, if
            replies are to be verified.
    """

    examples: Sequence[Example]
    settings: LearnSettings
    words: Sequence[str] = ()
    taught_loss: float | None = None

    @property
    def description(self) -> str | None:
        """The noun phrase that the model uses for the object, `the dotted purple mug`; None without words."""
        return definite_phrase(self.words[1:]) if self.words[1:] else None

    def with_description(self, text: str) -> str:
        """Return a text with the identifier replaced by the description, if there is one."""
        return in_words(text, {self.words[0]: self.description}) if self.description else text

    def training_examples(self) -> list[Example]:
        """Return the examples, with questions that refer to the concept as `settings.asked_by` says."""
        if self.settings.asked_by != "description":
            return list(self.examples)
        return [
            replace(
                one,
                questions=tuple((self.with_description(asked), answer) for asked, answer in one.questions),
            )
            for one in self.examples
        ]


@dataclass(frozen=True, eq=False)
class LearnResult:
    """A learned embedding, and figures about how it was learned.

    Attributes:
        directions: rows × dim float32, of unit mean square; with `norm="none"` only at the start.
        cross_entropy, attention: losses of the last step.
        steps: number of steps taken.
        interrupted: whether Ctrl-C ended learning; the directions are then the best so far.
        said: with `steps="auto"`, the share of held-out captions that name the concept.
        answered: likewise, the share of the given questions that are answered as given.
    """

    directions: Tensor
    cross_entropy: float
    attention: float
    steps: int
    interrupted: bool = False
    said: float | None = None
    answered: float | None = None


@dataclass(frozen=True)
class Sample:
    """One training sample: a view of a photo, an instruction and the answer to it."""

    photo: int
    view: int
    prompt: str
    answer: str


class ConceptOptimizer:
    """Draws the batches of one concept, updates its embedding with AdamW, and tracks its progress."""

    def __init__(self, backbone: Backbone, request: LearnRequest) -> None:
        self.examples, self.settings = request.training_examples(), request.settings
        self.processor = backbone.processor
        self.prompts = backbone.caption_prompts or CAPTION_PROMPTS
        self.random = Random(f"learn {self.settings.seed}")
        self.direction = torch.nn.Parameter(_initial_direction(backbone, self.settings, request.words))
        self.optimiser = torch.optim.AdamW([self.direction], lr=self.settings.learning_rate, weight_decay=0.0)
        checked = self.settings.steps == "auto"
        self.progress = Progress(
            self.settings,
            Validation(backbone, self.examples, self.settings, request.words[0]) if checked else None,
        )
        self.losses = (math.nan, math.nan)
        self.answered: float | None = None

    def views(self) -> Iterator[list[Image.Image]]:
        """Yield each photo's views, one photo at a time: those of all photos would fill the memory."""
        settings = self.settings
        for number, example in enumerate(self.examples):
            image, seed = reduced_for_model(self.processor, example.photo), settings.view_seed(number)
            yield make_views(image, settings.views, augment=settings.augment, seed=seed)

    def draw_batch(self, views: Sequence[int]) -> list[Sample]:
        """Draw the batch of one step: a view of every photo, and some questions.

        Args:
            views: for each photo the number of its views.
        """
        examples, random = self.examples, self.random
        batch = [
            Sample(
                number,
                random.choice(range(views[number])),
                random.choice(self.prompts),
                random.choice(e.captions),
            )
            for number, e in enumerate(examples)
        ]
        asked = [number for number, example in enumerate(examples) if example.questions]
        for _ in range(self.settings.questions_per_step if asked else 0):
            number = random.choice(asked)
            view = random.choice(range(views[number]))
            batch.append(Sample(number, view, *random.choice(examples[number].questions)))
        return batch

    def prompt_answer_pairs(self) -> list[tuple[str, str]]:
        """Return every pair of prompt and answer that a batch may contain."""
        told = [(prompt, caption) for e in self.examples for prompt in self.prompts for caption in e.captions]
        return [*told, *(pair for e in self.examples for pair in e.questions)]

    def largest_batch(self) -> list[Sample]:
        """Return a batch that needs as much memory as any, with the longest texts."""
        examples = self.examples
        prompt = max(self.prompts, key=len)
        batch = [Sample(n, 0, prompt, max(e.captions, key=len)) for n, e in enumerate(examples)]
        pairs = [(n, *pair) for n, e in enumerate(examples) for pair in e.questions]
        for number, question, answer in pairs and [max(pairs, key=lambda p: len(p[1]) + len(p[2]))]:
            batch += [Sample(number, 0, question, answer)] * self.settings.questions_per_step
        return batch

    def advance(self, gradient: Tensor, losses: tuple[float, float]) -> None:
        """Take one optimizer step.

        Args:
            gradient: `rows × dim`, of the whole objective.
            losses: cross-entropy and attention that the gradient belongs to, the latter without its weight.
        """
        settings, progress = self.settings, self.progress
        factor = _learning_rate_factor(progress.step, progress.end)
        self.optimiser.param_groups[0]["lr"] = settings.learning_rate * factor
        self.direction.grad = gradient
        if settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_([self.direction], settings.gradient_clip)
        self.optimiser.step()
        if settings.norm != "none":
            _to_unit_mean_square(self.direction)
        self.losses = losses
        progress.advance(self.direction, losses[0] + settings.regularizer * losses[1])

    def ask(self) -> None:
        """Measure how many of the given questions are answered as given, with `steps="auto"`."""
        if validation := self.progress.validation:
            best = self.progress.best(self.direction.detach(), interrupted=False)
            self.answered = validation.share_answered(best)

    def result(self, interrupted: bool) -> LearnResult:
        """Return the result so far. It is marked as interrupted only if steps were left."""
        best = self.progress.best(self.direction.detach(), interrupted=interrupted)
        return LearnResult(
            best.cpu(),
            *self.losses,
            self.progress.step,
            interrupted and not self.progress.done,
            self.progress.said,
            self.answered,
        )


MAX_SENTENCE_ROWS = 64
"""Maximum number of rows when learning starts at a sentence; further tokens are cut off."""
START_NOISE = 0.3
"""Size of the random part added to a start at words, so that several rows do not start as one."""


def _initial_direction(backbone: Backbone, settings: LearnSettings, words: Sequence[str]) -> Tensor:
    """The initial embedding, `rows × dim` of unit mean square; the same on every device.

    By `settings.start`: the token embeddings of a sentence, points near the mean of the words' embeddings, or
    random.
    """
    if settings.start == "told" and words:
        token_directions = backbone.token_directions(naming_sentence(words))
        if token_directions is not None:
            direction = token_directions[:MAX_SENTENCE_ROWS].clone()
            _to_unit_mean_square(direction)
            return direction
    generator = torch.Generator().manual_seed(settings.seed)
    direction = torch.randn(settings.rows, backbone.dim, generator=generator, dtype=torch.float32)
    encodable = [word for word in words if settings.start != "random" and backbone.word_ids(word)]
    known = [backbone.word_direction(word) for word in encodable]
    word_directions = [one.cpu() for one in known if one is not None]
    if word_directions:
        total = torch.stack(word_directions).sum(0)
        direction = total * (backbone.dim**0.5 / total.norm()) + START_NOISE * direction
    direction = direction.to(backbone.device)
    _to_unit_mean_square(direction)
    return direction


def naming_sentence(words: Sequence[str]) -> str:
    """Return the sentence that tells a language model what the object is called.

    A model copies the last words of this order sooner than those of the opposite order
    (benchmarks/RESULTS.md).

    >>> naming_sentence(("sks", "dotted", "purple", "mug"))
    'The dotted purple mug is called sks.'
    """
    name, *called = words
    return f"{' '.join(['The', *called])} is called {name}." if called else f"This is called {name}."


def _learning_rate_factor(step: int, steps: int) -> float:
    """Learning rate factor: 1 for the first half of the steps, then a cosine down to 0.02 for a quiet end."""
    through = max(0.0, (step + 1) / steps - 0.5) * 2
    return 0.02 + 0.98 * (1 + math.cos(math.pi * through)) / 2


@torch.no_grad()
def _to_unit_mean_square(direction: Tensor) -> None:
    # The backbone rescales rows anyway. A fixed norm here makes the learning rate an angle.
    direction.mul_(direction.shape[-1] ** 0.5 / direction.norm(dim=-1, keepdim=True))


class Progress:
    """Tracks one concept's steps: when learning ends, and which embedding was best.

    With a fixed number of steps the last embedding is the result. With `steps="auto"` learning ends after
    twice the steps at which `PASSES_TO_STOP` consecutive validations have passed; the learning rate is full
    until then, unless half of `most_steps` is reached before, and decays afterwards.

    Args:
        settings: the concept's settings.
        validation: the held-out captions, with `steps="auto"`.
    """

    def __init__(self, settings: LearnSettings, validation: Validation | None) -> None:
        self.validation = validation
        self.end = settings.longest
        self.step = 0
        self.said: float | None = None
        self._passes_in_a_row = 0
        self._best: Tensor | None = None
        self._best_score = (-1.0, math.inf)  # share of captions that name the concept, then the lower loss
        self._recent_objectives: deque[float] = deque(maxlen=OBJECTIVE_WINDOW)

    @property
    def done(self) -> bool:
        """Whether no steps are left."""
        return self.step >= self.end

    def advance(self, direction: Tensor, objective: float) -> None:
        """Record one step: the embedding after it, and the objective that it minimized."""
        self.step += 1
        self._recent_objectives.append(objective)
        mean = sum(self._recent_objectives) / len(self._recent_objectives)
        if self.validation is None:
            if len(self._recent_objectives) < OBJECTIVE_WINDOW or mean <= self._best_score[1]:
                self._keep_as_best(direction, (0.0, mean))
            return
        if self.step % VALIDATION_INTERVAL and not self.done:
            return
        found, loss = self.validation.check(direction)
        said = found or 0.0
        self._passes_in_a_row = self._passes_in_a_row + 1 if said >= REQUIRED_NAMED_SHARE else 0
        if self._passes_in_a_row == PASSES_TO_STOP:
            self.end = min(self.end, 2 * self.step)
        if (said, -loss) >= (self._best_score[0], -self._best_score[1]):
            self._keep_as_best(direction, (said, loss))
            self.said = found

    def best(self, direction: Tensor, *, interrupted: bool) -> Tensor:
        """Return the resulting embedding: the best so far if interrupted or validated, else the last."""
        kept = self._best if interrupted or self.validation is not None else None
        return direction if kept is None else kept

    def _keep_as_best(self, direction: Tensor, score: tuple[float, float]) -> None:
        self._best, self._best_score = direction.detach().clone(), score
