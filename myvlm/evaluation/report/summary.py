"""The result of an evaluation, and its Markdown report; `page` renders it as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myvlm.evaluation.data.dataset import Dataset
from myvlm.evaluation.data.outcome import JobOutcome, MarkedPicture
from myvlm.evaluation.data.plan import Job, Plan
from myvlm.evaluation.metrics.figures import MEANINGS, missing_packages
from myvlm.evaluation.report.tables import Table, tables_of


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        data: name of the data set.
        backbone: name of the frozen model.
        dataset, plan: the data set and the plan that was run.
        tables: see `tables_of`.
        shown: pairs of a subject's name and a picture of it for the report.
        pictures: folder of these pictures.
        notes: metrics that were not measured, with the reason, and models that metrics used.
    """

    data: str
    backbone: str
    dataset: Dataset
    plan: Plan
    tables: Sequence[Table]
    shown: Sequence[tuple[str, MarkedPicture]]
    pictures: Path
    notes: Sequence[str]

    @property
    def heading(self) -> str:
        """Summary of model, data and protocol."""
        subjects, splits = len(self.dataset.subjects), self.plan.splits
        return (
            f"{self.backbone} on {self.data}: {subjects} subject{'s' * (subjects > 1)}, "
            f"{splits} bootstrap split{'s' * (splits > 1)} of {max(self.plan.photos)} training photos. "
            "Means with 95 % intervals, resampled over subjects and their splits."
        )

    def as_document(self) -> dict[str, Any]:
        """The tables and the plan as JSON-compatible values."""
        return {
            "data": self.data,
            "backbone": self.backbone,
            "plan": self.plan.model_dump(mode="json"),
            "tables": [
                {
                    "title": table.title,
                    "rows": [
                        {
                            table.first: row.label,
                            **{name: [one.mean, one.low, one.high] for name, one in row.figures.items()},
                        }
                        for row in table.rows
                    ],
                }
                for table in self.tables
            ],
            "notes": list(self.notes),
        }


def evaluation_of(
    dataset: Dataset,
    plan: Plan,
    finished: Sequence[tuple[Job, JobOutcome]],
    *,
    data: str,
    backbone: str,
    pictures: Path,
) -> Evaluation:
    """Build an `Evaluation` from the finished jobs that `run` returned."""
    shown = [(job.subject, one) for job, outcome in finished for one in outcome.shown]
    notes = missing_packages()
    for name, wanted, option in (
        ("CLIPScore", plan.clip, "--clip"),
        ("Sentence similarity", plan.sentences, "--sentences"),
    ):
        if wanted is None:
            notes.append(f"{name} was not measured; choose a model with {option}.")
        else:
            notes.append(f"{name} was measured with {wanted}.")
    tables = tables_of(dataset, plan, finished)
    return Evaluation(data, backbone, dataset, plan, tables, shown, pictures, notes)


def markdown(evaluation: Evaluation) -> str:
    """The tables in Markdown, with the meaning of each metric."""
    parts = ["# Evaluation of the concepts", evaluation.heading]
    for table in evaluation.tables:
        head = [table.first, *table.columns]
        lines = [_line(head), _line(["---"] * len(head))]
        lines += [
            _line([row.label, *(str(row.figures.get(name, "–")) for name in table.columns)])
            for row in table.rows
        ]
        parts += [f"## {table.title}", "\n".join(lines)]
    parts.append("\n".join(f"- `{name}`: {MEANINGS[name]}" for name in used_metrics(evaluation)))
    parts += evaluation.notes
    return "\n\n".join(parts) + "\n"


def used_metrics(evaluation: Evaluation) -> list[str]:
    """Names of the metrics that occur in any table."""
    return [name for name in MEANINGS if any(name in table.columns for table in evaluation.tables)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
