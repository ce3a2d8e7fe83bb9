"""A concept and its folder: it loads as it was saved, and errors name the problem."""

from __future__ import annotations

import dataclasses
import os
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from myvlm.concepts.concept import Concept
from myvlm.concepts.disk import atomic as folders
from myvlm.concepts.embedding import Embedding
from myvlm.errors import (
    ConceptFileError,
    InputError,
    NotFittedError,
    NotWritableError,
)
from myvlm.heads.objects.head import ObjectHead
from myvlm.text import check_identifier, contains_word, replace_word, replace_words
from tests.support.errors import check_said
from tests.support.fake_encoder import scene

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("format-*"))


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


# saved and loaded


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda one: one.name)
def test_golden_folders_load_with_their_exact_values(golden: Path) -> None:
    concept = Concept.load(golden)
    assert (concept.identifier, concept.spoken, concept.category, concept.kind) == (
        "ohwx",
        "sks",
        "mug",
        "object",
    )
    assert concept.recipe == {"captions": [["sks on a désk"]], "photos": 4}
    head = concept.head
    assert isinstance(head, ObjectHead)
    assert head.coef_.tolist() == [0.5, -0.25, 2.0]
    assert head.encoder_fingerprint_.tolist() == [0.0, 0.0, 1.0]
    assert (head.intercept_, head.threshold_, head.slope_) == (-1.5, 0.75, 2.0)
    assert (head.encoder, head.crops, head.false_alarm_rate, head.C) == (
        "ViT-B-32@openai",
        "auto",
        0.01,
        10.0,
    )
    assert head.figures_ == {"photos": 4, "left_out_found": 1.0}
    assert list(concept.embeddings) == ["llava-hf/llava-1.5-7b-hf", "tinyworld/llava"]
    first, second = concept.embeddings.values()
    assert first.directions.dtype == np.float32
    assert first.directions.tolist() == [[0.0, 0.125, 0.25, 0.375], [0.5, 0.625, 0.75, 0.875]]
    assert (first.norm, first.prompt, first.fingerprint) == ("image", "Describe the image.", "a1b2")
    assert (first.settings, first.figures) == ({"steps": 100, "learning_rate": 1.0}, {"loss": 0.25})
    assert second.directions.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("loaded", GOLDEN, ids=lambda one: one.name)
def test_this_release_writes_the_newest_golden_folder_byte_for_byte(tmp_path: Path, loaded: Path) -> None:
    Concept.load(loaded).save(tmp_path / "again")
    mine, golden = _tree(tmp_path / "again"), _tree(GOLDEN[-1])
    assert sorted(mine) == sorted(golden)
    assert {name for name in golden if mine[name] != golden[name]} <= {"README.md"}


def test_a_golden_folder_that_was_corrected_knows_what_it_was_learned_from(tmp_path: Path) -> None:
    corrected = GOLDEN[-1].with_name("corrected-3")
    head = Concept.load(corrected).head
    assert isinstance(head, ObjectHead)
    assert head.coef_.tolist() == [0.5, -0.25, 2.0]
    examples = head.known_examples()
    assert examples.photos.tolist()[1] == [[0.75, 0.875, 1.0], [1.125, 1.25, 1.375]]
    assert examples.others.tolist() == [[0.5, 0.0, -0.5]]
    [said] = examples.corrections
    assert (said.picture, said.digest, said.present, said.box) == ("dèsk.jpg", "0f", False, (1, 2, 30, 40))
    assert [rows.tolist() for rows in examples.rows] == [[[-1.0, 0.25, 0.0], [0.5, 0.5, 0.5]]]
    start = head.refitted(examples.without("0f"))
    assert (start.coef_.tolist(), start.intercept_, start.threshold_) == ([1.0, 0.5, 0.25], -1.0, 0.5)
    Concept.load(corrected).save(tmp_path / "again")
    mine, golden = _tree(tmp_path / "again"), _tree(corrected)
    assert {name for name in golden if mine[name] != golden[name]} <= {"README.md"}


def test_round_trip(concept: Concept, saved: Path) -> None:
    again = Concept.load(saved)
    assert isinstance(again.head, ObjectHead)
    assert isinstance(concept.head, ObjectHead)
    assert np.array_equal(again.head.coef_, concept.head.coef_)
    assert again.head.crops == 9
    mine, theirs = concept.embeddings["org/model"], again.embeddings["org/model"]
    assert np.array_equal(mine.directions, theirs.directions)
    assert (mine.settings, mine.figures, mine.prompt) == (theirs.settings, theirs.figures, theirs.prompt)
    assert again.recipe == concept.recipe
    assert again.folder == concept.folder == saved.resolve()
    assert sum(map(len, _tree(saved).values())) < 10_000, "kilobytes"
    assert sorted(_tree(saved)) == [
        "README.md",
        "concept.json",
        "embeddings/org--model.safetensors",
        "head.safetensors",
    ]


def test_an_embedding_is_a_copy() -> None:
    buffer = np.ones((1, 3), np.float32)
    embedding = Embedding(buffer, "image", "", "")
    buffer[:] = 0
    assert embedding.directions.tolist() == [[1, 1, 1]]


def test_card_says_what_it_is_and_how_to_load_it(concept: Concept, saved: Path, tmp_path: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    for said in (
        "# sks",
        "mug",
        "org/model",
        "2, 5",
        "ViT-B-32@openai",
        "contains no photos",
        "vlm.concepts.add",
        "erase=True",
    ):
        assert said in card
    concept.save(tmp_path / "with", include_photos=scene(0)[0])
    assert "contains photos" in (tmp_path / "with" / "README.md").read_text(encoding="utf-8")


def test_the_card_names_no_base_model_that_a_collection_brings(
    concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint("acme", "acme.models:collection", "myvlm.models")]  # need not be importable
    monkeypatch.setattr(
        "myvlm.plugins.registry.entry_points", lambda group: points if "models" in group else []
    )
    [embedding] = concept.embeddings.values()
    both = dataclasses.replace(concept, embeddings={"acme/small": embedding, "org/model": embedding})
    card = both.packed(url="hf://me/sks").files["README.md"].decode()
    assert 'base_model: ["org/model"]\n' in card


def test_photos_only_when_asked_and_without_their_exif(concept: Concept, saved: Path, tmp_path: Path) -> None:
    assert not (saved / "photos").exists()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.jpg", exif=exif)
    concept.save(saved, include_photos=[tmp_path / "a.jpg"])
    [photo] = (saved / "photos").iterdir()
    with Image.open(photo) as opened:
        assert opened.size == (2, 4)
        assert dict(opened.getexif()) == {}
    assert b"camera" not in photo.read_bytes()


# replacing


def test_saving_again_replaces_ours_and_keeps_what_is_the_users(concept: Concept, saved: Path) -> None:
    (saved / "photos").mkdir()
    (saved / "photos" / "mine.jpg").write_bytes(b"photo")
    (saved / "notes.txt").write_text("bought in Delft")
    concept.embeddings = {"other": Embedding(np.ones((1, 2), np.float32), "image", "", "")}
    concept.save(saved)
    assert (saved / "notes.txt").read_text() == "bought in Delft"
    assert (saved / "photos" / "mine.jpg").read_bytes() == b"photo"
    assert [one.name for one in (saved / "embeddings").iterdir()] == ["other.safetensors"]
    assert sorted(one.name for one in saved.parent.iterdir()) == ["sks-mug"], "nothing is left beside it"
    assert list(Concept.load(saved).embeddings) == ["other"]


def test_an_empty_folder_and_new_parents_are_welcome(concept: Concept, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "a/b/c"):
        assert Concept.load(concept.save(tmp_path / place)).identifier == "sks"


def test_a_link_to_a_concept_folder_stays_a_link(concept: Concept, saved: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(saved)
    concept.category = "cup"
    concept.save(link)
    assert link.is_symlink()
    assert Concept.load(saved).category == "cup"


def test_what_is_no_path_is_called_by_what_it_is_for(concept: Concept) -> None:
    for work in (concept.save, Concept.load):
        with pytest.raises(InputError, match="folder of a concept") as raised:
            work(3)  # type: ignore[arg-type]
        check_said(raised.value)


def test_other_folders_and_files_are_never_overwritten(concept: Concept, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    before = _tree(tmp_path)
    with pytest.raises(NotWritableError, match=r"not a concept folder(.|\n)*thesis\.tex"):
        concept.save(tmp_path / "home")
    with pytest.raises(NotWritableError, match=r"file"):
        concept.save(tmp_path / "file")
    with pytest.raises(NotWritableError, match=r"cannot be written to .*inner") as caught:
        concept.save(tmp_path / "file" / "deeper" / "inner")
    assert isinstance(caught.value, PermissionError)
    with pytest.raises(NotWritableError, match="name too long"):
        concept.save(tmp_path / ("x" * 300))
    assert _tree(tmp_path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "home"]
    assert concept.folder is None


def test_another_concept_is_not_overwritten_and_one_that_was_renamed_is(
    concept: Concept, saved: Path
) -> None:
    before = _tree(saved)
    other = dataclasses.replace(concept, identifier="ohwx", spoken="ohwx")
    with pytest.raises(NotWritableError, match=r"contains another concept(.|\n)*'sks'"):
        other.save(saved)
    assert _tree(saved) == before
    concept.identifier = "cup"
    concept.save(saved)
    assert Concept.load(saved).identifier == "cup"


@pytest.mark.parametrize("place", ["sks-mug", "new/deep/folder"])
@pytest.mark.parametrize("failure", ["write", "swap", "interrupt"])
def test_a_failure_half_way_leaves_everything_as_it_was(
    concept: Concept, saved: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: str
) -> None:
    before = _tree(saved.parent)
    concept.category = "cup"
    error: BaseException = (
        KeyboardInterrupt() if failure == "interrupt" else OSError(28, "No space left on device")
    )
    calls: list[object] = []

    def fail_late(*args: object, **options: object) -> int:
        calls.append(args)
        if failure == "swap" and len(calls) != (2 if place == "sks-mug" else 1):
            return os.rename(*args)  # type: ignore[arg-type, func-returns-value]
        raise error

    if failure == "swap":
        monkeypatch.setattr(folders.os, "replace", fail_late)
    else:
        real = Path.write_bytes
        monkeypatch.setattr(
            Path,
            "write_bytes",
            lambda self, data: fail_late() if self.name == "concept.json" else real(self, data),
        )
    with pytest.raises(KeyboardInterrupt if failure == "interrupt" else NotWritableError):
        concept.save(saved.parent / place)
    monkeypatch.undo()
    assert calls
    assert _tree(saved.parent) == before
    assert [one.name for one in saved.parent.iterdir()] == ["sks-mug"]


@pytest.mark.parametrize("values", [{"a": float("nan")}, {"a": np.ones(2)}, {"a": Path("/x")}])
def test_only_plain_values_are_written(concept: Concept, tmp_path: Path, values: dict[str, object]) -> None:
    concept.recipe = values
    with pytest.raises(InputError, match="recipe of a concept must be plain"):
        concept.save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_unfitted_head_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        Concept("sks", "mug", ObjectHead("ViT-B-32@openai")).save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# properties of a concept


def test_embedding_for_a_model(concept: Concept) -> None:
    mine = concept.embeddings["org/model"]
    assert concept.embedding_for("org/model", "f00d", 5) is mine
    assert concept.embedding_for("/a/local/copy", "f00d", 5) is mine
    for asked in (("org/model", "beef", 5), ("org/model", "f00d", 6), ("org/other", "beef", 5)):
        with pytest.raises(ConceptFileError) as caught:
            concept.embedding_for(*asked)
        text = str(caught.value)
        assert "another model than " + asked[0] in text
        assert "org/model (5 dimensions, weights f00d)" in text
        assert f"({asked[2]} dimensions, weights {asked[1]})" in text
        assert "learn 'sks' again" in text


@pytest.mark.parametrize(
    "directions", [np.ones(3), np.ones((0, 3)), np.full((1, 3), np.inf), np.ones((1, 3), int)]
)
def test_impossible_embeddings(directions: np.ndarray) -> None:
    with pytest.raises(InputError, match="not a concept embedding"):
        Embedding(directions, "image", "", "")


@pytest.mark.parametrize("good", ["sks", "Anna Maria", "O'Neil", "小花", "x" * 64])
def test_identifiers(good: str) -> None:
    assert check_identifier(good) == good


@pytest.mark.parametrize(
    "bad", ["", " ", " a", "a ", "a/b", "a\\b", "a\nb", "a\0", "x" * 65, "..", "\ud800", "a\u200b"]
)
def test_impossible_identifiers(bad: str, concept: Concept) -> None:
    with pytest.raises(InputError, match="Invalid identifier"):
        check_identifier(bad)
    with pytest.raises(InputError):
        Concept(bad, "mug", concept.head)


def test_category_and_kind_are_checked(concept: Concept) -> None:
    for category in (" ", "a\nb"):
        with pytest.raises(InputError, match="Invalid category"):
            Concept("sks", category, concept.head)
    with pytest.raises(InputError, match="differs from that of its head"):
        Concept("sks", "mug", concept.head, kind="face")


def test_words_are_replaced_exactly() -> None:
    assert replace_word("Sks, sks's and SKS-like; asks sks_1 sksé", "sks", r"\1 my mug") == (
        r"\1 my mug, \1 my mug's and \1 my mug-like; asks sks_1 sksé"
    )
    assert replace_word("一只sks在桌上", "sks", "ohwx") == "一只ohwx在桌上"
    assert replace_word("a c++ b", "c++", "rust") == "a rust b"
    assert contains_word("The SKS.", "sks")
    assert not contains_word("asks", "sks")
    assert replace_words("sks by ohwx", {"sks": "ohwx", "ohwx": "sks"}) == "ohwx by sks"
    assert replace_words("Anna Maria and Anna", {"anna": "Eve", "anna maria": "Ida"}) == "Ida and Eve"
    assert replace_words("as it is", {}) == "as it is"


def test_no_pickle_and_plain_tensors_only(saved: Path) -> None:
    assert {name: array.dtype for name, array in load_file(saved / "head.safetensors").items()} == {
        "coef": np.float32,
        "intercept": np.float32,
        "witness": np.float32,
    }
    shutil.rmtree(saved)
