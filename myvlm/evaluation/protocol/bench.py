"""The state shared by the jobs of one process."""

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
    """The frozen model, data set, methods and metric models shared by the jobs of one process.

    Args:
        vlm: the frozen model; its own concepts are ignored.
        dataset: the data set to evaluate on.
        plan: the plan to run.
        pictures: folder for the report's pictures.
        methods: (method, variant) → the method, made once so that its jobs share learned concepts.
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
        """The job's method; methods of one variant share one setting."""
        variant = job.variant
        if variant.name not in self._settings:
            teaching = Teaching(variant.settings)
            self._settings[variant.name] = Setting(teaching=teaching, subjects=self.dataset.subjects)
        if (job.method, variant.name) not in self.methods:
            self.methods[job.method, variant.name] = make_method(job.method, self._settings[variant.name])
        return self.methods[job.method, variant.name]

    def plain(self, files: Sequence[Path]) -> list[str]:
        """The frozen model's captions, cached for the life of the process."""
        new = [file for file in dict.fromkeys(files) if file not in self._plain]
        self._plain |= dict(zip(new, self.new_plain_captions(new), strict=True))
        return [self._plain[file] for file in files]

    def new_plain_captions(self, files: Sequence[Path]) -> list[str]:
        """The frozen model's captions, generated anew."""
        with self.vlm.generic():
            return [reply.text for reply in self.vlm.caption(list(files))] if files else []

    def sentences(self) -> SentenceEncoder | None:
        if self.plan.sentences and self._sentences is None:
            self._sentences = load_sentence_encoder(self.plan.sentences)
        return self._sentences
