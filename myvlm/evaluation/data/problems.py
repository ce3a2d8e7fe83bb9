"""Collect all problems of a data set, to report them in one error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from myvlm.errors import InputError


@dataclass
class Problems:
    """The problems found while reading a data set.

    Args:
        source: the file or folder being read; the error names it.

    >>> problems = Problems(Path("MyVLM"))
    >>> problems.add("mug/captions.json: 2.jpg", "no such photo")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    myvlm.errors.InputError: The data set MyVLM has 1 problem.
      got:      mug/captions.json: 2.jpg: no such photo
      expected: one of the three layouts described in myvlm.evaluation.data.dataset
      fix:      correct each problem above; nothing was run
    """

    source: Path
    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Add one problem; `where` is a file and a key in it."""
        self.found.append(f"{where}: {what}")

    def raise_if_any(self) -> None:
        """Raise one InputError that lists all problems in the order they were found, if there are any."""
        if self.found:
            count = len(self.found)
            raise InputError(
                f"The data set {self.source} has {count} problem{'s' if count > 1 else ''}.",
                got="\n            ".join(self.found),
                expected="one of the three layouts described in myvlm.evaluation.data.dataset",
                fix="correct each problem above; nothing was run",
            )
