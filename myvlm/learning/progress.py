"""The bar that is shown while concepts are learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.optimise import Report
from myvlm.learning.request import Lesson


@contextmanager
def learning_progress(
    lessons: Sequence[Lesson], requests: Sequence[LearnRequest], *, shown: bool
) -> Iterator[Report]:
    """Yield what `learn_embeddings` reports to, below captions that a model wrote; silent unless `shown`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    names = ", ".join(lesson.identifier for lesson in lessons)
    settings = max((request.settings for request in requests), key=lambda own: own.longest)
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        for lesson, request in zip(lessons, requests, strict=True):
            for line in _written_captions(lesson, request) if shown else ():
                bar.console.print(Text(line, style="dim"))
        task = bar.add_task(f"looking at {names}", total=settings.longest, loss="–")

        def report(step: int, cross_entropy: float, attention: float) -> None:
            loss = f"{cross_entropy:.3f} + {settings.regularizer:g}·{attention:.4f}"
            bar.update(task, completed=step, description=f"learning {names}", loss=loss)

        yield report


def _written_captions(lesson: Lesson, request: LearnRequest) -> list[str]:
    """The captions, in lines, where the model wrote them: nobody has looked them through."""
    if lesson.captions is not None:
        return []
    said = [f"  {one.photo.name}: {text}" for one in request.examples for text in one.captions]
    return [f"No captions of {lesson.identifier} were given; the model wrote these:", *said]
