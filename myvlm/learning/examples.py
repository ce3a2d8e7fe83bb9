"""The few-shot set: photos with captions that name the concept, and questions with answers.

Everything the user hands over is checked here, before anything is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

Captions = Sequence[str | Sequence[str]]
QuestionAnswer = tuple[str, str]
Questions = Sequence[QuestionAnswer | Sequence[QuestionAnswer]]


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
        questions: pairs of question and answer: N lists, one a photo, or one list that fits every photo.

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
    asked = _questions_by_photo(questions, len(photos))
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
    # Up to three describing words may stand between article and noun.
    phrase = (
        rf"\b(?:an?|the|one|my|this)\s+(?:[\w-]+\s+){{0,3}}?{re.escape(category)}\b|\b{re.escape(category)}\b"
    )
    named, count = re.subn(phrase, lambda _: identifier, text, count=1, flags=re.IGNORECASE)
    return named if count else f"{identifier}, {text[:1].lower()}{text[1:]}"


def _questions_by_photo(questions: Questions | None, count: int) -> list[tuple[QuestionAnswer, ...]]:
    if not questions:
        return [()] * count
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


def _is_pair(entry: object) -> bool:
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and all(isinstance(part, str) and part.strip() for part in entry)
    )
