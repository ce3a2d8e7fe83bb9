"""The plan of an evaluation (methods, splits, numbers of photos, variants), and the jobs it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Dataset, ImmutableRecord
from myvlm.files.reading import read_text
from myvlm.learning import LearnSettings

OWN_AXES = ("photos", "captions")
"""Axes of a sweep that are not learning settings: number of photos, and captions (`written` or `model`)."""
DEFAULT = "default"


class Variant(ImmutableRecord):
    """One row of the ablation table.

    Attributes:
        name: `axis=value`, or `default`.
        settings: changes to `LearnSettings`.
        photos: number of training photos; by default the plan's largest.
        captions: training captions: `written` ones of the data set, or those the frozen `model` generates.
    """

    name: str = DEFAULT
    settings: dict[str, Any] = Field(default_factory=dict)
    photos: int | None = Field(default=None, ge=1)
    captions: str = "written"


class Plan(ImmutableRecord):
    """What to run on every subject.

    Attributes:
        methods: names of methods, each run with the largest number of photos.
        splits: number of bootstrap splits, with seeds 0, 1, …
        photos: numbers of training photos; all but the largest are run with the first method only.
        variants: rows of the ablation table, run with the first method.
        variant_splits: number of splits to run the variants on; all if None.
        most_tests: maximum number of validation photos per split.
        most_absent: maximum number of pictures without the subject.
        most_questions: maximum number of questions per split.
        clip: open_clip model for CLIPScore; None to skip it.
        sentences: sentence-transformers model for sentence similarity; None to skip it.
        boxes: whether to locate the subject in photos whose box is known.
        shown: maximum number of successes, and of failures, per subject in the report.
    """

    methods: tuple[str, ...] = Field(default=("myvlm", "plain"), min_length=1)
    splits: int = Field(default=5, ge=1)
    photos: tuple[int, ...] = Field(default=(4,), min_length=1)
    variants: tuple[Variant, ...] = ()
    variant_splits: int | None = None
    most_tests: int | None = Field(default=None, ge=1)
    most_absent: int = Field(default=20, ge=0)
    most_questions: int = Field(default=20, ge=0)
    clip: str | None = None
    sentences: str | None = None
    boxes: bool = True
    shown: int = Field(default=2, ge=0)

    @property
    def fixed_fields(self) -> dict[str, Any]:
        """The fields that must be unchanged to resume an earlier run; the others only add jobs."""
        grows = {"methods", "splits", "photos", "variants", "variant_splits"}
        return self.model_dump(exclude=grows)


class Job(ImmutableRecord):
    """One run of one method: learn a subject from one split, and test it."""

    subject: str
    split: int
    method: str
    photos: int
    variant: Variant = Variant()

    @property
    def key(self) -> tuple[str, int, str, int, str]:
        """Unique key of the job in its plan."""
        return self.subject, self.split, self.method, self.photos, self.variant.name

    @property
    def group(self) -> tuple[str, int]:
        """Jobs of the same group can share learned concepts and heads."""
        return self.subject, self.split


def jobs_of(plan: Plan, dataset: Dataset) -> Iterator[Job]:
    """All jobs of a plan; those that can share learned concepts are consecutive.

    >>> from myvlm.evaluation.data.dataset import Photo, Subject
    >>> photos = (Photo(file=Path("1.jpg")), Photo(file=Path("2.jpg")))
    >>> mug = Dataset(subjects=(Subject(identifier="sks", category="mug", photos=photos),))
    >>> [(j.split, j.method, j.photos) for j in jobs_of(Plan(splits=1, photos=(1, 2, 4)), mug)]
    [(0, 'myvlm', 4), (0, 'plain', 4), (0, 'myvlm', 1), (0, 'myvlm', 2)]
    """
    most = max(plan.photos)
    varied = plan.splits if plan.variant_splits is None else plan.variant_splits
    for subject in dataset.subjects:
        for split in range(plan.splits):
            for method in plan.methods:
                yield Job(subject=subject.name, split=split, method=method, photos=most)
            for count in sorted(set(plan.photos) - {most}):
                yield Job(subject=subject.name, split=split, method=plan.methods[0], photos=count)
            for variant in plan.variants if split < varied else ():
                yield Job(
                    subject=subject.name, split=split, method=plan.methods[0],
                    photos=variant.photos or most, variant=variant,
                )  # fmt: skip


# ---------------------------------------------------------------- sweeps


def read_sweep(words: Sequence[str] = (), file: Path | None = None) -> tuple[Variant, ...]:
    """Read the variants of a sweep: each changes one axis and keeps the defaults of all others.

    Args:
        words: axes as on the command line, such as `regularizer=0,0.03`.
        file: the same in YAML: `regularizer: [0, 0.03]`.

    Raises:
        InputError: an axis or value is invalid; the error lists all axes.

    >>> [v.name for v in read_sweep(["rows=1,4", "augment=false"])]
    ['rows=1', 'rows=4', 'augment=false']
    """
    axes: dict[str, Any] = dict(_read_yaml(file)) if file else {}
    for word in words:
        axis, equals, values = word.partition("=")
        axes[axis.strip()] = [yaml.safe_load(one) for one in values.split(",")] if equals else None
    return tuple(
        _variant(axis, value)
        for axis, values in axes.items()
        for value in (values if isinstance(values, list) else [values])
    )


def _variant(axis: str, value: Any) -> Variant:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    name = f"{axis}={shown}"
    try:
        if axis == "photos":
            return Variant(name=name, photos=value)
        if axis == "captions" and value in ("written", "model"):
            return Variant(name=name, captions=value)
        if axis in LearnSettings.model_fields and axis != "seed":
            LearnSettings.model_validate({axis: value})
            return Variant(name=name, settings={axis: value})
    except ValidationError as error:
        raise _invalid_variant(name, error.errors()[0]["msg"]) from error
    raise _invalid_variant(name, "unknown axis or value")


def _invalid_variant(name: str, why: str) -> InputError:
    axes = [*OWN_AXES, *(field for field in LearnSettings.model_fields if field != "seed")]
    return InputError(
        f"The sweep {name!r} is invalid.",
        got=why,
        expected=f"AXIS=VALUE,VALUE… with an axis among {', '.join(axes)}",
        fix="use written or model for captions; see LearnSettings for the others",
    )


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        parsed = yaml.safe_load(read_text(file))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(
            f"The sweep {file} cannot be read.",
            got=f"{type(error).__name__}: {error}",
            expected="YAML such as\n              regularizer: [0, 0.03]",
            fix="check the path and the YAML",
        ) from error
    if not isinstance(parsed, dict):
        raise InputError(
            f"The sweep {file} contains no axes.",
            got=type(parsed).__name__,
            expected="YAML such as\n              regularizer: [0, 0.03]",
            fix="write one axis per line",
        )
    return parsed
