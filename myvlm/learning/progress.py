"""Show the progress of learning: as a bar on a terminal or in a notebook, as occasional lines in a pipe.

The output never mixes with results: it goes to the error stream, or to a separate output of the notebook
cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
"""Minimum seconds between two updates in a notebook: each is a message to the browser."""
PIPE_PAUSE = 10.0
"""Minimum seconds between two lines in a pipe or a log file."""


@dataclass
class LearningProgress:
    """The state of learning, as progress displays show it.

    Attributes:
        names: the identifiers that are learned.
        longest: maximum number of steps.
        step: number of steps taken.
        loss: the last losses, formatted.
        said: share of held-out captions that name the concept so far, if that is measured.
        began, first, ended: clock times in seconds: at the start, after the first step, at the end.
        failed: whether learning ended with an error.
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
        """Record a step."""
        if self.first is None:
            self.first = monotonic()
        self.step, self.loss, self.said = step, loss, said

    @property
    def doing(self) -> str:
        """A phrase that says what is in progress."""
        if self.ended is not None:
            return f"stopped learning {self.names}" if self.failed else f"learned {self.names}"
        return f"learning {self.names}" if self.step else f"preparing {self.names}"

    @property
    def time(self) -> str:
        """Estimated time left, from the steps since the first; once learning has ended, the time taken.

        >>> LearningProgress("sks", 10, step=5, began=0.0, ended=75.0).time
        'in 1:15'
        """
        if self.ended is not None:
            return f"in {_format_duration(self.ended - self.began)}"
        if self.first is None or self.step < 2:
            return ""
        seconds_per_step = (monotonic() - self.first) / (self.step - 1)
        return f"{_format_duration(seconds_per_step * (self.longest - self.step))} left"

    @property
    def words(self) -> str:
        """The loss, the share of captions that name the concept, and the time.

        >>> LearningProgress("sks", 10, step=5, loss="1.2", said=0.5, began=0.0, ended=2.0).words
        'loss 1.2 · named in 50% · in 0:02'
        """
        said = "" if self.said is None else f"named in {self.said:.0%}"
        return " · ".join(filter(None, [f"loss {self.loss}" if self.step else "", said, self.time]))

    @property
    def line(self) -> str:
        """Everything in one line."""
        return " · ".join(filter(None, [f"{self.doing} {self.step}/{self.longest}", self.words]))


ProgressOption: TypeAlias = "bool | Callable[[LearningProgress], None]"
"""Whether progress is shown; or a callback that shows it, called at the start, after every step and at the
end. If the callback raises KeyboardInterrupt, learning ends as with Ctrl-C."""


@contextmanager
def learning_progress(
    lessons: Sequence[Lesson], requests: Sequence[LearnRequest], *, shown: ProgressOption
) -> Iterator[Report]:
    """Show captions that the model wrote, then yield the report callback for `learn_embeddings`; silent
    unless `shown`."""
    settings = max((request.settings for request in requests), key=lambda own: own.longest)
    each = zip(lessons, requests, strict=True)
    notes = [line for lesson, request in each for line in _generated_caption_lines(lesson, request)]
    state = LearningProgress(", ".join(lesson.identifier for lesson in lessons), settings.longest)

    def report(step: int, cross_entropy: float, attention: float, said: float | None = None) -> None:
        state.advance(step, f"{cross_entropy:.3f} + {settings.regularizer:g}·{attention:.4f}", said)
        draw(False)

    with _progress_display(state, notes, shown) as draw:
        draw(True)
        try:
            yield report
        except BaseException:
            state.failed = True
            raise
        finally:
            state.ended = monotonic()
            with suppress(KeyboardInterrupt):  # a callback that asks to stop: nothing is left to be stopped
                draw(True)


def _progress_display(state: LearningProgress, notes: Sequence[str], shown: ProgressOption) -> Any:
    """The context manager that shows the state in this process. It yields a function that draws at once if
    its argument is true, else only if enough time has passed."""
    if callable(shown):
        return _by_callback(shown, state)
    console = Console(stderr=True)
    if not shown:
        return _hidden()
    if console.is_jupyter:
        return _in_notebook(state, notes)
    return _on_terminal(console, state, notes) if console.is_terminal else _in_pipe(console, state, notes)


Draw = Callable[[bool], None]


@contextmanager
def _hidden() -> Iterator[Draw]:
    yield lambda now: None


@contextmanager
def _by_callback(callback: Callable[[LearningProgress], None], state: LearningProgress) -> Iterator[Draw]:
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
    """Draw through IPython, in Jupyter, VS Code and Colab: rich needs ipywidgets, which are often missing."""
    from IPython.display import display

    show: Any = display  # untyped
    handle: Any = None
    drawn = 0.0

    def draw(now: bool) -> None:
        nonlocal handle, drawn
        if not now and monotonic() - drawn < NOTEBOOK_PAUSE:
            return
        forms = {"text/html": _notebook_html(state, notes), "text/plain": "\n".join([*notes, state.line])}
        if handle is None:
            handle = show(forms, raw=True, display_id=True)
        else:
            handle.update(forms, raw=True)
        drawn = monotonic()

    yield draw


def _notebook_html(state: LearningProgress, notes: Sequence[str]) -> str:
    written = f'<pre style="white-space:pre-wrap">{escaped(chr(10).join(notes))}</pre>' if notes else ""
    bar = f'<progress value="{state.step}" max="{state.longest}" style="width:16em"></progress>'
    counted = f"{state.step}/{state.longest}"
    return Markup(
        f"{written}<div>{escaped(state.doing)} {bar} {counted} <small>{escaped(state.words)}</small></div>"
    )


def _generated_caption_lines(lesson: Lesson, request: LearnRequest) -> list[str]:
    """Lines with the captions that the model wrote, for the user to check; none if the user gave captions."""
    if lesson.captions is not None:
        return []
    lines = [f"  {one.photo.name}: {text}" for one in request.examples for text in one.captions]
    return [f"No captions were given for {lesson.identifier}; the model wrote these:", *lines]


def _format_duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, and hours if there are any.

    >>> _format_duration(75.4), _format_duration(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
