"""What is measured on: subjects with photos, captions, questions and boxes, read from disk and checked whole.

Three layouts are read, and become the same thing:

- **the paper's**: `<subject>/*.jpg` beside `captions.json` (photo → several captions), and where there are
  any `questions.json` (photo → question/answer pairs) and `subject.json` (identifier, category, kind …);
- **Yo'LLaVA's**: `train/<subject>/*.png`, `test/<subject>/*.png` and `yollava-visual-qa.json`;
- **a manifest**: one JSON file that holds what a `Dataset` holds, its paths relative to its own folder.
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


class Frozen(BaseModel):
    """A value that is checked once and never changes; what it does not know it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Frozen):
    """A question about a photo.

    Attributes:
        question: it may hold the identifier.
        answer: the right one; where there are options, one of them.
        options: the answers to choose among; empty where the question is open.

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


class Photo(Frozen):
    """One photo of a subject.

    Attributes:
        file: the picture.
        captions: texts that are true of it, each with the identifier; references of the text metrics too.
        questions: what can be asked about it.
        box: left, top, right, bottom of the subject in pixels, where it is known.
        part: `train` or `test` where the data set says which; a photo without is drawn into either.
    """

    file: Path
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    box: Box | None = None
    part: Literal["train", "test"] | None = None


class Subject(Frozen):
    """One object or person.

    Attributes:
        identifier: the word for it.
        category: what it is in general.
        kind: of the head that recognises it: `object`, or `face` for a person.
        photos: two or more.
        negatives: pictures in which it is not.
        name: what tables call it, one of a kind in the data set; the identifier where not given.
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
        """The same subject by another identifier, in captions and questions too, word for word.

        >>> photo = Photo(file=Path("1.jpg"), captions=("sks asks",))
        >>> anna = Subject(identifier="sks", category="woman", photos=(photo, photo)).renamed("Anna")
        >>> anna.photos[0].captions
        ('Anna asks',)
        """

        def put(text: str) -> str:
            return replace_word(text, self.identifier, identifier)

        photos = tuple(
            photo.model_copy(
                update={
                    "captions": tuple(map(put, photo.captions)),
                    "questions": tuple(_with_texts(question, put) for question in photo.questions),
                }
            )
            for photo in self.photos
        )
        return self.model_copy(update={"identifier": identifier, "photos": photos})


def _with_texts(question: Question, put: Any) -> Question:
    texts = {"question": put(question.question), "answer": put(question.answer)}
    return question.model_copy(update={**texts, "options": tuple(map(put, question.options))})


class Dataset(Frozen):
    """The subjects, each of another name."""

    subjects: tuple[Subject, ...] = Field(min_length=1)


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a data set of any of the three layouts, and check all of it before anything runs.

    Args:
        path: the folder, or a manifest `*.json`.

    Raises:
        InputError: something is wrong; every problem is listed, each with its file and key.
        MissingFileError: there is nothing of that name.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> (folder / "mug").mkdir(); _ = (folder / "mug" / "captions.json").write_text('{"1.jpg": ["a mug"]}')
    >>> read_dataset(folder)
    Traceback (most recent call last):
    myvlm.errors.InputError: ... cannot be evaluated on: 2 problems.
      got:      mug/captions.json: 1.jpg: there is no such photo
                mug: photos: Tuple should have at least 2 items after validation, not 0
    ...
    """
    source = Path(path)
    problems = Problems(source)
    drafts = read_layout(source, problems)
    subjects: list[Subject] = []
    for draft in drafts:
        subject = _checked(draft, problems)
        if subject is None:
            continue
        if any(subject.name == other.name for other in subjects):
            problems.add(draft.where(("name",)), f"{subject.name!r} is the name of an earlier subject too")
        subjects.append(subject)
    problems.raise_if_any()
    return Dataset(subjects=tuple(subjects))


def _checked(draft: Draft, problems: Problems) -> Subject | None:
    """The subject of a draft, or None and what is wrong with it."""
    try:
        subject = Subject.model_validate(draft.values)
    except ValidationError as error:
        for one in error.errors():
            problems.add(draft.where(one["loc"]), one["msg"])
        return None
    for location, what in _faults(subject):
        problems.add(draft.where(location), what)
    return subject


def _faults(subject: Subject) -> Iterator[tuple[Location, str]]:
    """What types alone do not say."""
    try:
        at = "identifier"
        check_identifier(subject.identifier)
        at = "category"
        check_category(subject.category)
    except InputError as error:
        yield (at,), f"{error.what} Expected: {error.expected}"
        return
    for number, photo in enumerate(subject.photos):
        yield from _photo_faults(("photos", number), photo, subject.identifier)
    for number, file in enumerate(subject.negatives):
        if not file.is_file():
            yield ("negatives", number), f"there is no file {file}"


def _photo_faults(at: Location, photo: Photo, identifier: str) -> Iterator[tuple[Location, str]]:
    if not photo.file.is_file():
        yield (*at, "file"), f"there is no file {photo.file}"
    for number, text in enumerate(photo.captions):
        if not contains_word(text, identifier):
            yield (*at, "captions", number), f"{text!r} does not hold {identifier!r} as a word"
    for number, asked in enumerate(photo.questions):
        if asked.options and asked.answer not in asked.options:
            yield (*at, "questions", number), f"the answer {asked.answer!r} is none of {list(asked.options)}"
    if photo.box and not (photo.box[0] < photo.box[2] and photo.box[1] < photo.box[3]):
        yield (*at, "box"), f"{photo.box} is not left, top, right, bottom"
