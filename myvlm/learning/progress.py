"""How far learning is: a bar on a terminal, one in a notebook, a line now and then in a pipe.

All of it goes where it does not mix with results: the error stream, or an output of its own of the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from myvlm.display.page import Markup, escaped
from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.dataset import Lesson
from myvlm.learning.optimise import Report

NOTEBOOK_PAUSE = 0.25
"""Seconds between two drawings in a notebook: each is a message to the browser."""
PIPE_PAUSE = 10.0
"""Seconds between two lines in a pipe or a log file."""


@dataclass
class LearningProgress:
    """How far learning is.

    Attributes:
        names: what is learned.
        longest: steps after which it ends in any case.
        step: steps taken.
        loss: the last losses, as they are shown.
        said: the part of held-out captions that name the concept so far, where that is looked at.
        began, first, ended: seconds of a clock: the start, the end of the first step, the end of all.
        failed: whether it ended by an error.
    """

    names: str
    longest: int
    step: int = 0
    loss: str = "–"
    said: float | None = None
    began: float = field(default_factory=monotonic)
    first: float | None = None
    ended: float | None = None
    failed: bool = False

    def advance(self, step: int, loss: str, said: float | None) -> None:
        """Note a step."""
        if self.first is None:
            self.first = monotonic()
        self.step, self.loss, self.said = step, loss, said

    @property
    def doing(self) -> str:
        """What is under way, in words."""
        if self.ended is not None:
            return f"stopped learning {self.names}" if self.failed else f"learned {self.names}"
        return f"learning {self.names}" if self.step else f"looking at {self.names}"

    @property
    def time(self) -> str:
        """Time left, by the steps since the first, or, at the end, time taken.

        >>> LearningProgress("sks", 10, step=5, began=0.0, ended=75.0).time
        'in 1:15'
        """
        if self.ended is not None:
            return f"in {_clock(self.ended - self.began)}"
        if self.first is None or self.step < 2:
            return ""
        return f"{_clock((monotonic() - self.first) / (self.step - 1) * (self.longest - self.step))} left"

    @property
    def words(self) -> str:
        """The loss, how often the name is said, the time.

        >>> LearningProgress("sks", 10, step=5, loss="1.2", said=0.5, began=0.0, ended=2.0).words
        'loss 1.2 · said in 50% · in 0:02'
        """
        said = "" if self.said is None else f"said in {self.said:.0%}"
        return " · ".join(filter(None, [f"loss {self.loss}" if self.step else "", said, self.time]))

    @property
    def line(self) -> str:
        """All of it in one line."""
        return " · ".join(filter(None, [f"{self.doing} {self.step}/{self.longest}", self.words]))


Shown: TypeAlias = "bool | Callable[[LearningProgress], None]"
"""Whether it is shown; or what shows it, called at the start, after every step and at the end. If it raises
KeyboardInterrupt, learning ends as by Ctrl-C."""


@contextmanager
def learning_progress(
    lessons: Sequence[Lesson], requests: Sequence[LearnRequest], *, shown: Shown
) -> Iterator[Report]:
    """Yield what `learn_embeddings` reports to, below captions that a model wrote; silent unless `shown`."""
    settings = max((request.settings for request in requests), key=lambda own: own.longest)
    each = zip(lessons, requests, strict=True)
    notes = [line for lesson, request in each for line in _written_captions(lesson, request)]
    state = LearningProgress(", ".join(lesson.identifier for lesson in lessons), settings.longest)

    def report(step: int, cross_entropy: float, attention: float, said: float | None = None) -> None:
        state.advance(step, f"{cross_entropy:.3f} + {settings.regularizer:g}·{attention:.4f}", said)
        draw(False)

    with _drawing(state, notes, shown) as draw:
        draw(True)
        try:
            yield report
        except BaseException:
            state.failed = True
            raise
        finally:
            state.ended = monotonic()
            draw(True)


def _drawing(state: LearningProgress, notes: Sequence[str], shown: Shown) -> Any:
    """What draws the state where this process shows things: now, or if a while has passed."""
    if callable(shown):
        return _by(shown, state)
    console = Console(stderr=True)
    if not shown:
        return _nowhere()
    if console.is_jupyter:
        return _in_notebook(state, notes)
    return _on_terminal(console, state, notes) if console.is_terminal else _in_pipe(console, state, notes)


Draw = Callable[[bool], None]


@contextmanager
def _nowhere() -> Iterator[Draw]:
    yield lambda now: None


@contextmanager
def _by(callback: Callable[[LearningProgress], None], state: LearningProgress) -> Iterator[Draw]:
    yield lambda now: callback(state)


@contextmanager
def _on_terminal(console: Console, state: LearningProgress, notes: Sequence[str]) -> Iterator[Draw]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        for note in notes:
            bar.console.print(Text(note, style="dim"))
        task = bar.add_task(state.doing, total=state.longest, words="")
        yield lambda now: bar.update(task, completed=state.step, description=state.doing, words=state.words)


@contextmanager
def _in_pipe(console: Console, state: LearningProgress, notes: Sequence[str]) -> Iterator[Draw]:
    for note in notes:
        console.print(Text(note), soft_wrap=True)
    drawn = 0.0

    def draw(now: bool) -> None:
        nonlocal drawn
        if now or monotonic() - drawn >= PIPE_PAUSE:
            console.print(Text(state.line), soft_wrap=True)
            drawn = monotonic()

    yield draw


@contextmanager
def _in_notebook(state: LearningProgress, notes: Sequence[str]) -> Iterator[Draw]:
    """By the notebook's own means, in Jupyter, VS Code and Colab: rich wants ipywidgets, which many lack."""
    from IPython.display import display

    show: Any = display  # it has no types
    handle: Any = None
    drawn = 0.0

    def draw(now: bool) -> None:
        nonlocal handle, drawn
        if not now and monotonic() - drawn < NOTEBOOK_PAUSE:
            return
        forms = {"text/html": _page(state, notes), "text/plain": "\n".join([*notes, state.line])}
        if handle is None:
            handle = show(forms, raw=True, display_id=True)
        else:
            handle.update(forms, raw=True)
        drawn = monotonic()

    yield draw


def _page(state: LearningProgress, notes: Sequence[str]) -> str:
    written = f'<pre style="white-space:pre-wrap">{escaped(chr(10).join(notes))}</pre>' if notes else ""
    bar = f'<progress value="{state.step}" max="{state.longest}" style="width:16em"></progress>'
    counted = f"{state.step}/{state.longest}"
    return Markup(
        f"{written}<div>{escaped(state.doing)} {bar} {counted} <small>{escaped(state.words)}</small></div>"
    )


def _written_captions(lesson: Lesson, request: LearnRequest) -> list[str]:
    """The captions, in lines, where the model wrote them: nobody has looked them through."""
    if lesson.captions is not None:
        return []
    lines = [f"  {one.photo.name}: {text}" for one in request.examples for text in one.captions]
    return [f"No captions of {lesson.identifier} were given; the model wrote these:", *lines]


def _clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> _clock(75.4), _clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
