"""Words in texts of many scripts: one finder for captions, replies and attention maps."""

from __future__ import annotations

import unicodedata

import pytest

from myvlm.text import contains_word, find_word, replace_word, replace_words

JOSE = "Jos\xe9"
DECOMPOSED = unicodedata.normalize("NFD", JOSE)


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("小花在桌上", "小花", 0),
        ("这是sks在桌子上", "sks", 2),
        ("sksは机の上", "sks", 0),
        ("sksอยู่บนโต๊ะ", "sks", 0),
        ("नमस्ते राम जी", "राम", 7),
        (f"this is {DECOMPOSED}.", JOSE, 8),
        (f"this is {JOSE}.", DECOMPOSED, 8),
        ("<sks> on S*.", "S*", 9),
        ("यह रामायण है", "राम", None),
        (DECOMPOSED, "Jose", None),
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
