"""Run one job: learn a subject with a method, caption unseen pictures, and measure the result."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from myvlm.boxes import Box
from myvlm.evaluation.data.dataset import Photo, Question, Subject
from myvlm.evaluation.data.outcome import Answered, JobOutcome, PictureReply
from myvlm.evaluation.data.plan import Job
from myvlm.evaluation.data.splits import Split, draw_split
from myvlm.evaluation.methods.personalized import PersonalSpeaker
from myvlm.evaluation.metrics.pictures import clip_scores
from myvlm.evaluation.metrics.text import (
    identifier_to_category,
    sentence_similarity,
)
from myvlm.evaluation.protocol.bench import Bench
from myvlm.evaluation.protocol.pictures import model_with_concept, show
from myvlm.images import load_images

FORGETTING_PICTURES = 4
"""Number of pictures whose plain captions are compared before and after learning."""


def run_job(bench: Bench, job: Job) -> JobOutcome:
    """Learn the job's subject, generate replies and measure them.

    Raises:
        InputError: the method does not work with this model or subject.
    """
    plan = bench.plan
    subject = next(one for one in bench.dataset.subjects if one.name == job.subject)
    split = draw_split(
        bench.dataset, subject, job.split, photos=max(plan.photos),
        most_tests=plan.most_tests, most_absent=plan.most_absent,
    )  # fmt: skip
    train = [_training_photo(photo, job.variant.captions) for photo in split.train[: job.photos]]
    # a method never gets the pictures it is tested on
    known = subject.model_copy(update={"photos": tuple(train), "negatives": ()})
    files = [photo.file for photo in split.validation]
    before = bench.plain(files[:FORGETTING_PICTURES])
    _reset_peak_memory()
    started = time.perf_counter()
    speaker = bench.method(job).teach(bench.vlm, known, train, seed=job.split)
    learn_seconds = time.perf_counter() - started
    started = time.perf_counter()
    present = _replies(speaker, subject, files)
    calls_per_second = len(files) / max(time.perf_counter() - started, 1e-9)
    present = _with_boxes(speaker, subject, split.validation, present) if plan.boxes else present
    absent = _replies(speaker, subject, list(split.absent))
    return JobOutcome(
        taught=tuple(photo.file for photo in train),
        taught_captions=tuple(text for photo in split.train[: job.photos] for text in photo.captions),
        present=present,
        absent=absent,
        answered=_ask_questions(speaker, split, plan.most_questions),
        plain_before=tuple(before),
        plain_after=tuple(bench.new_plain_captions(files[:FORGETTING_PICTURES])),
        clip_scores=_clip_scores(bench, subject, present),
        similarities=_similarities(bench, subject, split.validation, present),
        learn_seconds=learn_seconds,
        calls_per_second=calls_per_second,
        memory_mib=_peak_mib(),
        shown=show(bench, job, speaker, subject, (*present, *absent), len(present)),
    )


def _training_photo(photo: Photo, captions: str) -> Photo:
    return photo.model_copy(update={"captions": ()}) if captions == "model" else photo


def _replies(speaker: PersonalSpeaker, subject: Subject, files: Sequence[Path]) -> tuple[PictureReply, ...]:
    if not files:
        return ()
    texts = speaker.caption(files)
    seen = _detected(speaker, subject, files)
    return tuple(PictureReply(file=f, text=t, seen=s) for f, t, s in zip(files, texts, seen, strict=True))


def _detected(speaker: PersonalSpeaker, subject: Subject, files: Sequence[Path]) -> list[bool | None]:
    """Whether the head detects the subject in each picture; None for a speaker without its concept."""
    vlm = model_with_concept(speaker, subject.identifier)
    if vlm is None:
        return [None] * len(files)
    found = vlm.concepts.recognise(load_images(list(files)))
    return [any(d.identifier == subject.identifier for d in one.present) for one in found]


def _with_boxes(
    speaker: PersonalSpeaker, subject: Subject, photos: Sequence[Photo], replies: tuple[PictureReply, ...]
) -> tuple[PictureReply, ...]:
    vlm = model_with_concept(speaker, subject.identifier, needs_embedding=True)
    if vlm is None:
        return replies

    def box(photo: Photo) -> Box | None:
        return vlm.locate(photo.file, subject.identifier).box if photo.box else None

    pairs = zip(replies, photos, strict=True)
    return tuple(one.model_copy(update={"box": box(photo)}) for one, photo in pairs)


# ---------------------------------------------------------------- questions


def _ask_questions(speaker: PersonalSpeaker, split: Split, most: int) -> tuple[Answered, ...]:
    """Ask the photos' questions: the first of each photo, then the second …; equal questions in one batch."""
    asked = [
        (photo.file, photo.questions[turn])
        for turn in range(max((len(photo.questions) for photo in split.validation), default=0))
        for photo in split.validation
        if turn < len(photo.questions)
    ][:most]
    by_words: dict[str, list[tuple[Path, Question]]] = {}
    for file, question in asked:
        by_words.setdefault(question_prompt(question), []).append((file, question))
    return tuple(
        Answered(file=file, question=question.question, answer=answer, truth=question.answer)
        for words, group in by_words.items()
        for (file, question), answer in zip(group, _answers_to_group(speaker, words, group), strict=True)
    )


def _answers_to_group(
    speaker: PersonalSpeaker, words: str, group: Sequence[tuple[Path, Question]]
) -> list[str]:
    from myvlm.evaluation.metrics.words import selected_option

    replies = speaker.ask([file for file, _ in group], words)
    pairs = zip(replies, group, strict=True)
    return [
        selected_option(text, question.options) if question.options else text for text, (_, question) in pairs
    ]


def question_prompt(question: Question) -> str:
    """The prompt of a question: its text, followed by lettered options if it has any.

    >>> question_prompt(Question(question="Is sks red?", answer="Yes", options=("Yes", "No")))
    'Is sks red? A. Yes B. No. Answer with the letter.'
    """
    if not question.options:
        return question.question
    options = " ".join(f"{chr(ord('A') + number)}. {text}" for number, text in enumerate(question.options))
    return f"{question.question} {options}. Answer with the letter."


# ---------------------------------------------------------------- instruments


def _clip_scores(bench: Bench, subject: Subject, replies: Sequence[PictureReply]) -> tuple[float, ...]:
    if bench.plan.clip is None or not replies:
        return ()
    texts = [identifier_to_category(one.text, subject.identifier, subject.category) for one in replies]
    device = str(bench.vlm.backbone.device)
    return tuple(clip_scores([one.file for one in replies], texts, encoder=bench.plan.clip, device=device))


def _similarities(
    bench: Bench, subject: Subject, photos: Sequence[Photo], replies: Sequence[PictureReply]
) -> tuple[float, ...]:
    pairs = [(one.text, photo.captions) for one, photo in zip(replies, photos, strict=True) if photo.captions]
    encoder = bench.sentences() if pairs else None
    if encoder is None:
        return ()
    own = (subject.identifier, subject.category)
    texts = [identifier_to_category(text, *own) for text, _ in pairs]
    references = [[identifier_to_category(one, *own) for one in captions] for _, captions in pairs]
    return tuple(sentence_similarity(encoder, texts, references))


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_mib() -> float | None:
    """Peak GPU memory since `_reset_peak_memory`; without a GPU, that of the process since its start.

    None without a GPU on Windows, which does not have the module.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
