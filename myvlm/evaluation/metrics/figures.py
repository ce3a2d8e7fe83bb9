"""Compute metrics from job outcomes: per job, and over the corpus of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from myvlm.boxes import iou
from myvlm.errors import MissingPackageError
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.data.outcome import JobOutcome, PictureReply
from myvlm.evaluation.metrics.text import References, bleu4, cider, identifier_to_category
from myvlm.evaluation.metrics.words import (
    content_words,
    exact_match,
    leaked_words,
    mean_or_none,
    names,
    naming,
    soft_match,
    weighted_accuracy,
)

MEANINGS = {
    "recall": "share of pictures with the subject whose caption names it",
    "said_absent": "share of pictures without it whose caption names it (control)",
    "precision": "share of captions with the name that are right",
    "f1": "harmonic mean of recall and precision",
    "head_recall": "share of pictures with the subject in which the head detects it",
    "head_rejection": "share of pictures without it in which the head does not detect it",
    "head_weighted": "mean of head_recall and head_rejection",
    "vqa": "share of answers that are exactly right",
    "vqa_soft": "word F1 of answers and correct answers",
    "leakage": "share of captions with a word from training captions that the picture's own captions lack",
    "iou": "intersection over union of the predicted and the true box",
    "clip_score": "CLIPScore, identifier replaced by the category",
    "similarity": "cosine similarity of sentences, identifier replaced by the category",
    "bleu4": "BLEU-4 of a split's captions, identifier replaced by the category",
    "cider": "CIDEr-D of a split's captions, identifier replaced by the category",
    "plain_identical": "share of plain captions unchanged by learning (control; 1 means no forgetting)",
    "learn_seconds": "seconds to learn a subject, head included",
    "calls_per_second": "pictures captioned per second",
    "memory_mib": "peak memory",
}
"""Every metric and its meaning, in the order of the tables' columns."""


def figures_of(outcome: JobOutcome, subject: Subject) -> dict[str, float]:
    """The metrics of one job; those that were not measured are left out.

    Args:
        outcome: the job's results.
        subject: the subject that was learned.
    """
    present = names([one.text for one in outcome.present], subject.identifier)
    absent = names([one.text for one in outcome.absent], subject.identifier)
    found = naming(present, absent)
    figures: dict[str, float | None] = {
        "recall": found.recall if present else None,
        "said_absent": mean_or_none(absent),
        # without pictures that lack the subject, no use of the name could be wrong
        "precision": found.precision if absent and present else None,
        "f1": found.f1 if absent and present else None,
        **_head_figures(outcome),
        "vqa": mean_or_none([exact_match(one.answer, one.truth) for one in outcome.answered]),
        "vqa_soft": mean_or_none([soft_match(one.answer, one.truth) for one in outcome.answered]),
        "leakage": _leakage(outcome, subject),
        "iou": _iou(outcome.present, subject),
        "clip_score": mean_or_none(outcome.clip_scores),
        "similarity": mean_or_none(outcome.similarities),
        "plain_identical": mean_or_none(_plain_identical(outcome)),
        "learn_seconds": outcome.learn_seconds,
        "calls_per_second": outcome.calls_per_second,
        "memory_mib": outcome.memory_mib,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _head_figures(outcome: JobOutcome) -> dict[str, float | None]:
    recall = mean_or_none([one.seen for one in outcome.present if one.seen is not None])
    rejection = mean_or_none([not one.seen for one in outcome.absent if one.seen is not None])
    both = None if recall is None or rejection is None else weighted_accuracy(recall, rejection)
    return {"head_recall": recall, "head_rejection": rejection, "head_weighted": both}


def _plain_identical(outcome: JobOutcome) -> list[bool]:
    pairs = zip(outcome.plain_before, outcome.plain_after, strict=True)
    return [before == after for before, after in pairs]


def _leakage(outcome: JobOutcome, subject: Subject) -> float | None:
    own = (subject.identifier, subject.category)
    taught = content_words(outcome.taught_captions, without=own)
    photos = _photos_by_file(subject)
    leaking = [
        bool(leaked_words(one.text, taught, content_words(photos[one.file].captions)))
        for one in outcome.present
        if photos[one.file].captions
    ]
    return mean_or_none(leaking) if taught else None


def _iou(replies: Sequence[PictureReply], subject: Subject) -> float | None:
    photos = _photos_by_file(subject)
    boxed = [(one.box, box) for one in replies if (box := photos[one.file].box)]
    if not any(found for found, _ in boxed):
        return None  # a method that located nothing gets no IoU
    return mean_or_none([iou(found, box) if found else 0.0 for found, box in boxed])


def _photos_by_file(subject: Subject) -> Mapping[object, Photo]:
    return {photo.file: photo for photo in subject.photos}


# ---------------------------------------------------------------- a corpus


Corpus = Sequence[tuple[Subject, JobOutcome]]


def corpus_figures(jobs: Corpus) -> dict[str, float]:
    """BLEU-4 and CIDEr over the captions of all subjects of a split; empty if no photo has references.

    A metric is left out if its package is not installed; see `missing_packages`.
    """
    texts, references = _texts_and_references(jobs)
    if not texts:
        return {}
    found = {}
    for name, metric in _METRICS.items():
        try:
            found[name] = metric(texts, references)
        except MissingPackageError:
            continue
    return found


def missing_packages() -> list[str]:
    """Notes for the report on metrics whose package is not installed."""
    notes = []
    for metric in _METRICS.values():
        try:
            metric(["a"], [["a"]])
        except MissingPackageError as error:
            notes.append(f"{error.what} {error.fix}")
    return notes


_METRICS: dict[str, Callable[[Sequence[str], References], float]] = {"bleu4": bleu4, "cider": cider}


def _texts_and_references(jobs: Corpus) -> tuple[list[str], list[list[str]]]:
    texts, references = [], []
    for subject, outcome in jobs:
        own, photos = (subject.identifier, subject.category), _photos_by_file(subject)
        for one in outcome.present:
            captions = photos[one.file].captions
            if captions:
                texts.append(identifier_to_category(one.text, *own))
                references.append([identifier_to_category(text, *own) for text in captions])
    return texts, references
