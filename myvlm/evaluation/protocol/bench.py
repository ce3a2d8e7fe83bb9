"""What the jobs of one process share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from myvlm.api import MyVLM
from myvlm.evaluation.data.dataset import Dataset
from myvlm.evaluation.data.plan import Job, Plan
from myvlm.evaluation.methods.personalized import Teaching
from myvlm.evaluation.methods.registry import Method, Setting, make_method
from myvlm.evaluation.metrics.text import SentenceEncoder, load_sentence_encoder


@dataclass(eq=False)
class Bench:
    """What the jobs of one process share: the frozen model, the data, the instruments.

    Args:
        vlm: its own concepts play no part.
        dataset: what is measured on.
        plan: how.
        pictures: folder for what the report shows.
        methods: made once a variant, so that a lot's jobs can share what was learned.
    """

    vlm: MyVLM
    dataset: Dataset
    plan: Plan
    pictures: Path
    methods: dict[tuple[str, str], Method] = field(default_factory=dict)
    _settings: dict[str, Setting] = field(default_factory=dict)
    _plain: dict[Path, str] = field(default_factory=dict)
    _sentences: SentenceEncoder | None = None

    def method(self, job: Job) -> Method:
        """The job's method; those of one variant have one setting in common."""
        variant = job.variant
        if variant.name not in self._settings:
            teaching = Teaching(variant.settings)
            self._settings[variant.name] = Setting(teaching=teaching, subjects=self.dataset.subjects)
        if (job.method, variant.name) not in self.methods:
            self.methods[job.method, variant.name] = make_method(job.method, self._settings[variant.name])
        return self.methods[job.method, variant.name]

    def plain(self, files: Sequence[Path]) -> list[str]:
        """The frozen model's own captions, said once a process."""
        new = [file for file in dict.fromkeys(files) if file not in self._plain]
        self._plain |= dict(zip(new, self.plain_anew(new), strict=True))
        return [self._plain[file] for file in files]

    def plain_anew(self, files: Sequence[Path]) -> list[str]:
        """The same, said now."""
        with self.vlm.generic():
            return [reply.text for reply in self.vlm.caption(list(files))] if files else []

    def sentences(self) -> SentenceEncoder | None:
        if self.plan.sentences and self._sentences is None:
            self._sentences = load_sentence_encoder(self.plan.sentences)
        return self._sentences
