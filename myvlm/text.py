"""Identifiers and the words of a text: which words may be one, and finding and replacing them exactly."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import regex

from myvlm.errors import InputError

LONGEST_IDENTIFIER = 64
SLASHES = frozenset("/\\")
"""They would make two folders of one name."""

# Scripts that put no spaces between words (Thai, Lao, Burmese, Khmer, kana, Han, Hangul with its particles):
# their letters do not make a word beside them longer. A mark that combines with a letter does.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_LETTER = rf"(?:(?![{_UNSPACED}])[_\p{{L}}\p{{N}}]|[\p{{Mn}}\p{{Mc}}])"


def check_category(category: str) -> str:
    """The category, if it can be one: printable text without slashes, and not only spaces.

    Raises:
        InputError: it cannot.

    >>> check_category("coffee mug")
    'coffee mug'
    """
    fits = isinstance(category, str) and category.strip() and category.isprintable()
    if not fits or set(category) & SLASHES:
        raise InputError(
            "That cannot be the category of a concept.",
            got=repr(category),
            expected='printable text without slashes, such as "mug"',
            fix="say in a word what it is in general",
        )
    return category


def check_identifier(identifier: str) -> str:
    """The identifier, if it can be one: 1 to 64 printable characters, no slashes, no space at either end.

    Raises:
        InputError: it cannot.

    >>> check_identifier("Anna Maria")
    'Anna Maria'
    """
    size = len(identifier) if isinstance(identifier, str) else 0
    if (
        not 1 <= size <= LONGEST_IDENTIFIER
        or not (identifier == identifier.strip() and identifier.isprintable())
        or set(identifier) & SLASHES
        or identifier in (".", "..")
    ):
        raise InputError(
            "That cannot be the identifier of a concept.",
            got=f"{identifier!r}, {size} characters",
            expected=f"1 to {LONGEST_IDENTIFIER} printable characters, no slashes, no space at either end",
            fix='take an uncommon word such as "sks", or a name such as "Anna"',
        )
    return identifier


def folded(*words: str) -> set[str]:
    """The words without their case: a sentence cannot tell Anna from ANNA.

    >>> sorted(folded("Anna", "sks", "ANNA"))
    ['anna', 'sks']
    """
    return {word.casefold() for word in words}


def contains_word(text: str, word: str) -> bool:
    """Whether a word stands in the text as a word of its own, in any case.

    >>> contains_word("Sks, on a desk", "sks"), contains_word("he asks", "sks")
    (True, False)
    """
    return find_word(text, word) is not None


def find_word(text: str, word: str) -> int | None:
    """Where a word starts in the text, as a word of its own in any case; None where it does not stand.

    A mark that combines with a letter belongs to the word, and composed and decomposed spellings are one.

    >>> find_word("a mugshot of my Mug", "mug")
    16
    >>> find_word("小花在桌上", "小花"), find_word("Jose\u0301", "Jose"), find_word("Jose\u0301", "Jos\xe9")
    (0, None, 0)
    """
    found = word_pattern(word).search(text)
    return found.start() if found else None


def replace_word(text: str, old: str, new: str) -> str:
    """Replace a word wherever it stands as a word of its own, in any case; the new word goes in as it is.

    >>> replace_word("Sks on a desk; sks's lid, not asks", "sks", "my mug")
    "my mug on a desk; my mug's lid, not asks"
    """
    return text if old == new else word_pattern(old).sub(lambda _: new, text)


def replace_words(text: str, new_by_old: Mapping[str, str]) -> str:
    """Replace several words in one pass, so that what went in is not replaced again; longer words first.

    >>> replace_words("a and b", {"a": "b", "b": "a"})
    'b and a'
    """
    if not new_by_old:
        return text
    new = {_same(old): one for old, one in new_by_old.items()}
    longest_first = sorted(new_by_old, key=len, reverse=True)
    replaced: str = word_pattern(*longest_first).sub(lambda match: new.get(_same(match[0]), match[0]), text)
    return replaced


def _same(word: str) -> str:
    return unicodedata.normalize("NFC", word).casefold()


def word_pattern(*words: str) -> regex.Pattern[str]:
    """What finds each of the words where it stands as a word of its own, in any case; the first of equals."""
    spellings = [unicodedata.normalize(form, word) for word in words for form in ("NFC", "NFD")]
    alternatives = "|".join(map(regex.escape, dict.fromkeys(spellings)))
    return regex.compile(rf"(?<!{_LETTER})(?:{alternatives})(?!{_LETTER})", regex.IGNORECASE)
