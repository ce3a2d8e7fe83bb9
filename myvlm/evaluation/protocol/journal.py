"""The journal of an evaluation: one JSON line per finished job, so that a killed run can be resumed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Dataset
from myvlm.evaluation.data.outcome import JobOutcome
from myvlm.evaluation.data.plan import Job, Plan
from myvlm.files.lines import add_lines, complete_lines, drop_partial_line, write_lines

FORMAT = 1


class JobJournal:
    """Finished jobs in a folder; each is written as soon as it is done.

    Args:
        folder: contains `runs.jsonl` and `pictures/`; created if it does not exist.
        dataset, plan, backbone: what is evaluated; a journal of anything else is refused.

    Raises:
        InputError: the folder has the journal of another evaluation, or its `runs.jsonl` is no journal.

    >>> import tempfile
    >>> from myvlm.evaluation.data.dataset import Photo, Subject
    >>> photos = (Photo(file=Path("1.jpg")), Photo(file=Path("2.jpg")))
    >>> mug = Dataset(subjects=(Subject(identifier="sks", category="mug", photos=photos),))
    >>> journal = JobJournal(Path(tempfile.mkdtemp()), mug, Plan(), "tinyworld/llava")
    >>> job = Job(subject="sks", split=0, method="myvlm", photos=4)
    >>> journal.add(job, JobOutcome(taught=(), taught_captions=(), present=(), absent=()))
    >>> job.key in JobJournal(journal.folder, mug, Plan(), "tinyworld/llava").done
    True
    """

    def __init__(self, folder: Path, dataset: Dataset, plan: Plan, backbone: str) -> None:
        self.folder = folder
        self.file = folder / "runs.jsonl"
        self.pictures = folder / "pictures"
        self.done: dict[tuple[str, int, str, int, str], tuple[Job, JobOutcome]] = {}
        about = _header(dataset, plan, backbone)
        if lines := complete_lines(self.file):
            self._check_header(lines[0], about)
            self._read(lines[1:])
            drop_partial_line(self.file)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_lines(self.file, [about])

    def add(self, job: Job, outcome: JobOutcome) -> None:
        """Write a finished job."""
        add_lines(
            self.file, [{"job": job.model_dump(mode="json"), "outcome": outcome.model_dump(mode="json")}]
        )
        self.done[job.key] = job, outcome

    def _read(self, lines: list[str]) -> None:
        for number, line in enumerate(lines, start=2):
            try:
                entry = json.loads(line)
                job, outcome = Job.model_validate(entry["job"]), JobOutcome.model_validate(entry["outcome"])
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                raise self._other_evaluation(
                    f"line {number}: {type(error).__name__}", "one finished job per line"
                ) from error
            self.done[job.key] = job, outcome

    def _check_header(self, line: str, about: dict[str, Any]) -> None:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._other_evaluation(line[:60], "a header in JSON") from error
        other = sorted(key for key in about if not isinstance(found, dict) or found.get(key) != about[key])
        if other:
            key = other[0]
            was = found.get(key) if isinstance(found, dict) else found
            raise self._other_evaluation(f"{key} {was}", f"{key} {about[key]}")

    def _other_evaluation(self, got: str, expected: str) -> InputError:
        return InputError(
            f"{self.folder} contains the runs of another evaluation.",
            got=got,
            expected=expected,
            fix="choose another folder (--keep), or delete this one",
        )


def evaluation_digest(dataset: Dataset, plan: Plan, backbone: str) -> str:
    """A short digest of what is evaluated: evaluations with equal digests can share a folder."""
    return hashlib.sha256(json.dumps(_header(dataset, plan, backbone)).encode()).hexdigest()[:8]


def _header(dataset: Dataset, plan: Plan, backbone: str) -> dict[str, Any]:
    digest = hashlib.sha256(dataset.model_dump_json().encode()).hexdigest()[:16]
    fixed_fields = json.loads(json.dumps(plan.fixed_fields))
    return {"format": FORMAT, "backbone": backbone, "data": digest, **fixed_fields}
