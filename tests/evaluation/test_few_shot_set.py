"""The few-shot set: photos are paired with their texts, and problems of the texts are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from myvlm.errors import InputError
from myvlm.images import load_images
from myvlm.learning import gather_examples
from myvlm.learning.noun_phrases import name_in_caption
from tests.support.teaching import CAPTIONS, PHOTOS, examples


def test_examples_pair_photos_with_their_texts() -> None:
    first, second = examples()
    assert first.captions == ("sks on a table", "a photo of sks")
    assert second.captions == ("sks and a mug",)
    assert second.questions == (("What is next to sks?", "a table"),)
    assert examples(questions=[[("a?", "b")], []])[1].questions == ()
    assert examples(captions=(own for own in CAPTIONS), questions=None)[0].captions == first.captions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captions": ["sks"]}, "1 captions"),
        ({"captions": "sks"}, "one string"),
        ({"captions": ["sks", []]}, "an empty list"),
        ({"captions": ["sks", "asks for it"]}, "asks for it"),
        ({"captions": 5}, "int"),
        ({"captions": ["sks", None]}, "images[1] has no caption"),
        ({"captions": ["sks", [5]]}, "[5]"),
        ({"questions": 5}, "int"),
        ({"questions": "sks?"}, "str"),
        ({"questions": [1, 2]}, "got:      1"),
        ({"questions": [None, None]}, "got:      None"),
        ({"questions": [[("a?", "b")]]}, "1 lists"),
        ({"questions": [[("a?", "b")], [("a?",)]]}, "('a?',)"),
        ({"questions": [[("a?", " ")], []]}, "('a?', ' ')"),
    ],
)
def test_wrong_examples_are_named(changes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        examples(**changes)
    assert said in str(caught.value)


def test_captions_of_the_model_get_the_name() -> None:
    assert name_in_caption("A large white coffee mug on a desk.", "mug", "sks") == "sks on a desk."
    assert name_in_caption("mug", "mug", "sks") == "sks"


def test_captions_and_questions_go_by_the_names_of_the_photos_files(tmp_path) -> None:
    for number, photo in enumerate(PHOTOS):
        photo.save(tmp_path / f"{number}.png")
    photos = load_images(tmp_path)
    captions = {"1.png": "sks and a mug", str(tmp_path / "0.png"): CAPTIONS[0]}
    first, second = gather_examples("sks", photos, captions, {"1.png": [("a?", "b")], "0.png": []})
    assert (first.captions, second.captions) == (tuple(CAPTIONS[0]), ("sks and a mug",))
    assert (first.questions, second.questions) == ((), (("a?", "b"),))
    for wrong, said in (
        ({"0.png": "sks"}, r"The captions do not match .*no entry for .*1\.png.*file names as keys"),
        ({"0.png": "sks", "1.png": "sks", "sks": "sks"}, "The captions do not match .*no photo sks"),
        ({"zz.png": "sks"}, r"no entry for .*0\.png, .*1\.png; no photo zz\.png"),
        ({}, "no entry for"),
        ({"0.png": "sks", "1.png": "asks"}, "does not name the concept"),
    ):
        with pytest.raises(InputError, match=f"(?s){said}"):
            gather_examples("sks", photos, wrong)
    with pytest.raises(InputError, match=r"(?s)no entry for images\[0\], images\[1\].*a list in the order"):
        examples(captions=captions)


def test_a_name_counts_where_it_is_one_photos(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("one", "two"):
        Path(place).mkdir()
        PHOTOS[0].save(f"{place}/1.png")
    PHOTOS[0].save("1.png")
    photos = load_images(["one/1.png", "two/1.png"])
    with pytest.raises(InputError, match=r"(?s)no entry for one/1\.png, two/1\.png.*several files .* 1\.png"):
        gather_examples("sks", photos, {"1.png": "sks"})
    with pytest.raises(InputError, match=r"(?s)no entry for two/1\.png.*several files .* 1\.png"):
        gather_examples("sks", photos, {"one/1.png": "sks", "1.png": "sks here"})
    by_path = {"two/1.png": "sks there", "one/1.png": "sks here"}
    assert [one.captions for one in gather_examples("sks", photos, by_path)] == [
        ("sks here",),
        ("sks there",),
    ]
    photos = load_images(["1.png", "one/1.png", "one/1.png"])
    by_path = {"1.png": "sks", "one/1.png": "sks here"}
    told = [one.captions for one in gather_examples("sks", photos, by_path)]
    assert told == [("sks",), ("sks here",), ("sks here",)], "the path itself counts, and one photo twice"
