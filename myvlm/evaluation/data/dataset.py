"""Evaluation data sets: subjects with photos, captions, questions and boxes, read from disk and validated.

Three layouts can be read:

- **the paper's**: `<subject>/*.jpg` beside `captions.json` (photo → several captions), and optionally
  `questions.json` (photo → question/answer pairs) and `subject.json` (identifier, category, kind …);
- **Yo'LLaVA's**: `train/<subject>/*.png`, `test/<subject>/*.png` and `yollava-visual-qa.json`;
- **a manifest**: one JSON file with the fields of a `Dataset`; paths are relative to the file's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from myvlm.boxes import Box
from myvlm.errors import InputError
from myvlm.evaluation.data.layouts import Draft, Location, read_layout
from myvlm.evaluation.data.problems import Problems
from myvlm.text import check_category, check_identifier, contains_word, replace_word


class ImmutableRecord(BaseModel):
    """Base of immutable models that refuse unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(ImmutableRecord):
    """A question about a photo.

    Attributes:
        question: the text; it may contain the identifier.
        answer: the correct answer; one of `options` if there are any.
        options: the answers to choose from; empty for an open question.

    >>> Question(question="What colour is sks?", answer="red").options
    ()
    """

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    options: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, given: Any) -> Any:
        if isinstance(given, list | tuple) and len(given) == 2:
            return {"question": given[0], "answer": given[1]}
        return given


class Photo(ImmutableRecord):
    """One photo of a subject.

    Attributes:
        file: the picture file.
        captions: true captions, each with the identifier; also the references of the text metrics.
        questions: questions about it.
        box: left, top, right, bottom of the subject in pixels, if known.
        part: `train` or `test` if the data set fixes it; photos without it are split at random.
    """

    file: Path
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    box: Box | None = None
    part: Literal["train", "test"] | None = None


class Subject(ImmutableRecord):
    """One object or person.

    Attributes:
        identifier: the word that captions use for it.
        category: what it is in general, such as `mug`.
        kind: kind of the head that recognises it: `object`, or `face` for a person.
        photos: two or more.
        negatives: pictures that do not show it.
        name: its name in tables, unique in the data set; the identifier by default.
    """

    identifier: str
    category: str = Field(min_length=1)
    kind: Literal["object", "face"] = "object"
    photos: tuple[Photo, ...] = Field(min_length=2)
    negatives: tuple[Path, ...] = ()
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _with_name(cls, given: Any) -> Any:
        named = isinstance(given, dict) and given.get("name")
        return (
            given if named or not isinstance(given, dict) else {**given, "name": given.get("identifier", "")}
        )

    def renamed(self, identifier: str) -> Self:
        """A copy with another identifier, which replaces the old word in captions and questions too.

        >>> photo = Photo(file=Path("1.jpg"), captions=("sks asks",))
        >>> anna = Subject(identifier="sks", category="woman", photos=(photo, photo)).renamed("Anna")
        >>> anna.photos[0].captions
        ('Anna asks',)
        """

        def substitute(text: str) -> str:
            return replace_word(text, self.identifier, identifier)

        photos = tuple(
            photo.model_copy(
                update={
                    "captions": tuple(map(substitute, photo.captions)),
                    "questions": tuple(_with_texts(question, substitute) for question in photo.questions),
                }
            )
            for photo in self.photos
        )
        return self.model_copy(update={"identifier": identifier, "photos": photos})


def _with_texts(question: Question, substitute: Any) -> Question:
    texts = {"question": substitute(question.question), "answer": substitute(question.answer)}
    return question.model_copy(update={**texts, "options": tuple(map(substitute, question.options))})


class Dataset(ImmutableRecord):
    """The subjects of a data set, with unique names."""

    subjects: tuple[Subject, ...] = Field(min_length=1)


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a data set in any of the three layouts, and validate all of it before anything runs.

    Args:
        path: the folder, or a manifest `*.json`.

    Raises:
        InputError: the data set is invalid; every problem is listed with its file and key.
        MissingFileError: the path does not exist.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> (folder / "mug").mkdir(); _ = (folder / "mug" / "captions.json").write_text('{"1.jpg": ["a mug"]}')
    >>> read_dataset(folder)
    Traceback (most recent call last):
    myvlm.errors.InputError: The data set ... has 2 problems.
      got:      mug/captions.json: 1.jpg: there is no such photo
                mug: photos: Tuple should have at least 2 items after validation, not 0
    ...
    """
    source = Path(path)
    problems = Problems(source)
    drafts = read_layout(source, problems)
    subjects: list[Subject] = []
    for draft in drafts:
        subject = _validated(draft, problems)
        if subject is None:
            continue
        if any(subject.name == other.name for other in subjects):
            problems.add(draft.where(("name",)), f"an earlier subject is also named {subject.name!r}")
        subjects.append(subject)
    problems.raise_if_any()
    return Dataset(subjects=tuple(subjects))


def _validated(draft: Draft, problems: Problems) -> Subject | None:
    """The validated subject, or None if its fields are invalid. Problems are added to `problems`."""
    try:
        subject = Subject.model_validate(draft.values)
    except ValidationError as error:
        for one in error.errors():
            problems.add(draft.where(one["loc"]), one["msg"])
        return None
    for location, what in _subject_problems(subject):
        problems.add(draft.where(location), what)
    return subject


def _subject_problems(subject: Subject) -> Iterator[tuple[Location, str]]:
    """Location and text of each problem that the types of the fields do not catch."""
    try:
        at = "identifier"
        check_identifier(subject.identifier)
        at = "category"
        check_category(subject.category)
    except InputError as error:
        yield (at,), f"{error.what} Expected: {error.expected}"
        return
    for number, photo in enumerate(subject.photos):
        yield from _photo_problems(("photos", number), photo, subject.identifier)
    for number, file in enumerate(subject.negatives):
        if not file.is_file():
            yield ("negatives", number), f"there is no file {file}"


def _photo_problems(at: Location, photo: Photo, identifier: str) -> Iterator[tuple[Location, str]]:
    if not photo.file.is_file():
        yield (*at, "file"), f"there is no file {photo.file}"
    for number, text in enumerate(photo.captions):
        if not contains_word(text, identifier):
            yield (*at, "captions", number), f"{text!r} does not contain the word {identifier!r}"
    for number, asked in enumerate(photo.questions):
        if asked.options and asked.answer not in asked.options:
            yield (
                (*at, "questions", number),
                f"the answer {asked.answer!r} is not one of {list(asked.options)}",
            )
    if photo.box and not (photo.box[0] < photo.box[2] and photo.box[1] < photo.box[3]):
        yield (*at, "box"), f"{photo.box} is not left, top, right, bottom"
