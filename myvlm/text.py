"""Identifiers: which words are valid, and how they are found and replaced in texts.

One rule decides whether a text contains a word, for prompts, captions, replies, metrics and pages alike: it
must be a whole word, in either Unicode spelling of its accents. Case is ignored, except that a part of a name
that begins with a capital must begin with one in the text too. "Will" is found in "Will eats" and "WILL
EATS", and not in "the man will eat".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import regex

from myvlm.errors import InputError

LONGEST_IDENTIFIER = 64
SLASHES = frozenset("/\\")
"""Path separators: a concept's folder is named after it, so they would split the name into two folders."""
JOINERS = "\u200c\u200d"
"""Invisible characters that belong to the spelling of names in Persian and Indic scripts."""

# Scripts without spaces between words, or with particles attached to words: a letter of theirs next to a word
# does not extend the word. A combining mark does, and so does a joiner.
_UNSPACED = (
    "".join(
        rf"\p{{{script}}}"
        for script in "Thai Lao Khmer Myanmar Tibetan Han Hiragana Katakana Bopomofo Hangul Yi Javanese "
        "Balinese Tai_Tham New_Tai_Lue Tai_Le Tai_Viet".split()
    )
    + r"\u30fc\uff70"
)
_MARK = rf"[\p{{Mn}}\p{{Mc}}{JOINERS}]"
_LETTER = rf"(?![{_UNSPACED}])[_\p{{L}}\p{{N}}]"
_IS_LETTER, _IS_MARK = regex.compile(_LETTER), regex.compile(_MARK)
_SAYS_SOMETHING = regex.compile(r"[\p{L}\p{N}\p{So}]")
CASE_FLAGS = regex.IGNORECASE | regex.FULLCASE

# English words that are also names: the user is warned when one is used as an identifier. No search can tell
# which meaning is intended: "Will the man eat?" begins with a verb.
_ALSO_NAMES = """
will may april june august summer autumn dawn eve sunny rainy stormy misty windy rose lily daisy violet ivy
iris jasmine poppy olive hazel heather holly willow rowan ash basil ginger pepper sage rosemary clove
saffron honey sugar candy cookie brownie cocoa coco mocha latte peanut biscuit muffin pumpkin pickle bean
berry cherry peach plum apple clementine ruby pearl amber jade crystal opal gem diamond gold goldie silver
sterling grace faith hope joy charity mercy prudence constance patience verity honor honour felicity chance
destiny harmony melody glory liberty justice bliss serenity bill mark frank jack bob rob nick pat sue art
drew grant chase hunter carter mason cooper taylor baker miller smith king queen prince princess duke earl
baron bishop dean major judge page parker porter forest river brook lake cliff dale glen heath reed stone
rock rocky rusty dusty sandy curly star sky sun moon shadow smoky midnight ebony ivory snow snowy snowball
frosty blaze ember coal flint buddy lucky happy jolly merry fluffy fuzzy spot patches socks boots mittens
whiskers tiger bear lion wolf fox robin jay birdie dove raven phoenix finch wren teddy bunny kitty puppy
duck pony captain pilot scout ranger bandit rebel rocket turbo dash ace chip tip pip dot penny buck gene ray
rich dick harry gay chuck gus rod skip victor miles warren lance wade curt randy guy angel bonnie champ
chief trip trinity genesis nova echo sonny junior baby bambi cash cruise dallas paris london china india
georgia virginia florence sienna savannah dakota brooklyn chelsea
"""
_EVERYDAY = """
the a an one some is are was were be been am can must shall should would could do does did has have had he
she it they we you i me my his her its their our us them him this that these those here there who what where
when why how which not no yes and or but if so to of in on at by for with from up down out off over under as
than then too very man woman boy girl child person people friend mother father mum mom dad sister brother
dog cat bird fish horse mug cup glass bottle plate bowl bag box toy car bike bicycle truck bus chair table
desk sofa bed lamp book phone camera shoe hat shirt coat dress house room door window wall floor garden
street tree flower grass water food picture photo image thing hand face hair eye red orange yellow green
blue purple pink brown black white grey gray big small old new young good bad left right front back day
night morning two three four five six seven eight nine ten
"""
COMMON_WORDS = frozenset(_ALSO_NAMES.split()) | frozenset(_EVERYDAY.split())


def check_category(category: str) -> str:
    """Return the category if it is valid: printable text without slashes that is not only spaces.

    Raises:
        InputError: it is not valid.

    >>> check_category("coffee mug")
    'coffee mug'
    """
    fits = isinstance(category, str) and category.strip() and _prints(category)
    if not fits or set(category) & SLASHES:
        raise InputError(
            "Invalid category of a concept.",
            got=repr(category),
            expected='printable text without slashes, such as "mug"',
            fix="name the kind of object in a word",
        )
    return category


def check_identifier(identifier: str) -> str:
    """Return the identifier in composed spelling (NFC) if it is valid.

    It must have 1 to 64 printable characters, including a letter, digit or symbol, and no slashes. It must
    not begin or end with a space, nor begin with a character that combines with the one before it.

    Raises:
        InputError: it is not valid.

    >>> check_identifier("Anna Maria"), check_identifier("Jose\\u0301") == "Jos\\xe9"
    ('Anna Maria', True)
    """
    word = composed(identifier) if isinstance(identifier, str) else ""
    size = len(word)
    if (
        not 1 <= size <= LONGEST_IDENTIFIER
        or not (word == word.strip(" " + JOINERS) and _prints(word))
        or unicodedata.category(word[0]).startswith("M")
        or len(regex.match(r"\X", f"a{word}")[0]) > 1  # such as Thai sara am, which joins what is before it
        or not _SAYS_SOMETHING.search(word)
        or set(word) & SLASHES
    ):
        raise InputError(
            "Invalid identifier of a concept.",
            got=f"{identifier!r}, {size} characters",
            expected=f"1 to {LONGEST_IDENTIFIER} printable characters, at least one letter, no slashes, "
            "no space at either end",
            fix='use an uncommon word such as "sks", or a name such as "Anna"',
        )
    return word


def check_written(text: str, what: str) -> str:
    """Return a text for a model if it is valid: a non-blank string that can be encoded.

    Args:
        what: what the text is, for the message, such as `question`.

    Raises:
        InputError: it is no string, is blank, or contains lone surrogates, as undecodable file names do.

    >>> check_written("What is that?", "question")
    'What is that?'
    """
    broken = isinstance(text, str) and has_lone_surrogates(text)
    if not isinstance(text, str) or not text.strip() or broken:
        raise InputError(
            f"The {what} is empty or not text.",
            got=repr(text)[:200] + " with an incomplete character in it" * broken,
            expected="a text",
            fix="rewrite it, or decode it with errors='replace'" if broken else "write some words",
        )
    return text


def has_lone_surrogates(text: str) -> bool:
    """Whether a text contains lone surrogates and cannot be encoded, as in an undecodable file name.

    >>> has_lone_surrogates("caf\\udce9")
    True
    """
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _prints(text: str) -> bool:
    return text.translate(dict.fromkeys(map(ord, JOINERS))).isprintable()


def composed(text: str) -> str:
    """The text in NFC: a letter with its accent is one character, if such a character exists.

    >>> composed("Jose\\u0301") == "Jos\\xe9"
    True
    """
    return unicodedata.normalize("NFC", text)


def folded(*words: str) -> set[str]:
    """The words normalised for comparison by `fold`: a library cannot contain both Anna and ANNA.

    >>> sorted(folded("Anna", "sks", "ANNA"))
    ['anna', 'sks']
    """
    return {fold(word) for word in words}


def fold(word: str) -> str:
    """The word with case folded and in composed spelling (NFC).

    >>> fold("JOS\\xc9") == fold("Jose\\u0301")
    True
    """
    return composed(composed(word).casefold())


class Found(NamedTuple):
    """An occurrence of a word in a text: `text[start:end]` is the word as it is spelled there."""

    start: int
    end: int
    word: str


def find_words(text: str, *words: str) -> Iterator[Found]:
    """Find all occurrences of the words as whole words, in order; of two at one position, the longer.

    A combining mark belongs to the letter before it; composed and decomposed spellings are equal. Case is
    ignored, but a part of a word that begins with a capital does not match one in lower case.

    >>> [found.word for found in find_words("Anna Maria, anna and ANNA", "Anna", "Anna Maria")]
    ['Anna Maria', 'Anna']
    """
    # At one position the longer word wins; of Blue and blue the stricter, Blue.
    by_rank = sorted(dict.fromkeys(filter(None, words)), key=lambda word: (-len(fold(word)), word.islower()))
    known = _folded_with_places(text)
    found = [(start, rank, stop) for rank, word in enumerate(by_rank) for start, stop in _spans(known, word)]
    end = 0
    for start, rank, stop in sorted(found):
        if start >= end:
            end = stop
            yield Found(start, stop, by_rank[rank])


def contains_word(text: str, word: str) -> bool:
    """Whether a text contains a word as a whole word; see `find_words`.

    >>> contains_word("Sks, on a desk", "sks"), contains_word("he asks", "sks")
    (True, False)
    >>> contains_word("Will eats", "Will"), contains_word("the man will eat", "Will")
    (True, False)
    """
    return find_word(text, word) is not None


def count_word(text: str, word: str) -> int:
    """The number of occurrences of a word in a text; see `find_words`.

    >>> count_word("S* and S*", "S*")
    2
    """
    return sum(1 for _ in find_words(text, word))


def find_word(text: str, word: str) -> int | None:
    """The position of the first occurrence of a word in a text, or None. See `find_words`.

    >>> find_word("a mugshot of my Mug", "mug")
    16
    >>> find_word("小花在桌上", "小花")
    0
    >>> find_word("Jose\\u0301", "Jose"), find_word("Jose\\u0301", "Jos\\xe9")
    (None, 0)
    """
    found = next(find_words(text, word), None)
    return None if found is None else found.start


def replace_word(text: str, old: str, new: str) -> str:
    """Replace all occurrences of a word, see `find_words`; the new word is inserted unchanged.

    >>> replace_word("Sks on a desk; sks's lid, not asks", "sks", "my mug")
    "my mug on a desk; my mug's lid, not asks"
    """
    return replace_words(text, {old: new})


def replace_words(text: str, new_by_old: Mapping[str, str]) -> str:
    """Replace several words in one pass, so that inserted words are not replaced again; longer words first.

    >>> replace_words("a and b", {"a": "b", "b": "a"})
    'b and a'
    """
    replaced, end = "", 0
    for found in find_words(text, *(old for old, new in new_by_old.items() if old != new)):
        replaced += text[end : found.start] + new_by_old[found.word]
        end = found.end
    return replaced + text[end:]


def in_words(text: str, phrases: Mapping[str, str], names: Mapping[str, str] | None = None) -> str:
    """Replace words by phrases; a phrase at the beginning of the text gets a capital.

    Args:
        names: further replacements in the same pass, inserted unchanged.

    >>> in_words("sks is where? Is Bo red?", {"sks": "the mug"}, {"Bo": "xylo"})
    'The mug is where? Is xylo red?'
    """
    words = {**(names or {}), **phrases}
    replaced = replace_words(text, words)
    first = next(find_words(text, *words), None)
    begins = first is not None and first.start == 0 and first.word in phrases
    return replaced[:1].upper() + replaced[1:] if begins else replaced


def word_source(word: str) -> str:
    """A `regex` pattern, to be used with `CASE_FLAGS`: matches a whole word in any case in NFC texts."""
    return rf"(?<!{_LETTER}{_MARK}*){regex.escape(composed(word))}(?!{_LETTER}|{_MARK})"


class _Folded(NamedTuple):
    """A case-folded NFC text, with a map from the offsets of its letters to offsets in the original text."""

    folded: str
    places: Mapping[int, int]
    text: str


def _folded_with_places(text: str) -> _Folded:
    known, length, start = [], 0, 0
    places = {0: 0}
    for letter in text if text.isascii() else regex.findall(r"\X", text):
        known.append(fold(letter))
        length, start = length + len(known[-1]), start + len(letter)
        places[length] = start
    return _Folded("".join(known), places, text)


@lru_cache(maxsize=1024)
def _word(word: str) -> tuple[str, tuple[int, ...]]:
    """The folded word, and the offsets in it at which a part of the word begins with a capital."""
    known = _folded_with_places(word)
    begin = {at for at, place in known.places.items() if _can_begin(word, place)}
    return known.folded, tuple(at for at in sorted(begin) if _is_capital(word[known.places[at] :]))


def _spans(known: _Folded, word: str) -> Iterator[tuple[int, int]]:
    """Start and end of each occurrence of a word as a whole word."""
    sought, capitals = _word(word)
    text, places = known.text, known.places
    at = known.folded.find(sought)
    while at >= 0:
        start, stop = places.get(at), places.get(at + len(sought))
        if (
            start is not None
            and stop is not None
            and _can_begin(text, start)
            and _can_end(text, stop)
            and all(at + one in places and _is_capital(text[places[at + one] :]) for one in capitals)
        ):
            yield start, stop
        at = known.folded.find(sought, at + 1)


def _can_begin(text: str, at: int) -> bool:
    """Whether a word can begin at `at`: not right after a letter, even if combining marks lie between."""
    while at and _is_mark(text[at - 1]):
        at -= 1
    return not (at and _is_letter(text[at - 1]))


def _can_end(text: str, at: int) -> bool:
    """Whether a word can end at `at`: no letter follows, nor a mark, which would belong to its last one."""
    return at == len(text) or not (_is_letter(text[at]) or _is_mark(text[at]))


@lru_cache(maxsize=4096)
def _is_letter(sign: str) -> bool:
    return _IS_LETTER.match(sign) is not None


@lru_cache(maxsize=4096)
def _is_mark(sign: str) -> bool:
    return _IS_MARK.match(sign) is not None


def _is_capital(text: str) -> bool:
    return unicodedata.category(text[:1] or " ") in ("Lu", "Lt")


def is_everyday_word(name: str) -> bool:
    """Whether a name is also a common English word, or a number.

    >>> is_everyday_word("Will"), is_everyday_word("sks"), is_everyday_word("2")
    (True, False, True)
    """
    return name.isdigit() or fold(name) in COMMON_WORDS


def caution(name: str) -> str | None:
    """The warning for an identifier that is also a common word; None for other identifiers.

    >>> caution("Blue")[:32]
    "'Blue' is also an ordinary word:"
    >>> caution("ulmo") is None
    True
    """
    if not is_everyday_word(name):
        return None
    if name == name.lower():
        return (
            f"{name!r} is also an ordinary word: wherever it occurs in a question or reply, it counts as the "
            "concept. A name that is not a word, or has a capital letter, is safer."
        )
    return (
        f"{name!r} is also an ordinary word: at the beginning of a sentence it always counts as the "
        "concept. Within a sentence, write it with its capital letter: in lower case it is not the name."
    )
