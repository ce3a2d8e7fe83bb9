"""Words in texts of many scripts: one word finder for captions, replies and attention maps."""

from __future__ import annotations

import unicodedata

import pytest

from myvlm.display.page import highlighted
from myvlm.errors import InputError
from myvlm.text import (
    caution,
    check_identifier,
    contains_word,
    find_word,
    folded,
    replace_word,
    replace_words,
)

JOSE = "Jos\xe9"
DECOMPOSED = unicodedata.normalize("NFD", JOSE)


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("小花在桌上", "小花", 0),
        ("这是sks在桌子上", "sks", 2),
        ("sksは机の上", "sks", 0),
        ("sksอยู่บนโต๊ะ", "sks", 0),
        ("ดูน้องส้มบนโต๊ะ", "น้องส้ม", 2),
        ("か\u3099sks", "sks", 2),
        ("नमस्ते राम जी", "राम", 7),
        (f"this is {DECOMPOSED}.", JOSE, 8),
        (f"this is {JOSE}.", DECOMPOSED, 8),
        ("<sks> on S*.", "S*", 9),
        ("यह रामायण है", "राम", None),
        (DECOMPOSED, "Jose", None),
        ("e\u0301sks", "sks", None),
        ("\u0301sks", "sks", 1),
        ("he asks", "sks", None),
        ("sks_2", "sks", None),
    ],
)
def test_a_word_is_found_where_it_stands_alone(text: str, word: str, place: int | None) -> None:
    assert find_word(text, word) == place
    assert contains_word(text, word) == (place is not None)
    assert (replace_word(text, word, "X") != text) == (place is not None)


def test_both_spellings_of_a_name_are_replaced() -> None:
    assert replace_words(f"{JOSE} and {DECOMPOSED}", {JOSE: "Ann"}) == "Ann and Ann"


@pytest.mark.parametrize(
    ("text", "word", "stands"),
    [
        ("is there a blue dog in the picture ?", "Blue", False),
        ("is there a Blue dog", "Blue", True),
        ("IS BLUE THERE", "Blue", True),
        ("the man will eat", "Will", False),
        ("Anna maria and anna Maria", "Anna Maria", False),
        ("ANNA MARIA", "Anna Maria", True),
        ("Sks on a desk", "sks", True),
        ("an Iphone", "iPhone", True),
        ("<sks> and <Sks>", "<Sks>", True),
        ("a <sks>", "<Sks>", False),
        ("über ella", "Über Ella", False),
        ("ÉMILE", "E\u0301mile", True),
        ("ǅ and ǆ", "ǅ", True),
        ("only ǆ", "ǅ", False),
        ("STRASSE", "Straße", True),
    ],
)
def test_a_name_with_a_capital_is_not_the_word_in_lower_case(text: str, word: str, stands: bool) -> None:
    assert contains_word(text, word) == stands
    assert (replace_word(text, word, "X") != text) == stands
    assert ("<mark>" in highlighted(text, word)) == stands


def test_of_two_spellings_of_a_name_the_one_with_the_capital_wins() -> None:
    assert replace_words("Blue, blue", {"blue": "a", "Blue": "b"}) == "b, a"


def test_a_half_composed_spelling_is_the_same_word() -> None:
    name, half = "Thế", "Th\xea\u0301"  # composed circumflex, separate accent
    assert half not in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    assert replace_words(f"a {half} b", {name: "X"}) == "a X b"


def test_names_are_kept_composed() -> None:
    assert check_identifier(DECOMPOSED) == JOSE
    assert folded(DECOMPOSED) == folded(JOSE.upper()) == folded(JOSE)


@pytest.mark.parametrize("word", ["!", "--", "...", "\u0301a", "\u200da", "a\u200c", "\u0e33a"])
def test_what_is_no_word_cannot_be_a_name(word: str) -> None:
    with pytest.raises(InputError, match="Invalid identifier"):
        check_identifier(word)


@pytest.mark.parametrize("word", ["علی\u200cرضا", "🐶", "S*", "<sks>", ".NET", "क्\u200dष"])
def test_names_of_all_scripts_can_be_ones(word: str) -> None:
    assert check_identifier(word) == word
    assert contains_word(f"({word})", word)


def test_who_names_a_thing_by_a_word_is_warned() -> None:
    assert "with its capital letter" in str(caution("Blue"))
    assert "not a word, or has a capital letter" in str(caution("mug"))
    assert caution("ulmo") is caution("Annabel") is None
