"""Metrics of replies: naming, recognition, answers and leakage, computed from plain texts and booleans.

Nothing here depends on models.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from myvlm.text import contains_word, replace_word

_STOP_WORDS = frozenset(
    "a an the is are was were be been being am do does did has have had and or but of in on at by to from "
    "with for as into over under near next beside behind front there here this that these those it its he "
    "she his her they their my your our who which what where when not no some one very".split()
)
"""Stop words: they say nothing about the content of a picture."""


def mean_or_none(outcomes: Sequence[bool | float]) -> float | None:
    """Mean of the outcomes; None if there are none.

    >>> mean_or_none([True, False]), mean_or_none([])
    (0.5, None)
    """
    return sum(outcomes) / len(outcomes) if outcomes else None


@dataclass(frozen=True)
class Naming:
    """Recall, precision and F1 of a name in replies about pictures with and without the subject.

    Follows RAP's protocol (arXiv 2410.13360): precision is the share of replies with the name whose picture
    shows the subject.
    """

    recall: float
    precision: float
    f1: float


def naming(present: Sequence[bool], absent: Sequence[bool]) -> Naming:
    """Compute recall, precision and F1 of a name; precision is 0 if no reply contains it.

    Args:
        present: for each picture with the subject, whether the reply contains the name.
        absent: for each picture without it, whether the reply contains the name.

    >>> naming([True, True, True, False], [True, False])
    Naming(recall=0.75, precision=0.75, f1=0.75)
    """
    right, wrong = sum(present), sum(absent)
    recall = right / len(present) if present else 0.0
    precision = right / (right + wrong) if right + wrong else 0.0
    return Naming(recall, precision, 2 * recall * precision / (recall + precision) if right else 0.0)


def weighted_accuracy(recall: float, rejection: float) -> float:
    """Yo'LLaVA's recognition metric (arXiv 2406.09400): the unweighted mean of recall and rejection.

    >>> weighted_accuracy(1.0, 0.5)
    0.75
    """
    return 0.5 * recall + 0.5 * rejection


# ---------------------------------------------------------------- answers


def normalized_words(text: str) -> list[str]:
    """Words of an answer normalized as in SQuAD: lower case, without punctuation and articles.

    >>> normalized_words("The red, striped mug.")
    ['red', 'striped', 'mug']
    """
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def exact_match(answer: str, truth: str) -> bool:
    """Whether two answers have the same normalized words in the same order.

    >>> exact_match("A red mug.", "red mug"), exact_match("mug, red", "red mug")
    (True, False)
    """
    return normalized_words(answer) == normalized_words(truth)


def soft_match(answer: str, truth: str) -> float:
    """F1 of the words of two answers, ignoring their order (SQuAD, arXiv 1606.05250).

    >>> soft_match("a red mug", "red")
    0.6666666666666666
    """
    given, true = normalized_words(answer), normalized_words(truth)
    if not given or not true:
        return float(given == true)
    shared = sum((Counter(given) & Counter(true)).values())
    return 2 * shared / (len(given) + len(true))


def selected_option(answer: str, options: Sequence[str]) -> str:
    """The option that an answer selects: by its letter, or else by shared words; ties go to the first.

    >>> selected_option("B", ["red", "blue"]), selected_option("it is red", ["blue", "red"])
    ('blue', 'red')
    """
    letter = re.match(r"\W*([A-Za-z])(?![A-Za-z])", answer)
    number = string.ascii_uppercase.find(letter[1].upper()) if letter else -1
    if letter and 0 <= number < len(options) and len(normalized_words(answer)) <= 1:
        return options[number]
    return max(options, key=lambda option: soft_match(answer, option))


# ---------------------------------------------------------------- leakage


def content_words(texts: Collection[str], *, without: Collection[str] = ()) -> set[str]:
    """Words of texts that describe the content of a picture, except the words in `without`.

    >>> sorted(content_words(["sks next to a blue cat."], without=["sks"]))
    ['blue', 'cat']
    """
    found = set()
    for text in texts:
        for name in without:
            text = replace_word(text, name, " ")
        found |= set(re.findall(r"[^\W\d_]+", text.lower())) - _STOP_WORDS
    return found


def leaked_words(text: str, taught: Collection[str], own: Collection[str]) -> set[str]:
    """Words of the training captions that a reply contains although the picture's own captions do not.

    Args:
        text: a reply about a picture.
        taught: `content_words` of the training captions, without identifier and category.
        own: `content_words` of the picture's own captions.

    >>> leaked_words("sks next to a blue cat", {"blue", "cat"}, {"blue", "dog"})
    {'cat'}
    """
    return content_words([text]) & set(taught) - set(own)


def names(texts: Sequence[str], identifier: str) -> list[bool]:
    """Whether each text contains the identifier as a word."""
    return [contains_word(text, identifier) for text in texts]
