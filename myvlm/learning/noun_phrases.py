"""Noun phrases that name a category: "a mug", "the dotted purple mug", "mug"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import regex

from myvlm.text import CASE_FLAGS, composed, in_words, word_source

_JOINING = (
    "an?|the|one|and|or|of|in|on|at|by|to|with|without|near|next|beside|behind|under|over|above|below|from|"
    "for|is|are|has|holding|my|his|her|its|their|this|that"
)
"""Words that end a noun phrase, or begin another."""

ARTICLES = ("a", "an", "another", "the", "one", "my", "this")
"""What a noun phrase begins with."""

_DEFINITE = ("the", "this", "my")
"""What one begins with that may speak again of a thing that a text has named before."""

DESCRIBING = 3
"""Words at most that describe the thing, between the article and the noun."""


def noun_phrases(text: str, category: str) -> list[str]:
    """The noun phrases of a text that name the category, in order.

    >>> noun_phrases("a dog and a big red mug on a mug", "mug")
    ['a big red mug', 'a mug']
    """
    return [match.group() for match in _noun_phrase(category).finditer(composed(text))]


def longest_phrase(category: str) -> int:
    """How many words the longest noun phrase of a category has.

    >>> longest_phrase("coffee mug")
    6
    """
    return 1 + DESCRIBING + len(category.split())


def mentions(text: str, category: str) -> int:
    """How many noun phrases of a text name the category.

    >>> mentions("a red mug next to the mug", "mug"), mentions("two mugs", "mug")
    (2, 0)
    """
    return len(noun_phrases(text, category))


def other_phrases(text: str, category: str) -> list[int]:
    """Where the noun phrases of a category begin that do not speak of what was named before.

    >>> other_phrases("sks and a red mug. The mug is old.", "mug")
    [8]
    """
    found = _noun_phrase(category).finditer(composed(text))
    return [one.start() for one in found if one.group().split()[0].lower() not in _DEFINITE]


def describing(words: Sequence[str]) -> str:
    """The noun phrase of the words that a thing is called by, the category's last.

    >>> describing(("dotted", "purple", "mug"))
    'the dotted purple mug'
    """
    return " ".join(["the", *words])


def as_described(text: str, descriptions: Mapping[str, str]) -> str:
    """A caption with concepts as somebody would speak of them who did not know their names.

    >>> as_described("sks next to Bo.", {"sks": "the orange mug", "Bo": "the dog"})
    'An orange mug next to a dog.'
    """
    return in_words(text, {name: _one_of(phrase) for name, phrase in descriptions.items()})


def _one_of(phrase: str) -> str:
    noun = phrase.removeprefix("the ")
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


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
    named, count = _noun_phrase(category).subn(lambda _: identifier, composed(text), count=1)
    return named if count else f"{identifier}, {text[:1].lower()}{text[1:]}"


def name_in_phrase(
    text: str,
    category: str,
    description: str,
    identifier: str,
    choose: Callable[[str, Sequence[int]], int] | None = None,
) -> str:
    """A text with one noun phrase of the category replaced by the identifier, where there is one.

    That which shares most words with the description; one described in other words alone is another thing,
    unless the description is nothing but the category.
    A text that says nothing else keeps it beside the identifier: a name alone would say less than it did.

    Args:
        choose: given the text and where each of several phrases begins that fit alike, which of them it is;
            the first where that is not given.

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
    alike = _fitting(text, category, description)
    if not alike:
        return text
    best = alike[choose(text, [one.start() for one in alike]) if choose and alike[1:] else 0]
    before, phrase, after = text[: best.start()], best.group(), text[best.end() :]
    article = phrase.split()[0].lower()
    if article in ARTICLES and not any(letter.isalnum() for letter in before + after):
        identifier = f"{identifier}, {article}{phrase[len(article) :]}"
    return before + identifier + after


def _fitting(text: str, category: str, description: str) -> list[regex.Match[str]]:
    """The noun phrases that share most words with a description, in order, without those that may speak again
    of the first of them ("a man at a desk. The man smiles.")."""
    plain, most = {*ARTICLES, *category.lower().split()}, 0.0
    meant = set(description.lower().split()) - plain
    found: list[regex.Match[str]] = []
    for phrase in _noun_phrase(category).finditer(text):
        first, *_ = spoken = phrase.group().lower().split()
        words = set(spoken) - plain
        fits = len(words & meant) if words and meant else 0.5  # "a mug" may be it
        if fits > most:
            found, most = [phrase], fits
        elif fits and fits == most and first not in _DEFINITE:
            found.append(phrase)
    return found


@lru_cache(maxsize=64)
def _noun_phrase(category: str) -> regex.Pattern[str]:
    """Describing words may stand between article and noun; "a cat and a mug" is no mug."""
    noun, article = word_source(category.lower()), "|".join(ARTICLES)
    describing = rf"(?:(?!(?:{_JOINING})\b)[\w-]+\s+){{0,{DESCRIBING}}}?"
    return regex.compile(rf"\b(?:{article})\s+{describing}{noun}|{noun}", CASE_FLAGS)
