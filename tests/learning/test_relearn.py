"""Learn a concept again for another model, from the recipe in its folder."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myvlm import Concept, Embedding, LearnSettings, MyVLM
from myvlm.errors import ConceptExistsError, ConceptFileError, InputError, MissingFileError, MyVLMError
from myvlm.images import load_images
from myvlm.learning import relearn as recipe_module
from myvlm.learning.relearn import kept_photos, lesson_again, settings_again
from myvlm.learning.settings import default_settings
from myvlm.tinyworld import FewShot, few_shot
from tests.support.relearning import NAME, SETTINGS, learned_with_photos, other_weights, photos_on_disk
from tests.support.taught import COLOURS, around
from tests.support.tiny_blip2 import tiny_blip2

GOLDEN = Path(__file__).parents[1] / "golden" / "format-1"


@pytest.fixture(scope="module")
def kit() -> FewShot:
    return few_shot(3, photos=3, tests=1)


@pytest.fixture(scope="module")
def trained_on(vlm: MyVLM) -> Any:
    return other_weights(vlm)


@pytest.fixture
def other(vlm: MyVLM, trained_on: Any) -> MyVLM:
    return MyVLM(trained_on, vlm.backbone.processor, name=NAME, encoder=COLOURS)


@pytest.fixture
def photos(kit: FewShot, tmp_path: Path) -> list[Path]:
    return photos_on_disk(kit, tmp_path / "photos")


@pytest.fixture
def folder(quick: MyVLM, kit: FewShot, photos: list[Path], tmp_path: Path) -> Path:
    return learned_with_photos(quick, kit, photos, tmp_path / "concept")


def bare(folder: Path) -> Path:
    shutil.rmtree(folder / "photos")
    return folder


def lesson(concept: Concept, images: Any = None, **given: Any) -> Any:
    wanted: dict[str, Any] = {"captions": None, "questions": None, "negatives": None, "settings": SETTINGS}
    photos = load_images(kept_photos(concept) if images is None else images)
    return lesson_again(concept, photos, kept=images is None, **wanted | given)


# ---------------------------------------------------------------- two models, one folder


def test_two_weights_of_one_name_live_side_by_side(
    quick: MyVLM, other: MyVLM, vlm: MyVLM, kit: FewShot, folder: Path
) -> None:
    before = Concept.load(folder)
    weights = [one.backbone.fingerprint() for one in (quick, other)]
    assert weights[0] != weights[1]
    learned = other.relearn(folder, progress=False)
    assert other.concepts[kit.identifier] is learned
    assert learned.save(folder) == folder

    both = Concept.load(folder)
    assert list(both.embeddings) == [NAME, f"{NAME}@{weights[0]}"]
    assert [one.fingerprint for one in both.embeddings.values()] == weights[::-1]
    assert len(list((folder / "embeddings").iterdir())) == 2
    first = both.embedding_for(NAME, weights[0], quick.backbone.dim)
    assert np.array_equal(first.directions, before.embeddings[NAME].directions)
    second = both.embedding_for(NAME, weights[1], other.backbone.dim)
    assert not np.array_equal(second.directions, first.directions)
    assert second.settings == SETTINGS.model_dump()
    assert second.figures["steps"] == 2
    assert both.recipe == before.recipe
    assert sorted(one.name for one in (folder / "photos").iterdir()) == ["1.png", "2.png", "3.png"]
    card = (folder / "README.md").read_text()
    assert weights[0][:12] in card
    assert weights[1][:12] in card
    assert "The folder contains photos" in card

    third = around(vlm, encoder=COLOURS).relearn(folder, progress=False)
    assert list(third.embeddings) == [NAME, f"{NAME}@{weights[1]}"]
    assert np.array_equal(third.embeddings[NAME].directions, first.directions), "by its own seed, the same"


def test_another_family_gets_an_embedding_of_its_own(quick: MyVLM, kit: FewShot, tmp_path: Path) -> None:
    captions = ["sks on a table"] * 3
    concept = quick.learn(
        "sks", kit.photos(), category="mug", captions=captions, settings=SETTINGS, progress=False
    )
    concept.save(tmp_path / "sks", include_photos=kit.photos())
    model, processor = tiny_blip2(language="opt")
    blip2 = MyVLM(model, processor, name="tiny/blip2", encoder=COLOURS)
    learned = blip2.relearn(tmp_path / "sks", settings=SETTINGS, progress=False)
    learned.save(tmp_path / "sks")
    both = Concept.load(tmp_path / "sks")
    assert list(both.embeddings) == ["tiny/blip2", NAME]
    assert both.embeddings["tiny/blip2"].directions.shape == (2, blip2.backbone.dim)
    assert both.recipe == concept.recipe


def test_what_is_not_said_is_the_default_of_the_models_family(
    folder: Path, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    concept = dataclasses.replace(Concept.load(folder), identifier="sks", spoken="sks")

    def stop(_: Any, requests: Any, *, report: Any) -> Any:
        asked.extend(requests)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_module, "learn_embeddings", stop)
    blip2 = MyVLM(*tiny_blip2(language="opt"), name="tiny/blip2", encoder=COLOURS)
    with pytest.raises(KeyboardInterrupt):
        blip2.relearn(concept, kit.photos(), captions=["sks on a table"] * 3, progress=False)
    [settings] = [one.settings for one in asked]
    assert (settings.steps, settings.regularizer) == (75, 0.04), "the paper's, of BLIP-2"
    assert (settings.rows, settings.seed) == (SETTINGS.rows, SETTINGS.seed)


def test_a_model_that_takes_the_same_weights_under_another_name_keeps_one_embedding(folder: Path) -> None:
    concept = Concept.load(folder)
    one = concept.embeddings[NAME]
    plain = Embedding(one.directions, "none", one.prompt, one.fingerprint, one.settings, one.figures)
    again = concept.with_embedding("a/copy", plain)
    assert list(again.embeddings) == ["a/copy"]
    assert list(concept.embeddings) == [NAME], "the concept itself is as it was"


# ---------------------------------------------------------------- warnings


def test_loading_a_concept_of_another_model_says_so_and_how_to_learn_it(
    other: MyVLM, quick: MyVLM, kit: FewShot, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="myvlm"):
        quick.concepts.remove(kit.identifier)
        quick.concepts.add(folder)
        assert caplog.messages == []
        other.concepts.add(folder)
    [said] = caplog.messages
    assert f"{kit.identifier!r} was learned for another model than {NAME}" in said
    assert f'vlm.relearn("{folder}")' in said
    assert f"`myvlm relearn {folder} --backbone {NAME}`" in said
    with pytest.raises(ConceptFileError, match="learned for another model") as raised:
        other.attention(kit.photos()[0], kit.identifier)
    assert f'vlm.relearn("{folder}")' in str(raised.value)
    bare(folder)
    with pytest.raises(ConceptFileError) as raised:
        other.attention(kit.photos()[0], kit.identifier)
    assert f'vlm.relearn("{folder}", images=[...])' in str(raised.value)
    other.relearn(folder, kit.photos(), progress=False)
    assert other.attention(kit.photos()[0], kit.identifier).values.sum() == pytest.approx(1, abs=1e-4)


def test_a_concept_that_is_in_no_folder_says_how_too(other: MyVLM, quick: MyVLM, kit: FewShot) -> None:
    concept = quick.learn(
        kit.identifier, kit.photos(), category=kit.category, captions=kit.captions(), settings=SETTINGS,
        progress=False,
    )  # fmt: skip
    with pytest.raises(ConceptFileError, match="images=") as raised:
        concept.embedding_for(NAME, "0" * 32, concept.embeddings[NAME].directions.shape[1])
    assert f"vlm.relearn(vlm.concepts[{kit.identifier!r}], images=[...])" in str(raised.value)
    learned = other.relearn(concept, kit.photos(), progress=False)
    assert len(learned.embeddings) == 2
    assert len(concept.embeddings) == 1


# ---------------------------------------------------------------- the recipe


def test_without_photos_it_is_said_which_are_needed(other: MyVLM, folder: Path) -> None:
    with pytest.raises(InputError, match=r"was saved without its photos") as raised:
        other.relearn(bare(folder), progress=False)
    assert "c.png, a.png, b.png" in str(raised.value)
    assert "images=[...]" in str(raised.value)
    assert "myvlm relearn" in str(raised.value)
    assert len(other.concepts) == 0


def test_captions_and_questions_go_with_photos_by_name(
    folder: Path, photos: list[Path], kit: FewShot
) -> None:
    concept = Concept.load(folder)
    written, asked = kit.captions(), [[list(pair) for pair in own] for own in kit.questions()]
    kept = lesson(concept)
    assert (kept.captions, kept.questions) == (written, asked)
    turned = lesson(concept, [photos[2], photos[0]])
    assert turned.captions == [written[2], written[0]]
    assert turned.questions == [asked[2], asked[0]]
    in_order = lesson(concept, kit.photos())
    assert in_order.captions == written
    (photos[0].parent / "more").mkdir()
    twin = Path(shutil.copy(photos[0], photos[0].parent / "more" / "a.png"))
    assert lesson(concept, [*photos[1:], twin]).captions == written, "two photos of one name: in order"
    own = lesson(concept, photos, captions=[f"{kit.identifier} on a desk"] * 3, questions=[("a ?", "b")])
    assert own.captions == [f"{kit.identifier} on a desk"] * 3
    assert own.questions == [["a ?", "b"]]


def test_photos_without_names_must_be_as_many_as_the_captions(
    other: MyVLM, folder: Path, kit: FewShot
) -> None:
    with pytest.raises(
        InputError, match=r"(?s)2 photos, and captions of 3 in the recipe\n.*c\.png, a\.png, b\.png"
    ):
        other.relearn(folder, kit.photos()[:2], progress=False)
    given = {"captions": kit.captions()[:2], "settings": {"steps": 1}}
    learned = other.relearn(folder, kit.photos()[:2], **given, progress=False)  # type: ignore[arg-type]
    settings = LearnSettings(steps=1).over(default_settings(NAME))
    assert learned.embeddings[NAME].settings == settings.model_dump(), "what is not set is the model's"
    assert learned.recipe["captions"] == kit.captions()[:2]
    assert learned.recipe["questions"] == [[], []], "questions of other photos are not asked"


def test_captions_that_a_model_wrote_are_written_again(
    quick: MyVLM, other: MyVLM, kit: FewShot, tmp_path: Path
) -> None:
    concept = quick.learn(
        kit.identifier, kit.photos(), category=kit.category, settings=SETTINGS, progress=False
    )
    concept.save(tmp_path / "concept", include_photos=kit.photos())
    assert lesson(concept).captions is None
    again = other.relearn(tmp_path / "concept", kit.photos()[:2], progress=False)
    assert again.recipe["captions_by"] == "model"
    assert len(again.recipe["captions"]) == 2
    assert again.recipe["captions"] != concept.recipe["captions"][:2]


def test_settings_carry_over_only_between_weights_of_one_name(folder: Path) -> None:
    concept = Concept.load(folder)
    default = LearnSettings(learning_rate=0.5, steps=7)
    assert settings_again(concept, NAME, default) == SETTINGS
    assert settings_again(concept, "a/b", default) == LearnSettings(rows=2, seed=5).over(default)
    moved = dataclasses.replace(concept, embeddings={f"{NAME}@ab": concept.embeddings[NAME]})
    assert settings_again(moved, NAME, default) == SETTINGS
    concept.embeddings[NAME].settings["rows"] = -1
    with pytest.raises(ConceptFileError, match="settings"):
        settings_again(concept, NAME, default)


def test_a_folder_of_the_first_format_has_a_recipe_too() -> None:
    concept = Concept.load(GOLDEN)
    [photo] = load_images(np.zeros((8, 8, 3), np.uint8))
    assert lesson(concept, photo).captions == [["sks on a désk"]]
    assert lesson(concept, photo).questions is None
    assert settings_again(concept, NAME, LearnSettings()).steps == 100
    with pytest.raises(InputError, match="was saved without its photos"):
        lesson(concept)
    concept.recipe["captions"] = "sks"
    with pytest.raises(ConceptFileError, match="recipe: captions"):
        lesson(concept, photo)


def test_a_renamed_concept_learns_its_own_word(other: MyVLM, folder: Path, kit: FewShot) -> None:
    other.concepts.add(folder)
    other.concepts.rename(kit.identifier, "my thing")
    own, theirs = ([f"{word} on a desk"] * 3 for word in ("my thing", kit.identifier))
    by_name, told = (dict(zip(["a.png", "b.png", "c.png"], texts, strict=True)) for texts in (own, theirs))
    assert lesson(other.concepts["my thing"], captions=own).captions == theirs
    assert lesson(other.concepts["my thing"], captions=by_name).captions == told
    learned = other.relearn(folder, progress=False)
    assert list(other.concepts) == ["my thing"]
    assert (learned.identifier, learned.spoken) == ("my thing", kit.identifier)
    assert other.concepts["my thing"] is learned


# ---------------------------------------------------------------- the head


def test_the_head_stays_unless_its_encoder_changed(
    other: MyVLM, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = Concept.load(folder).head.state()
    kept = other.relearn(folder, progress=False).head.state()
    assert kept[0] == before[0]
    assert all(np.array_equal(kept[1][name], before[1][name]) for name in before[1])
    assert caplog.messages == []

    concept = other.concepts[next(iter(other.concepts))]
    concept.head.encoder_fingerprint_ = -concept.head.encoder_fingerprint_  # type: ignore[attr-defined]
    with pytest.raises(ConceptFileError):
        concept.head.score(load_images(folder / "photos"))
    with caplog.at_level(logging.WARNING, logger="myvlm"):
        again = other.relearn(concept, progress=False)
    assert "Refitting the head" in caplog.text
    assert np.array_equal(again.head.state()[1]["witness"], before[1]["witness"])
    assert len(other.concepts.recognise(load_images(folder / "photos"))) == 3


# ---------------------------------------------------------------- the library, and failures


def test_a_concept_is_replaced_in_its_place(other: MyVLM, quick: MyVLM, folder: Path, kit: FewShot) -> None:
    concept = Concept.load(folder)
    others = [dataclasses.replace(concept, identifier=n, spoken=n, folder=None) for n in ("first", "last")]
    other.concepts.add_all([others[0], folder, others[1]])
    other.concepts.false_names_per_1000 = None  # thresholds as without other concepts
    learned = other.relearn(folder, progress=False)
    assert list(other.concepts) == ["first", kit.identifier, "last"]
    [found] = other.concepts.recognise(folder / "photos" / "1.png")
    assert [one.identifier for one in found] == ["first", kit.identifier, "last"]
    assert found[0].probability == found[1].probability == found[2].probability
    elsewhere = type(learned.head).from_state(*learned.head.state())
    elsewhere.crops = "none"  # type: ignore[attr-defined]
    moved = dataclasses.replace(learned, head=elsewhere)
    assert other.concepts.replace(moved) is learned
    [found] = other.concepts.recognise(folder / "photos" / "1.png")
    assert [one.identifier for one in found] == ["first", kit.identifier, "last"]
    assert found[1].probability == pytest.approx(elsewhere.score(folder / "photos" / "1.png")[0].probability)
    with pytest.raises(MyVLMError, match="There is no concept 'nobody'"):
        other.concepts.replace(dataclasses.replace(learned, identifier="nobody"))


def test_corrections_that_were_not_saved_yet_stay(other: MyVLM, folder: Path, kit: FewShot) -> None:
    other.concepts.add(folder)
    other.concepts.correct(few_shot(1).photos()[0], kit.identifier, present=False)
    again = other.relearn(folder, progress=False)
    assert len(again.head.known_examples().corrections) == 1  # type: ignore[attr-defined]
    assert other.concepts[kit.identifier] is again


def test_another_concept_of_that_name_is_in_the_way(other: MyVLM, folder: Path, kit: FewShot) -> None:
    twin = dataclasses.replace(Concept.load(folder), folder=None)
    other.concepts.add(twin)
    with pytest.raises(ConceptExistsError, match="is already in use"):
        other.relearn(folder, progress=False)
    assert other.concepts[kit.identifier] is twin


def test_an_identifier_is_told_from_a_folder(other: MyVLM, folder: Path, kit: FewShot) -> None:
    other.concepts.add(folder)
    with pytest.raises(
        MissingFileError, match=rf"pass the concept: vlm.relearn\(vlm.concepts\['{kit.identifier}"
    ):
        other.relearn(kit.identifier, progress=False)
    with pytest.raises(MissingFileError, match="no concept folder nobody"):
        other.relearn("nobody", progress=False)


def test_a_failure_leaves_library_and_folder_as_they_were(
    other: MyVLM, folder: Path, kit: FewShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.concepts.add(folder)
    before, record = other.concepts[kit.identifier], (folder / "concept.json").read_bytes()

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_module, "learn_embeddings", broken)
    with pytest.raises(KeyboardInterrupt):
        other.relearn(folder, progress=False)
    assert other.concepts[kit.identifier] is before
    assert list(before.embeddings) == [NAME]
    assert (folder / "concept.json").read_bytes() == record
