"""The bar that is shown while concepts are learned, on the terminal's error stream or in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.dataset import Lesson
from myvlm.learning.optimise import Report

IN_NOTEBOOK = 100
"""Characters of a line in a notebook."""
PAUSE = 0.25
"""Seconds between two drawings in a notebook: each is a message to the browser."""


@contextmanager
def learning_progress(
    lessons: Sequence[Lesson], requests: Sequence[LearnRequest], *, shown: bool
) -> Iterator[Report]:
    """Yield what `learn_embeddings` reports to, below captions that a model wrote; silent unless `shown`.

    In a notebook it is drawn by the notebook's own means: rich wants ipywidgets there, which many have not.
    """
    terminal = Console(stderr=True)
    in_notebook = shown and terminal.is_jupyter
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    names = ", ".join(lesson.identifier for lesson in lessons)
    settings = max((request.settings for request in requests), key=lambda own: own.longest)
    each = zip(lessons, requests, strict=True)
    notes = [line for lesson, request in each for line in _written_captions(lesson, request)]
    bar = Progress(*columns, console=terminal, disable=not shown or in_notebook)
    draw = _in_notebook(bar, notes) if in_notebook else _nothing
    with bar:
        for note in notes if shown and not in_notebook else ():
            bar.console.print(Text(note, style="dim"))
        task = bar.add_task(f"looking at {names}", total=settings.longest, loss="–")
        draw(True)

        def report(step: int, cross_entropy: float, attention: float) -> None:
            loss = f"{cross_entropy:.3f} + {settings.regularizer:g}·{attention:.4f}"
            bar.update(task, completed=step, description=f"learning {names}", loss=loss)
            draw(False)

        try:
            yield report
        finally:
            draw(True)


def _written_captions(lesson: Lesson, request: LearnRequest) -> list[str]:
    """The captions, in lines, where the model wrote them: nobody has looked them through."""
    if lesson.captions is not None:
        return []
    said = [f"  {one.photo.name}: {text}" for one in request.examples for text in one.captions]
    return [f"No captions of {lesson.identifier} were given; the model wrote these:", *said]


def _nothing(now: bool) -> None:
    """What draws where the bar draws itself."""


def _in_notebook(bar: Progress, notes: Sequence[str]) -> Callable[[bool], None]:
    """What draws a bar, below the notes, in a notebook's output: now, or if a while has passed."""
    from IPython.display import display

    show: Any = display  # it has no types

    handle: Any = None
    drawn = 0.0

    def draw(now: bool) -> None:
        nonlocal handle, drawn
        if not now and monotonic() - drawn < PAUSE:
            return
        console = Console(file=io.StringIO(), width=IN_NOTEBOOK, force_jupyter=False, force_terminal=False)
        with console.capture() as captured:
            console.print(bar.get_renderable())
        lines = "\n".join([*notes, captured.get().rstrip()])
        page = f'<pre style="white-space:pre-wrap;line-height:normal">{html.escape(lines)}</pre>'
        forms = {"text/html": page, "text/plain": lines}
        if handle is None:
            handle = show(forms, raw=True, display_id=True)
        else:
            handle.update(forms, raw=True)
        drawn = monotonic()

    return draw
