"""A bar for learning: losses and time left, on the terminal's error stream or in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from myvlm.learning import LearnSettings
from myvlm.learning.optimise import Report


@contextmanager
def learning_progress(
    identifier: str, settings: LearnSettings, *, shown: bool, notes: Sequence[str] = ()
) -> Iterator[Report]:
    """Yield what `learn_embedding` reports to, below some lines of notes; silent unless `shown`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        for note in notes if shown else ():
            bar.console.print(Text(note, style="dim"))
        task = bar.add_task(f"looking at {identifier}", total=settings.longest, loss="–")

        def report(step: int, cross_entropy: float, attention: float) -> None:
            loss = f"{cross_entropy:.3f} + {settings.regularizer:g}·{attention:.4f}"
            bar.update(task, completed=step, description=f"learning {identifier}", loss=loss)

        yield report
