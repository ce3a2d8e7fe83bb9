"""Tables of metrics with intervals by method, number of photos and variant; for all, objects and people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from myvlm.evaluation.data.dataset import Dataset, Subject
from myvlm.evaluation.data.outcome import JobOutcome
from myvlm.evaluation.data.plan import DEFAULT, Job, Plan
from myvlm.evaluation.metrics.figures import MEANINGS, corpus_figures, figures_of
from myvlm.evaluation.metrics.intervals import Estimate, estimate

KINDS = {"all": ("object", "face"), "objects": ("object",), "people": ("face",)}


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        label: text of the first column.
        job: method, number of photos and variant of the jobs in the row.
        kind: subjects in the row: `all`, `objects` or `people`.
        figures: metric → its estimate; metrics that were not measured are missing.
    """

    label: str
    job: tuple[str, int, str]
    kind: str
    figures: Mapping[str, Estimate]


@dataclass(frozen=True)
class Table:
    """Rows under a title; its columns are the metrics that any row has."""

    title: str
    first: str
    rows: Sequence[TableRow]

    @property
    def columns(self) -> list[str]:
        return [name for name in MEANINGS if any(name in row.figures for row in self.rows)]


Finished = Sequence[tuple[Job, JobOutcome]]


def tables_of(dataset: Dataset, plan: Plan, finished: Finished) -> list[Table]:
    """The tables of an evaluation: methods, and numbers of photos and ablation if the plan varies them.

    Args:
        dataset: the data set that was evaluated on.
        plan: the plan that was run.
        finished: all its jobs with their outcomes.
    """
    most = max(plan.photos)
    kinds = [kind for kind, own in KINDS.items() if kind == "all" or _both_kinds(dataset, own)]
    first = plan.methods[0]
    methods = [
        _row(dataset, finished, (method, most, DEFAULT), kind, _label(method, kind))
        for kind in kinds
        for method in plan.methods
    ]
    counts = sorted(set(plan.photos))
    photos = [
        _row(dataset, finished, (first, count, DEFAULT), kind, _label(str(count), kind))
        for kind in kinds
        for count in counts
    ]
    # the default row uses the same splits as the variants, so that they can be compared
    varied = [(j, o) for j, o in finished if plan.variant_splits is None or j.split < plan.variant_splits]
    variants = [_row(dataset, varied, (first, most, DEFAULT), "all", DEFAULT)] + [
        _row(dataset, varied, (first, v.photos or most, v.name), "all", v.name) for v in plan.variants
    ]
    return [
        Table(f"Methods, {most} photos", "method", methods),
        *([Table(f"Training photos, {first}", "photos", photos)] if len(counts) > 1 else []),
        *([Table(f"Ablation, {first}", "variant", variants)] if plan.variants else []),
    ]


def _label(name: str, kind: str) -> str:
    return name if kind == "all" else f"{name}, {kind}"


def _both_kinds(dataset: Dataset, kinds: Sequence[str]) -> bool:
    own = sum(subject.kind in kinds for subject in dataset.subjects)
    return 0 < own < len(dataset.subjects)


def _row(
    dataset: Dataset, finished: Finished, which: tuple[str, int, str], kind: str, label: str
) -> TableRow:
    subjects = {subject.name: subject for subject in dataset.subjects if subject.kind in KINDS[kind]}
    own = [
        (job, subjects[job.subject], outcome)
        for job, outcome in finished
        if job.subject in subjects and (job.method, job.photos, job.variant.name) == which
    ]
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    corpora: dict[int, list[tuple[Subject, JobOutcome]]] = defaultdict(list)
    for job, subject, outcome in own:
        corpora[job.split].append((subject, outcome))
        for name, value in figures_of(outcome, subject).items():
            values[name][subject.name].append(value)
    for split, jobs in corpora.items():
        for name, value in corpus_figures(jobs).items():
            values[name][f"split {split}"].append(value)
    return TableRow(label, which, kind, {name: estimate(by_subject) for name, by_subject in values.items()})
