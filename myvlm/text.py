"""Identifiers and the words of a text: which words may be one, and finding and replacing them exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping

from myvlm.errors import InputError

LONGEST_IDENTIFIER = 64
SLASHES = frozenset("/\\")
"""They would make two folders of one name."""

# Scripts that put no spaces between words: their letters do not make a Latin word beside them longer.
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"


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
    return _pattern(word).search(text) is not None


def replace_word(text: str, old: str, new: str) -> str:
    """Replace a word wherever it stands as a word of its own, in any case; the new word goes in as it is.

    >>> replace_word("Sks on a desk; sks's lid, not asks", "sks", "my mug")
    "my mug on a desk; my mug's lid, not asks"
    """
    return text if old == new else _pattern(old).sub(lambda _: new, text)


def replace_words(text: str, new_by_old: Mapping[str, str]) -> str:
    """Replace several words in one pass, so that what went in is not replaced again; longer words first.

    >>> replace_words("a and b", {"a": "b", "b": "a"})
    'b and a'
    """
    if not new_by_old:
        return text
    new = {old.casefold(): one for old, one in new_by_old.items()}
    longest_first = sorted(new_by_old, key=len, reverse=True)
    return _pattern(*longest_first).sub(lambda match: new.get(match[0].casefold(), match[0]), text)


def _pattern(*words: str) -> re.Pattern[str]:
    alternatives = "|".join(map(re.escape, words))
    return re.compile(rf"(?<!{_LETTER})(?:{alternatives})(?!{_LETTER})", re.IGNORECASE)
