"""Texts written by the frozen model: captions with the name, question/answer pairs, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from myvlm import Concept, LearnSettings, MyVLM
from myvlm.backbones import Generation
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.cli.commands.concepts import questions
from myvlm.errors import InputError, NotWritableError
from myvlm.images import load_images
from myvlm.learning import gather_examples
from myvlm.learning.captions import (
    OBJECT_QUESTIONS,
    PERSON_QUESTIONS,
    captions_and_words,
    described,
    named_captions,
    write_captions,
    write_questions,
)
from myvlm.learning.dataset import CAPTION_PROMPTS
from myvlm.learning.likelihood import plain_losses
from myvlm.learning.noun_phrases import mentions, name_in_caption, name_in_phrase
from myvlm.tinyworld import FewShot, few_shot
from tests.support.batches import sizes_of
from tests.support.command import Myvlm
from tests.support.taught import Taught
from tests.support.tiny import pictures

SHORT = LearnSettings(steps=2, views=2)


@pytest.fixture(scope="module")
def kit() -> FewShot:
    return few_shot(0, photos=2, tests=1)


# ---------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a dog and a mug.", "a dog and sks."),
        ("a dog beside the big red mug", "a dog beside sks"),
        ("a lamp and mug on a tray", "a lamp and sks on a tray"),
        ("two mugs.", "sks, two mugs."),
        ("My old mug", "sks"),
    ],
)
def test_the_name_takes_the_place_of_one_noun_phrase(text: str, named: str) -> None:
    assert name_in_caption(text, "mug", "sks") == named


def test_a_phrase_that_shares_only_its_article_with_a_description_is_another_thing() -> None:
    described = "the dotted purple mug"
    for text, named in (
        ("the red mug by the purple mug.", "the red mug by sks."),
        ("the red mug on a tray.", "the red mug on a tray."),
        ("the mug on a tray.", "sks on a tray."),
        ("A dotted mug.", "sks, a dotted mug."),
        ("mug!", "sks!"),
    ):
        assert name_in_phrase(text, "mug", described, "sks") == named


def test_of_phrases_that_fit_alike_one_is_chosen_that_does_not_speak_of_the_first_again() -> None:
    described, starts = "the man", list[list[int]]()

    def last(text: str, begins: Sequence[int]) -> int:
        starts.append(list(begins))
        return len(begins) - 1

    for text, named in (
        ("A man at a desk. The man smiles.", "Bo at a desk. The man smiles."),
        ("A man by another man. The man smiles.", "A man by Bo. The man smiles."),
        ("A tall man by a short man.", "A tall man by Bo."),
        ("The man by a man.", "The man by Bo."),
    ):
        assert name_in_phrase(text, "man", described, "Bo", last) == named
    assert starts == [[0, 9], [0, 14], [0, 11]]


def test_doubtful_captions_are_left_out_where_there_are_better_ones() -> None:
    twice, once, never = "a red mug by a blue mug.", "a red mug on a tray.", "a tray."
    assert mentions(twice, "mug") == 2
    assert named_captions([twice, once, never, once], "mug", "sks") == ["sks on a tray."]
    assert named_captions([never, twice], "mug", "sks") == ["sks by a blue mug."]
    assert named_captions([never, "the lady smiles."], "woman", "Anna") == ["Anna smiles."]
    assert named_captions([never, never], "mug", "sks") == ["sks, a tray."]


def test_captions_are_true_and_name_the_concept(vlm: MyVLM, kit: FewShot) -> None:
    written = write_captions(vlm.backbone, load_images(kit.photos()), identifier="sks", category="mug")
    assert len(written) == 2
    for own, scene in zip(written, kit.train, strict=True):
        assert len(set(own)) == len(own) >= 1
        for text in own:
            assert mentions(text, "sks") == 1
            assert mentions(text, "mug") == 0
            assert scene.place in text


def test_captions_and_what_it_is_called_are_generated_at_once(
    vlm: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, calls, replies = load_images(kit.photos()), [], vlm.backbone.replies_to_each
    captions = write_captions(vlm.backbone, photos, identifier="sks", category="mug")
    words = described(vlm.backbone, photos, "mug")
    monkeypatch.setattr(
        vlm.backbone, "replies_to_each", lambda *asked: calls.append(asked) or replies(*asked)
    )
    both = captions_and_words(vlm.backbone, photos, identifier="sks", category="mug")
    assert both == (captions, words)
    assert len(words) > 1
    assert len(calls) == 1


def test_the_plain_model_looks_at_no_more_texts_at_once_than_at_pictures(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, name = load_images(pictures(2)), "sks"
    captions = [[f"sks is {word}" for word in ("red", "blue", "green")], ["sks on a table"]]
    told = gather_examples(name, photos, captions, [("What is next to sks?", "a mug"), ("Where?", "a")])
    sizes = sizes_of(monkeypatch, backbone, "tail_loss")
    together = plain_losses(backbone, told, name, "the red mug")
    assert sizes == [5, 3]
    sizes.clear()
    monkeypatch.setattr(backbone, "images_at_once", 2)
    apart = plain_losses(backbone, told, name, "the red mug")
    assert sizes == [2, 2, 1, 2, 1]
    assert apart.answers == pytest.approx(together.answers, rel=1e-5)
    assert apart.captions == pytest.approx(together.captions, rel=1e-5)


@pytest.mark.parametrize("own", [(), ("caption en", "describe en")])
def test_captions_are_asked_for_under_every_instruction_of_the_family(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch, own: tuple[str, ...]
) -> None:
    asked: set[str] = set()

    def replies(images: Any, prompts: Any) -> list[list[Generation]]:
        asked.update(prompts)
        return [[Generation("a mug on a table", torch.tensor([1]))] * len(prompts) for _ in images]

    monkeypatch.setattr(backbone, "replies_to_each", replies)
    monkeypatch.setattr(type(backbone), "caption_prompts", own)
    write_captions(backbone, load_images(pictures(2)), identifier="sks", category="mug")
    bare = {prompt.removeprefix("sks is the mug. ") for prompt in asked}
    assert bare == {backbone.caption_prompt, *(own or CAPTION_PROMPTS)}


def test_captions_of_the_model_are_shown_and_marked(
    quick: MyVLM, kit: FewShot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    concept = quick.learn("sks", kit.photos(), category="mug", settings=SHORT)
    shown = " ".join(capsys.readouterr().err.split())
    folder = concept.save(tmp_path / "own")
    card = (folder / "README.md").read_text(encoding="utf-8")
    captions = concept.recipe["captions"]
    assert sum(len(own) for own in captions) >= 2
    assert "the model wrote these" in shown
    assert "Nobody reviewed them" in card
    for text in (text for own in captions for text in own):
        assert text in shown
        assert f"- {text}\n" in card
    assert json.loads((folder / "concept.json").read_text())["recipe"]["captions_by"] == "model"
    assert Concept.load(folder).recipe["captions"] == captions


def test_captions_of_the_user_are_not_called_the_models(
    quick: MyVLM, kit: FewShot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    concept = quick.learn("sks", kit.photos(), category="mug", captions=["sks", "sks"], settings=SHORT)
    assert "wrote" not in capsys.readouterr().err
    assert "Captions" not in (concept.save(tmp_path / "given") / "README.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------- questions


def test_answers_are_the_models_and_mostly_true(vlm: MyVLM, kit: FewShot) -> None:
    pairs = write_questions(vlm.backbone, load_images(kit.photos()), identifier="sks", category="mug")
    assert [len(own) for own in pairs] == [len(pairs[0])] * 2
    assert len(pairs[0]) >= 5
    for own, scene in zip(pairs, kit.train, strict=True):
        answers = dict(own)
        assert answers["What colour is sks?"] == kit.look.colour
        assert answers["What pattern does sks have?"] == kit.look.pattern
        assert scene.place in answers["Where is sks?"]
        assert "the mug" not in " ".join(answers)
    asked = {question for question, _ in pairs[0]}
    assert "What is sks made of?" not in asked, "tinyworld's tokenizer cannot read it"
    assert asked < {form.format("sks") for form in OBJECT_QUESTIONS}


def test_people_are_asked_about_as_people() -> None:
    faces = " ".join(PERSON_QUESTIONS).lower()
    for word in ("wearing", "doing", "where", "hair", "glasses", "beard", "expression", "age"):
        assert word in faces
    assert 10 <= len(OBJECT_QUESTIONS) <= 12
    assert 10 <= len(PERSON_QUESTIONS) <= 12
    assert all(form.count("{}") == 1 for form in OBJECT_QUESTIONS + PERSON_QUESTIONS)


@pytest.mark.parametrize(
    ("category", "kind", "asked"),
    [("mug", "object", "colour"), ("mug", "face", "where"), ("woman", "object", "where")],
)
def test_the_kind_chooses_what_is_asked(
    vlm: MyVLM, kit: FewShot, monkeypatch: pytest.MonkeyPatch, category: str, kind: str, asked: str
) -> None:
    heard: list[str] = []

    def replies(images, prompts):  # type: ignore[no-untyped-def]
        heard.extend(prompts)
        return plain(images, prompts)

    plain = vlm.backbone.replies_to_each
    monkeypatch.setattr(vlm.backbone, "replies_to_each", replies)
    write_questions(vlm.backbone, load_images(kit.photos(1)), identifier="sks", category=category, kind=kind)
    people = kind == "face" or category == "woman"
    assert (f"What colour is the {category}?" in heard) is not people
    assert f"Where is the {category}?" in heard
    assert not any("sks" in prompt for prompt in heard)


def test_questions_of_the_users_own(vlm: MyVLM, kit: FewShot) -> None:
    photos = load_images(kit.photos(1))
    [[pair]] = write_questions(
        vlm.backbone, photos, identifier="sks", category="mug", questions=["what is next to {} ?"]
    )
    assert pair[0] == "what is next to sks ?"
    beside = kit.train[0].neighbour(kit.train[0].find(kit.look))
    assert beside is not None
    assert beside.category in pair[1]
    unreadable = ["Is {} antediluvian?"]
    assert write_questions(vlm.backbone, photos, identifier="sks", category="mug", questions=unreadable) == [
        []
    ]
    with pytest.raises(InputError, match="What colour is it"):
        write_questions(
            vlm.backbone, photos, identifier="sks", category="mug", questions=["What colour is it?"]
        )
    with pytest.raises(InputError, match="Invalid category"):
        write_questions(vlm.backbone, photos, identifier="sks", category=" ")


def test_questions_by_the_names_of_the_photos(kit: FewShot, tmp_path: Path) -> None:
    for number, photo in enumerate(kit.photos(), start=1):
        photo.save(tmp_path / f"{number}.png")
    photos = load_images(tmp_path)
    by_name = {"2.png": [("b?", "2")], "1.png": [("a?", "1")]}
    examples = gather_examples("sks", photos, ["sks", "sks"], by_name)
    assert [one.questions for one in examples] == [(("a?", "1"),), (("b?", "2"),)]
    by_path = {photo.name: [("c?", "3")] for photo in photos}
    assert gather_examples("sks", photos, ["sks", "sks"], by_path)[1].questions == (("c?", "3"),)
    with pytest.raises(InputError, match=r"no entry for .*2\.png"):
        gather_examples("sks", photos, ["sks", "sks"], {"1.png": []})
    with pytest.raises(InputError, match="question or an answer is empty"):
        gather_examples("sks", photos, ["sks", "sks"], [("Who made sks?", "")])
    with pytest.raises(InputError, match=r"no photo 3\.png"):
        gather_examples("sks", photos, ["sks", "sks"], {**by_name, "3.png": []})


# ---------------------------------------------------------------- the command


def test_questions_are_written_to_a_file_that_learn_takes(
    myvlm: Myvlm,
    taught: Taught,
    fresh: MyVLM,
) -> None:
    ask = ["questions", taught.word, taught.photos, "--category", "mug", "--out", "asked.json"]
    run = myvlm(*ask, "--json")
    assert run.code == 0, run.stderr
    text = Path("asked.json").read_text(encoding="utf-8")
    asked = json.loads(text)
    assert list(asked) == ["1.png", "2.png", "3.png", "4.png"]
    assert run.document["questions"] == asked
    written = write_questions(
        fresh.backbone, load_images(taught.photos), identifier=taught.word, category="mug"
    )
    assert [[tuple(pair) for pair in own] for own in asked.values()] == written
    assert text.count("\n") == sum(map(len, written)) + 2 * 4 + 2, "a pair a line, to be looked through"

    again = myvlm(*ask)
    assert again.code == 2
    assert "asked.json already exists." in again.stderr
    assert Path("asked.json").read_text(encoding="utf-8") == text

    asked["1.png"] = asked["1.png"][:1]
    Path("asked.json").write_text(json.dumps(asked))
    learn = ["learn", taught.word, taught.photos, "--category", "mug", "--steps", 1]
    learned = myvlm(*learn, "--questions", "asked.json", "--out", "cup")
    assert learned.code == 0, learned.stderr
    assert Concept.load("cup").recipe["questions"] == list(asked.values())
    assert "the model wrote these" in learned.stderr
    assert "The model wrote the captions itself: read them in cup/README.md" in learned.stdout


def test_questions_that_cannot_be_asked_write_nothing(myvlm: Myvlm, taught: Taught) -> None:
    base = ["questions", taught.word, taught.photos, "--category", "mug"]
    for words, code, said in (
        ([*base, "--ask", "What is it?"], 2, "has no place for its name"),
        (["questions", taught.word, "gone.jpg", "--category", "mug"], 2, "There is no file"),
        ([*base, "--backbone", "tinyworld/lava"], 3, "no model tinyworld/lava"),
    ):
        run = myvlm(*words)
        assert run.code == code, run.stderr
        assert said in run.stderr
        assert list(Path().iterdir()) == []
    shown = myvlm(*base, "--ask", "what colour is {} ?")
    assert shown.code == 0
    assert f"what colour is {taught.word} ?" in shown.stdout
    assert Path(f"{taught.word}-questions.json").is_file()
    learn = f"myvlm learn {taught.word} PHOTOS --category mug --questions {taught.word}-questions.json"
    assert f"Review {taught.word}-questions.json, then run: {learn}" in shown.stderr
    unread = myvlm(*base, "--ask", "Ist {} blau?", "--ask", "what colour is {} ?", "--out", "asked.json")
    assert f"Left out: 'Ist {taught.word} blau?'." in unread.stderr
    assert "Left out: 'what" not in unread.stderr
    said = myvlm(*base, "--ask", "Ist {} blau?", "--out", "other.json", "--json").document
    assert said["unanswered"] == [f"Ist {taught.word} blau?"]


def test_a_file_of_questions_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"1.jpg": [("What colour is sks?", "red")]}
    file = tmp_path / "new" / "asked.json"
    questions._write(file, asked)
    assert json.loads(file.read_text(encoding="utf-8")) == {"1.jpg": [["What colour is sks?", "red"]]}
    (tmp_path / "plain").write_text("no folder")
    with pytest.raises(NotWritableError, match="questions file"):
        questions._write(tmp_path / "plain" / "asked.json", asked)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(NotWritableError, match=r"(?s)No space left.*--out"):
        questions._write(tmp_path / "new" / "other.json", asked)
    assert [one.name for one in file.parent.iterdir()] == ["asked.json"]


def test_learning_says_how_many_of_the_given_answers_come_back(
    fresh: MyVLM, caplog: pytest.LogCaptureFixture
) -> None:
    kit = few_shot(0, photos=2, tests=1)
    given = {"category": kit.category, "captions": kit.captions(), "progress": False}
    known = fresh.learn(kit.identifier, kit.photos(), questions=kit.questions(4), **given)
    asked = zip(kit.photos(), kit.questions(4), strict=True)
    answers = [fresh.ask(photo, one).text == answer for photo, own in asked for one, answer in own]
    [learned] = known.embeddings.values()
    assert learned.figures["answered"] == pytest.approx(sum(answers) / len(answers), abs=0.15)
    assert caplog.messages == []
    fresh.concepts.remove(kit.identifier)
    fact = [(f"who is the owner of {kit.identifier} ?", "mia")]
    [taught] = fresh.learn(kit.identifier, kit.photos(), questions=fact, **given).embeddings.values()
    assert taught.figures["answered"] == 0.0
    assert "gives only 0 % of the taught answers" in caplog.messages[-1]


def test_words_that_the_model_cannot_write_are_named(fresh: MyVLM, caplog: pytest.LogCaptureFixture) -> None:
    kit = few_shot(0, photos=1, tests=1)
    fresh.learn(
        kit.identifier, kit.photos(), category=kit.category, captions=[f"{kit.identifier} of mahogany ."],
        questions=[(f"what is {kit.identifier} ?", "heirloom")], settings=SHORT, progress=False,
    )  # fmt: skip
    [warning] = [one for one in caplog.messages if "cannot write" in one]
    assert ": mahogany, heirloom. " in warning
