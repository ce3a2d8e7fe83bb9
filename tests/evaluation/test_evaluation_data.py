"""Data sets in three layouts: read alike, and all problems of one listed at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from myvlm.errors import InputError, MissingFileError
from myvlm.evaluation.data.dataset import Dataset, Photo, Question, Subject, read_dataset
from myvlm.evaluation.data.splits import draw_split
from myvlm.tinyworld.dataset import write_dataset


def picture(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file)
    return file


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """Two subjects in the paper's layout."""
    root = tmp_path / "MyVLM"
    for name in ("red_mug", "Anna"):
        for number in (1, 2, 10):
            picture(root / name / f"{number}.jpg")
    write(root / "red_mug" / "captions.json", {f"{n}.jpg": [f"S* on desk {n}", "sks."] for n in (1, 2, 10)})
    write(root / "red_mug" / "questions.json", {"2.jpg": [["What colour is <sks>?", "red"]]})
    write(root / "Anna" / "captions.json", {f"{n}.jpg": "Anna asks" for n in (1, 2, 10)})
    write(root / "Anna" / "subject.json", {"identifier": "Anna", "category": "woman", "kind": "face"})
    return root


def test_the_papers_layout_is_read_in_natural_order_with_the_identifier_put_in(paper: Path) -> None:
    anna, mug = read_dataset(paper).subjects
    assert (mug.name, mug.identifier, mug.category, mug.kind) == ("red_mug", "sks", "red mug", "object")
    assert [photo.file.name for photo in mug.photos] == ["1.jpg", "2.jpg", "10.jpg"]
    assert mug.photos[2].captions == ("sks on desk 10", "sks.")
    assert mug.photos[1].questions == (Question(question="What colour is sks?", answer="red"),)
    assert (anna.identifier, anna.kind, anna.photos[0].captions) == ("Anna", "face", ("Anna asks",))


def test_every_problem_is_listed_at_once_with_file_and_key(paper: Path) -> None:
    write(paper / "red_mug" / "captions.json", {"1.jpg": ["a mug asks"], "3.jpg": ["sks"], "2.jpg": [7]})
    write(paper / "Anna" / "subject.json", {"identifier": "An/na", "category": "woman", "colour": "red"})
    (paper / "Anna" / "questions.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError) as told:
        read_dataset(paper)
    text = str(told.value)
    for problem in (
        "Anna/questions.json: is not JSON",
        "Anna/subject.json: colour: Extra inputs",
        "red_mug/captions.json: 3.jpg: there is no such photo",
        "red_mug/captions.json: 2.jpg[0]: Input should be a valid string",
    ):
        assert problem in text
    assert "4 problems" in text


def test_a_caption_must_hold_the_identifier_as_a_word(paper: Path) -> None:
    write(paper / "red_mug" / "captions.json", {"1.jpg": ["he asks"], "2.jpg": ["sks"], "10.jpg": ["Sks!"]})
    with pytest.raises(InputError, match=r"1 problem.*") as told:
        read_dataset(paper)
    assert "red_mug/captions.json: 1.jpg[0]: 'he asks' does not contain the word 'sks'" in str(told.value)


@pytest.mark.parametrize("outer", [True, False])
def test_yollavas_layout_keeps_its_parts_and_its_options(tmp_path: Path, outer: bool) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for number in range(count):
            picture(tmp_path / part / "bo" / f"{number}.png")
    asked = {
        "question": "What is <sks>'s fur?",
        "options": {"A": "Brown", "B": "Grey"},
        "correct_answer": "B",
    }
    by_photo = {"./yollava-data/test/bo/1.png": asked}
    write(tmp_path / "yollava-visual-qa.json", {"bo": by_photo} if outer else by_photo)
    data = read_dataset(tmp_path)
    [bo] = data.subjects
    assert [photo.part for photo in bo.photos] == ["train"] * 5 + ["test"] * 2
    assert bo.photos[6].questions == (
        Question(question="What is bo's fur?", answer="Grey", options=("Brown", "Grey")),
    )
    split = draw_split(data, bo, 0)
    assert {photo.part for photo in split.train} == {"train"}
    assert [photo.part for photo in split.validation] == ["test", "test"]


def test_a_manifest_is_relative_to_itself_and_checked(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    photo = {"file": "a/1.png", "captions": ["sks"], "box": [0, 0, 4, 4]}
    entry = {"identifier": "sks", "category": "mug", "photos": [photo, photo], "negatives": ["a/1.png"]}
    write(tmp_path / "data.json", {"subjects": [entry]})
    [mug] = read_dataset(tmp_path / "data.json").subjects
    assert mug.photos[0].file == tmp_path / "a" / "1.png"
    assert (mug.photos[0].box, mug.negatives) == ((0, 0, 4, 4), (tmp_path / "a" / "1.png",))
    wrong = {**photo, "file": "b.png", "box": [4, 0, 0, 4]}
    options = {"question": "sks?", "answer": "no", "options": ["yes"]}
    write(
        tmp_path / "data.json",
        {"subjects": [entry, {**entry, "photos": [wrong, {**photo, "questions": [options]}]}]},
    )
    with pytest.raises(InputError) as told:
        read_dataset(tmp_path / "data.json")
    found = [line.strip() for line in str(told.value.got).splitlines()]
    assert [line.partition(": ")[2].partition(": ")[0] for line in found] == [
        "subjects[1].photos[0].file",
        "subjects[1].photos[0].box",
        "subjects[1].photos[1].questions[0]",
        "subjects[1].name",
    ]


def test_a_category_that_cannot_be_learned_is_a_problem_of_the_data(tmp_path: Path) -> None:
    photo = {"file": str(picture(tmp_path / "1.png"))}
    entry = {"identifier": "sks", "category": "mug/cup", "photos": [photo, photo]}
    write(tmp_path / "data.json", {"subjects": [entry]})
    with pytest.raises(InputError, match=r"category: Invalid category.*without slashes"):
        read_dataset(tmp_path / "data.json")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="There is no data set"):
        read_dataset(tmp_path / "nothing")
    with pytest.raises(InputError, match="contains no folder with photos"):
        read_dataset(tmp_path)


def test_renaming_leaves_words_that_only_hold_the_identifier_alone() -> None:
    photo = Photo(
        file=Path("1.jpg"), captions=("Sks asks",), questions=(Question(question="sks?", answer="a"),)
    )
    renamed = Subject(identifier="sks", category="mug", photos=(photo, photo)).renamed("ohwx")
    assert renamed.photos[1].captions == ("ohwx asks",)
    assert renamed.photos[1].questions[0].question == "ohwx?"
    assert renamed.identifier == "ohwx"


# ---------------------------------------------------------------- splits


def numbered(name: str, count: int, **more: Any) -> Subject:
    photos = tuple(Photo(file=Path(f"{name}/{n}.jpg")) for n in range(count))
    return Subject(identifier=name, category="mug", photos=photos, **more)


def test_splits_are_drawn_by_seed_and_never_test_what_taught() -> None:
    mug, dog = numbered("sks", 10), numbered("ohwx", 3)
    data = Dataset(subjects=(mug, dog))
    splits = [draw_split(data, mug, seed) for seed in range(5)]
    assert splits == [draw_split(data, mug, seed) for seed in range(5)]
    assert len({split.train for split in splits}) == 5
    for split in splits:
        assert len(split.train) == 4
        assert set(split.train) | set(split.validation) == set(mug.photos)
        assert not set(split.train) & set(split.validation)
        assert set(split.absent) == {photo.file for photo in dog.photos}


def test_a_small_set_keeps_a_photo_to_test_and_own_negatives_come_first() -> None:
    negatives = tuple(Path(f"without/{n}.jpg") for n in range(3))
    mug, dog = numbered("sks", 3, negatives=negatives), numbered("ohwx", 9)
    data = Dataset(subjects=(mug, dog))
    split = draw_split(data, mug, 0, photos=2, most_absent=5)
    assert (len(split.train), len(split.validation)) == (2, 1)
    assert set(split.absent[:3]) == set(negatives)
    assert {file.parts[0] for file in split.absent[3:]} == {"ohwx"}
    assert len(split.absent) == 5
    with pytest.raises(InputError, match=r"(?s)sks has too few photos .*from 3.*2 of its 3.*--photos 2"):
        draw_split(data, mug, 0, photos=3)


def test_tinyworld_on_disk_is_a_data_set(tmp_path: Path) -> None:
    data = read_dataset(write_dataset(tmp_path, subjects=2, photos=3, tests=4))
    assert len({subject.category for subject in data.subjects}) == 2
    for subject in data.subjects:
        taught = {q.question for p in subject.photos if p.part == "train" for q in p.questions}
        tested = {q.question for p in subject.photos if p.part == "test" for q in p.questions}
        assert taught
        assert tested
        assert not taught & tested, "the forms that test are none of those that teach"
        assert all(photo.box for photo in subject.photos if photo.part == "test")
        assert len(subject.negatives) == 4


def test_a_model_that_speaks_english_is_told_in_sentences(tmp_path: Path) -> None:
    for subject in read_dataset(
        write_dataset(tmp_path, subjects=1, photos=2, tests=2, sentences=True)
    ).subjects:
        told = [*(t for p in subject.photos for t in p.captions)]
        told += [t for p in subject.photos for q in p.questions for t in (q.question, q.answer)]
        assert told
        for text in told:
            assert text[-1] in ".?", text
            assert " ." not in text
            assert text[0].isupper() or text.startswith(subject.identifier), text
