"""The few-shot set: photos with captions that name the concept, and questions with answers.

Everything the user hands over is checked here, before anything is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from myvlm.errors import InputError
from myvlm.images import LoadedImage
from myvlm.words import contains_word

CAPTION_PROMPTS = (
    "Describe the image.",
    "Describe the picture.",
    "What is in the picture?",
    "Write a caption.",
    "What do you see?",
    "Tell me about the picture.",
)
"""Instructions that captions are learned under: under one alone, the name is tied to that one (DESIGN §5)."""

_JOINING = (
    "an?|the|one|and|or|of|in|on|at|by|to|with|without|near|next|beside|behind|under|over|above|below|from|"
    "for|is|are|has|holding|my|his|her|its|their|this|that"
)
"""Words that end a noun phrase, or begin another."""

Captions = Sequence[str | Sequence[str]]
QuestionAnswer = tuple[str, str]
Questions = Mapping[str, Sequence[QuestionAnswer]] | Sequence[QuestionAnswer | Sequence[QuestionAnswer]]


@dataclass(frozen=True)
class Example:
    """One photo, its captions (each holds the identifier) and its question/answer pairs."""

    photo: LoadedImage
    captions: tuple[str, ...]
    questions: tuple[QuestionAnswer, ...] = ()


def gather_examples(
    identifier: str,
    photos: Sequence[LoadedImage],
    captions: Captions,
    questions: Questions | None = None,
) -> list[Example]:
    """Pair every photo with its captions and questions.

    Args:
        identifier: the word that every caption must hold.
        photos: N photos.
        captions: for each photo one caption or several.
        questions: pairs of question and answer: N lists, one a photo, or one list that fits every photo; or
            by the name of the photo's file, as `myvlm questions` writes them.

    Raises:
        InputError: the counts differ, a caption is empty or lacks the identifier, a pair is no pair.
    """
    if isinstance(captions, str) or len(captions) != len(photos):
        raise InputError(
            "Every photo needs its caption.",
            got="one text" if isinstance(captions, str) else f"{len(captions)} captions",
            expected=f"{len(photos)} entries, in the order {', '.join(p.name for p in photos[:5])}",
            fix="pass one caption, or a list of them, for each photo; or captions=None to have them written",
        )
    asked = _questions_by_photo(questions, photos)
    examples = []
    for photo, written, pairs in zip(photos, captions, asked, strict=True):
        own = (written,) if isinstance(written, str) else tuple(written)
        if not own:
            raise InputError(
                f"{photo.name} has no caption.", got="an empty list", expected="one caption or more",
                fix=f"write a caption that holds {identifier!r}",
            )  # fmt: skip
        for text in own:
            check_caption(identifier, text, photo.name)
        examples.append(Example(photo, own, pairs))
    return examples


def check_caption(identifier: str, text: str, where: str) -> None:
    """Raise InputError unless `text` holds the identifier as a word of its own."""
    if not contains_word(text, identifier):
        raise InputError(
            f"The caption of {where} does not name the concept.",
            got=repr(text),
            expected=f"{identifier!r} as a word in it",
            fix=f"write it where you would write the thing, for example: '{identifier} on a table'",
        )


def name_in_caption(text: str, category: str, identifier: str) -> str:
    """A caption with the category's first noun phrase replaced by the identifier.

    Where the category is not named, the identifier is put in front.

    >>> name_in_caption("a red mug next to a dog.", "mug", "sks")
    'sks next to a dog.'
    >>> name_in_caption("the woman in plain red on a chair", "woman", "Anna")
    'Anna in plain red on a chair'
    >>> name_in_caption("two people at a table.", "dog", "Rex")
    'Rex, two people at a table.'
    """
    named, count = _noun_phrase(category).subn(lambda _: identifier, text, count=1)
    return named if count else f"{identifier}, {text[:1].lower()}{text[1:]}"


def mentions(text: str, category: str) -> int:
    """How many noun phrases of a text name the category.

    >>> mentions("a red mug next to the mug", "mug"), mentions("two mugs", "mug")
    (2, 0)
    """
    return len(noun_phrases(text, category))


def noun_phrases(text: str, category: str) -> list[str]:
    """The noun phrases of a text that name the category, in order.

    >>> noun_phrases("a dog and a big red mug on a mug", "mug")
    ['a big red mug', 'a mug']
    """
    return [match.group() for match in _noun_phrase(category).finditer(text)]


def _noun_phrase(category: str) -> re.Pattern[str]:
    """Up to three describing words may stand between article and noun; "a cat and a mug" is no mug."""
    noun, describing = rf"{re.escape(category)}\b", rf"(?:(?!(?:{_JOINING})\b)[\w-]+\s+){{0,3}}?"
    return re.compile(rf"\b(?:an?|the|one|my|this)\s+{describing}{noun}|\b{noun}", re.IGNORECASE)


def _questions_by_photo(
    questions: Questions | None, photos: Sequence[LoadedImage]
) -> list[tuple[QuestionAnswer, ...]]:
    count = len(photos)
    if not questions:
        return [()] * count
    if isinstance(questions, Mapping):
        questions = _in_order(questions, photos)
    if all(_is_pair(entry) for entry in questions):
        shared = tuple((str(pair[0]), str(pair[1])) for pair in questions)
        return [shared] * count
    if len(questions) != count:
        raise InputError(
            "Questions are given by photo, but not for every photo.",
            got=f"{len(questions)} lists", expected=f"{count} lists, or one list of pairs for all photos",
            fix="pass [] for a photo without questions",
        )  # fmt: skip
    by_photo = []
    for number, entries in enumerate(questions):
        wrong = [entry for entry in entries if not _is_pair(entry)]
        if wrong:
            raise InputError(
                f"Entry {number} of the questions is no list of question/answer pairs.",
                got=repr(wrong[0])[:80], expected="('What colour is sks?', 'red')",
                fix="pass pairs of two texts that are not empty",
            )  # fmt: skip
        by_photo.append(tuple((str(pair[0]), str(pair[1])) for pair in entries))
    return by_photo


def _in_order(
    by_name: Mapping[str, Sequence[QuestionAnswer]], photos: Sequence[LoadedImage]
) -> list[Sequence[QuestionAnswer]]:
    """The lists of a mapping in the order of the photos, which go by their path or their file's name."""
    keys = [next((key for key in _names(photo) if key in by_name), "") for photo in photos]
    stray = [key for key in by_name if key not in keys]
    lacking = [photo.name for photo, key in zip(photos, keys, strict=True) if not key]
    if stray or lacking:
        raise InputError(
            "The questions do not fit the photos.",
            got=f"nothing for {', '.join(lacking[:3])}" if lacking else f"no photo {', '.join(stray[:3])}",
            expected=f"an entry for each of {', '.join(photo.name for photo in photos[:5])}, and no others",
            fix="name each entry as the photo's file is named",
        )
    return [by_name[key] for key in keys]


def _names(photo: LoadedImage) -> tuple[str, ...]:
    return (photo.name,) if photo.path is None else (photo.name, photo.path.as_posix(), photo.path.name)


def _is_pair(entry: object) -> bool:
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and all(isinstance(part, str) and part.strip() for part in entry)
    )
