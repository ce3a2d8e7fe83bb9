"""The word finder in all scripts: contain, find, replace and mark agree, and inserted words are found."""

from __future__ import annotations

import html
import re
import unicodedata

import regex
from hypothesis import assume, given
from hypothesis import strategies as st

from myvlm.display.page import highlighted
from myvlm.errors import InputError
from myvlm.text import (
    check_identifier,
    contains_word,
    count_word,
    find_word,
    find_words,
    fold,
    replace_word,
    replace_words,
)

SCRIPTS = (
    "abzAZéÉßẞöŐıİñçœǅǆ",  # Latin
    "αΩςσΆήжЯёЙ",  # Greek, Cyrillic
    "אבשׁعلیپىة",  # Hebrew with a point, Arabic, Persian
    "रामकाि्षতমিதமி",  # Devanagari, Bengali, Tamil, with marks
    "กขาแดงำ่້ລາວកខមြန်",  # Thai, Lao, Khmer, Burmese
    "小花園ばぱカｶー한글각",  # Han, kana, Hangul
    "0٣९_",
)
MARKS = "\u0301\u0323\u0302\u0345\u093c\u0e48\u200d\u200c\ufe0f"
SIGNS = " -'’.,!*+<>()[]{}\\^$|?#\u00a0\u3000\n"
LETTERS = "".join(SCRIPTS)


def spelled(text: str, form: str) -> str:
    return unicodedata.normalize(form, text) if form else text


letters = st.text(st.sampled_from(LETTERS + MARKS), min_size=1, max_size=6)
anything = st.text(st.one_of(st.sampled_from(LETTERS + MARKS + SIGNS), st.characters()), max_size=30)
forms = st.sampled_from(["", "NFC", "NFD"])
names = st.one_of(
    letters,
    st.builds(
        "{}{}{}".format, st.sampled_from(["", "<", "*"]), letters, st.sampled_from(["", ">", "*", "++"])
    ),
    st.builds("{} {}".format, letters, letters),
)


def possible(name: str) -> str:
    try:
        return check_identifier(name)
    except InputError:
        assume(False)
        raise


@given(anything, names, st.text(max_size=5))
def test_contains_find_replace_and_highlight_agree(text: str, name: str, new: str) -> None:
    name = possible(name)
    found = list(find_words(text, name))
    assert contains_word(text, name) == bool(found)
    assert count_word(text, name) == len(found)
    assert find_word(text, name) == (found[0].start if found else None)
    rest, end = [], 0
    for start, stop, word in found:
        assert end <= start < stop <= len(text)
        assert word == name
        assert fold(text[start:stop]) == fold(name)
        rest.append(text[end:start])
        end = stop
    rest.append(text[end:])
    assert replace_word(text, name, new) == (text if name == new else new.join(rest))
    page = highlighted(text, name)
    assert len(re.findall("<mark>", page)) == len(found)
    assert html.unescape(re.sub("</?mark>", "", page)) == html.unescape(html.escape(text))


@given(names, forms, forms, st.lists(st.sampled_from(SIGNS), max_size=3), st.data())
def test_a_name_between_signs_is_found_in_every_spelling(
    name: str, written: str, said: str, signs: list[str], data: st.DataObject
) -> None:
    name = possible(name)
    before, after = "".join(signs), "".join(reversed(signs))
    assume(fold(name) not in fold(before + after))
    cased = data.draw(st.sampled_from([name, name.upper()]))
    assume(fold(cased) == fold(name))  # ı and İ have no unique counterpart
    text = f"{before} {spelled(cased, said)} {after}"
    asked = spelled(name, written)
    assert contains_word(text, asked)
    assert replace_word(text, asked, "\ue000") == f"{before} \ue000 {after}"


@given(names, st.sampled_from(["a", "ß", "я", "م", "र", "\u0301", "\u093f", "7", "_"]), forms)
def test_a_name_in_a_longer_word_is_not_found(name: str, more: str, form: str) -> None:
    name = possible(name)
    assert not contains_word(spelled(f"({name}{more})", form), name) or fold(name + more) == fold(name)
    if not unicodedata.category(more).startswith("M"):
        assert not contains_word(spelled(f"({more}{name})", form), name)


@given(
    st.text(st.sampled_from(SCRIPTS[4] + SCRIPTS[5]), min_size=1, max_size=6),
    st.text(st.sampled_from("\u0e39\u0e48\u3099\u102d\u17b7"), max_size=2),
    st.text(st.sampled_from(SCRIPTS[4] + SCRIPTS[5] + SCRIPTS[0]), min_size=1, max_size=6),
)
def test_scripts_without_spaces_have_names_behind_any_letter_and_its_marks(
    before: str, marks: str, name: str
) -> None:
    name = possible(name)
    text = before + marks + name
    assume(len(regex.findall(r"\X", before[-1] + marks + name[0])) > 1)  # the name starts a new character
    assume(fold(text).find(fold(name)) + len(fold(name)) == len(fold(text)))  # it occurs only there
    assert [found.end for found in find_words(text, name)] == [len(text)]


@given(st.text(st.sampled_from("".join(SCRIPTS[:2]) + "\u0301\u0323"), min_size=1, max_size=6))
def test_a_capital_counts_and_no_other_case_does(name: str) -> None:
    name = possible(name)
    first, small = name[0], name.lower()
    # "İ" has two letters in lower case, and Greek has two forms of a final sigma
    assume(first != first.lower() and len(small) == len(name) and fold(small) == fold(name))
    assert not contains_word(f"({small})", name)
    assert contains_word(f"({name})", small)
    assert contains_word(f"({first}{small[1:]})", name)
    assert contains_word(f"({name.upper()})", name) or fold(name.upper()) != fold(name)


@given(st.lists(letters, min_size=1, max_size=3, unique_by=fold), anything, st.data())
def test_words_change_places_and_come_back(words: list[str], between: str, data: st.DataObject) -> None:
    words = [possible(word).lower() for word in words]
    assume(len({fold(word) for word in words}) == len(words) and all(possible(word) for word in words))
    assume(not any(contains_word(between, word) for word in words))
    assume(not regex.search(r"[\p{L}\p{N}\p{M}_\u200c\u200d]", between))
    turned = data.draw(st.permutations(words))
    there = dict(zip(words, turned, strict=True))
    back = dict(zip(turned, words, strict=True))
    text = f" {between} ".join(words)
    assert replace_words(replace_words(text, there), back) == text
