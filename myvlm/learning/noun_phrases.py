"""Find and replace noun phrases that name a category, such as "a mug", "the dotted purple mug" and "mug"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import regex

from myvlm.text import CASE_FLAGS, composed, in_words, word_source

_NON_DESCRIBING = (
    "an?|the|one|and|or|of|in|on|at|by|to|with|without|near|next|beside|behind|under|over|above|below|from|"
    "for|is|are|has|holding|my|his|her|its|their|this|that"
)
"""Words that end a noun phrase or begin another, and so cannot describe the noun."""

ARTICLES = ("a", "an", "another", "the", "one", "my", "this")
"""Words that a noun phrase may begin with."""

_DEFINITE = ("the", "this", "my")
"""Articles of noun phrases that may refer back to an object mentioned before."""

MAX_DESCRIBING_WORDS = 3
"""Maximum number of describing words between the article and the noun."""


def noun_phrases(text: str, category: str) -> list[str]:
    """Return the noun phrases of a text that name the category, in order.

    >>> noun_phrases("a dog and a big red mug on a mug", "mug")
    ['a big red mug', 'a mug']
    """
    return [match.group() for match in _noun_phrase(category).finditer(composed(text))]


def longest_phrase(category: str) -> int:
    """Return the number of words in the longest possible noun phrase of a category.

    >>> longest_phrase("coffee mug")
    6
    """
    return 1 + MAX_DESCRIBING_WORDS + len(category.split())


def mentions(text: str, category: str) -> int:
    """Count the noun phrases of a text that name the category.

    >>> mentions("a red mug next to the mug", "mug"), mentions("two mugs", "mug")
    (2, 0)
    """
    return len(noun_phrases(text, category))


def other_phrases(text: str, category: str) -> list[int]:
    """Return the positions of the category's noun phrases that cannot refer back to an earlier mention.

    >>> other_phrases("sks and a red mug. The mug is old.", "mug")
    [8]
    """
    found = _noun_phrase(category).finditer(composed(text))
    return [one.start() for one in found if one.group().split()[0].lower() not in _DEFINITE]


def definite_phrase(words: Sequence[str]) -> str:
    """Return the noun phrase made of describing words and, last, the category.

    >>> definite_phrase(("dotted", "purple", "mug"))
    'the dotted purple mug'
    """
    return " ".join(["the", *words])


def as_described(text: str, descriptions: Mapping[str, str]) -> str:
    """Replace names of concepts in a caption by indefinite phrases, as someone would who does not know the
    names.

    >>> as_described("sks next to Bo.", {"sks": "the orange mug", "Bo": "the dog"})
    'An orange mug next to a dog.'
    """
    return in_words(text, {name: _indefinite_phrase(phrase) for name, phrase in descriptions.items()})


def _indefinite_phrase(phrase: str) -> str:
    noun = phrase.removeprefix("the ")
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def name_in_caption(text: str, category: str, identifier: str) -> str:
    """Replace the category's first noun phrase in a caption by the identifier.

    If the caption does not mention the category, the identifier is put in front.

    >>> name_in_caption("a red mug next to a dog.", "mug", "sks")
    'sks next to a dog.'
    >>> name_in_caption("the woman in plain red on a chair", "woman", "Anna")
    'Anna in plain red on a chair'
    >>> name_in_caption("two people at a table.", "dog", "Rex")
    'Rex, two people at a table.'
    """
    named, count = _noun_phrase(category).subn(lambda _: identifier, composed(text), count=1)
    return named if count else f"{identifier}, {text[:1].lower()}{text[1:]}"


def name_in_phrase(
    text: str,
    category: str,
    description: str,
    identifier: str,
    choose: Callable[[str, Sequence[int]], int] | None = None,
) -> str:
    """Replace the noun phrase of the category that best fits a description by the identifier, if there is
    one.

    The best phrase shares the most words with the description. A phrase that shares none of its describing
    words is about another object, unless the description is nothing but the category. If the text consists of
    the phrase alone, it is kept beside the identifier: the name alone would say less than the text did.

    Args:
        choose: called with the text and the start positions of several phrases that fit equally well, returns
            the index of the right one; by default the first is taken.

    >>> name_in_phrase("a red mug next to a dotted purple mug.", "mug", "the dotted purple mug", "sks")
    'a red mug next to sks.'
    >>> name_in_phrase("a dog and a red mug.", "mug", "the dotted purple mug", "sks")
    'a dog and a red mug.'
    >>> name_in_phrase("A purple mug.", "mug", "the dotted purple mug", "sks")
    'sks, a purple mug.'
    >>> name_in_phrase("a man next to another man.", "man", "the man", "Bo", lambda text, starts: 1)
    'a man next to Bo.'
    """
    text = composed(text)
    alike = _best_matches(text, category, description)
    if not alike:
        return text
    best = alike[choose(text, [one.start() for one in alike]) if choose and alike[1:] else 0]
    before, phrase, after = text[: best.start()], best.group(), text[best.end() :]
    article = phrase.split()[0].lower()
    if article in ARTICLES and not any(letter.isalnum() for letter in before + after):
        identifier = f"{identifier}, {article}{phrase[len(article) :]}"
    return before + identifier + after


def _best_matches(text: str, category: str, description: str) -> list[regex.Match[str]]:
    """The noun phrases that share the most words with a description, in order.

    Later ones with a definite article are left out: they may refer back to the first ("a man at a desk. The
    man smiles.").
    """
    not_describing, most = {*ARTICLES, *category.lower().split()}, 0.0
    wanted = set(description.lower().split()) - not_describing
    found: list[regex.Match[str]] = []
    for phrase in _noun_phrase(category).finditer(text):
        first, *_ = phrase_words = phrase.group().lower().split()
        words = set(phrase_words) - not_describing
        fits = len(words & wanted) if words and wanted else 0.5  # an undescribed "a mug" may be it
        if fits > most:
            found, most = [phrase], fits
        elif fits and fits == most and first not in _DEFINITE:
            found.append(phrase)
    return found


@lru_cache(maxsize=64)
def _noun_phrase(category: str) -> regex.Pattern[str]:
    """Matches noun phrases with describing words between article and noun; "a cat and a mug" is not one."""
    noun, article = word_source(category.lower()), "|".join(ARTICLES)
    describing = rf"(?:(?!(?:{_NON_DESCRIBING})\b)[\w-]+\s+){{0,{MAX_DESCRIBING_WORDS}}}?"
    return regex.compile(rf"\b(?:{article})\s+{describing}{noun}|{noun}", CASE_FLAGS)
