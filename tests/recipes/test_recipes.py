"""Recipes: checked before the model is loaded, learned once, and again only what is missing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from myvlm import Concept, MyVLM
from myvlm.errors import ConceptExistsError, InputError, MissingFileError, MyVLMError
from myvlm.recipes.learning import RecipeOutcome, RecipeWork, is_learned, learn_all, learn_here, learn_on_ray
from myvlm.recipes.recipe import Recipe, read_recipes
from myvlm.tinyworld import few_shot
from tests.support.command import Myvlm
from tests.support.taught import COLOURS, around

NAME = "tinyworld/llava"
STEPS = {"steps": 2, "views": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two concepts of tinyworld with photos in folders next to the file; one has its captions in a file."""
    said = []
    for number in (0, 1):
        kit = few_shot(number)
        folder = tmp_path / kit.identifier
        folder.mkdir()
        for place, photo in enumerate(kit.photos()):
            photo.save(folder / f"{place}.png")
        said.append(
            {
                "identifier": kit.identifier,
                "category": kit.category,
                "photos": f"{kit.identifier}/*.png" if number else kit.identifier,
                "captions": [list(one) for one in kit.captions()],
                "settings": STEPS,
            }
        )
    (tmp_path / "captions.json").write_text(json.dumps(said[0]["captions"]))
    said[0]["captions"] = "captions.json"
    written = tmp_path / "recipes.yaml"
    written.write_text(yaml.safe_dump({"concepts": said}))
    return written


def test_a_recipe_is_the_call_that_it_stands_for(vlm: MyVLM, file: Path, tmp_path: Path) -> None:
    recipes = read_recipes(file)
    kit = few_shot(0)
    assert [Path(one).name for one in recipes[0].photos] == ["0.png", "1.png", "2.png", "3.png"]
    outcomes = list(learn_all(recipes, learn_here(around(vlm), tmp_path / "out")))
    assert [(one.identifier, one.error) for one in outcomes] == [(one.identifier, "") for one in recipes]
    made = Concept.load(recipes[0].place(tmp_path / "out"))
    expected = around(vlm).learn(
        kit.identifier, recipes[0].photos, category=kit.category, captions=kit.captions(),
        settings=STEPS, progress=False,
    )  # fmt: skip
    assert (made.embeddings[NAME].directions == expected.embeddings[NAME].directions).all()
    assert {**made.recipe, **expected.recipe} == made.recipe


def test_what_is_learned_is_known_until_its_recipe_changes(vlm: MyVLM, file: Path, tmp_path: Path) -> None:
    recipe, _ = read_recipes(file)
    out = tmp_path / "out"
    assert not is_learned(recipe, out, NAME)
    list(learn_all([recipe], learn_here(around(vlm, encoder=COLOURS), out)))
    assert is_learned(recipe, out, NAME)
    again = Concept.load(recipe.place(out))
    again.save(recipe.place(out))
    assert is_learned(recipe, out, NAME), "a corrected concept is still that of its recipe"
    for changed in (
        recipe.model_copy(update={"settings": {"steps": 3}}),
        recipe.model_copy(update={"photos": recipe.photos[:3]}),
    ):
        with pytest.raises(ConceptExistsError, match="not learned from this recipe"):
            is_learned(changed, out, NAME)
    Path(recipe.photos[0]).write_bytes(Path(recipe.photos[1]).read_bytes())
    with pytest.raises(ConceptExistsError, match="not learned from this recipe"):
        is_learned(recipe, out, NAME)


def test_what_is_lost_is_learned_again_and_what_never_comes_is_said() -> None:
    recipes = [Recipe(identifier=word, category="mug", photos=["a.png"]) for word in ("sks", "ulmo", "xylo")]
    asked: list[list[str]] = []

    def lossy(left: Sequence[Recipe]) -> Iterator[RecipeOutcome]:
        asked.append([one.identifier for one in left])
        yield from [RecipeOutcome(left[0].identifier)] * 2 if left[0].identifier != "xylo" else []

    outcomes = list(learn_all(recipes, lossy))
    assert asked == [["sks", "ulmo", "xylo"], ["ulmo", "xylo"], ["xylo"]]
    assert [(one.identifier, bool(one.error)) for one in outcomes] == [
        ("sks", False), ("ulmo", False), ("xylo", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"identifier": "a" * 65}, InputError, "aaa"),
        ({"photos": "nothing/*.png"}, MissingFileError, "nothing"),
        ({"photos": []}, InputError, "photos"),
        ({"settings": {"stepz": 3}}, InputError, "stepz"),
        ({"colour": "red"}, InputError, "colour"),
        ({"identifier": few_shot(1).identifier.upper()}, ConceptExistsError, "same identifier"),
        ({"captions": "nothing.json"}, MyVLMError, "nothing.json"),
    ],
)
def test_a_recipe_that_cannot_be_is_said_before_a_model_is_loaded(
    file: Path, change: dict[str, Any], error: type[MyVLMError], message: str
) -> None:
    said = yaml.safe_load(file.read_text())
    said["concepts"][0] |= change
    file.write_text(yaml.safe_dump(said))
    with pytest.raises(error, match=message) as raised:
        read_recipes(file)
    if "same identifier" not in message:
        assert f"Recipe 1, of {said['concepts'][0]['identifier']!r}, cannot be used" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "concepts: 3", "concepts: []", "a: [", "concepts: [3]"])
def test_what_is_no_file_of_recipes_is_said(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        read_recipes(file)


def test_the_command_goes_on_where_it_was_and_one_that_fails_ends_no_other(
    myvlm: Myvlm, file: Path, tmp_path: Path
) -> None:
    said = yaml.safe_load(file.read_text())
    said["concepts"].insert(0, {**said["concepts"][0], "identifier": "fnord", "category": "mug"})
    file.write_text(yaml.safe_dump(said))
    words = ["learn-all", file, "--concepts", tmp_path / "out", "--json"]
    first = myvlm(*words)
    assert first.code == 2
    [failed] = first.document["failed"]
    assert failed["identifier"] == "fnord"
    assert "fnord was not learned" in first.stderr
    names = [few_shot(0).identifier, few_shot(1).identifier]
    assert [one["identifier"] for one in first.document["learned"]] == names
    del said["concepts"][0]
    file.write_text(yaml.safe_dump(said))
    again = myvlm(*words)
    assert again.code == 0, again.stderr
    assert (again.document["learned"], again.document["known"]) == ([], names)


def test_the_fix_for_a_changed_recipe_works_literally(myvlm: Myvlm, file: Path, tmp_path: Path) -> None:
    said = yaml.safe_load(file.read_text())
    del said["concepts"][1]
    file.write_text(yaml.safe_dump(said))
    words = ["learn-all", file, "--concepts", tmp_path / "my out", "--json"]
    assert myvlm(*words).code == 0
    said["concepts"][0]["settings"] = {**STEPS, "steps": 3}
    file.write_text(yaml.safe_dump(said))
    changed = myvlm(*words)
    assert changed.code == 2
    [fix] = re.findall("fix: +(.*), or pass another folder", changed.stderr)
    program, *remove = shlex.split(fix)
    assert program == "myvlm"
    assert myvlm(*remove).code == 0
    again = myvlm(*words)
    assert [one["identifier"] for one in again.document["learned"]] == [few_shot(0).identifier]


def test_a_recipe_whose_files_are_not_there_ends_no_other(myvlm: Myvlm, file: Path, tmp_path: Path) -> None:
    said = yaml.safe_load(file.read_text())
    lost = {**said["concepts"][1], "identifier": "zwx", "photos": "gone"}
    unread = {**said["concepts"][1], "identifier": "ohwx", "captions": "captions.txt"}
    (tmp_path / "captions.txt").write_text("no JSON")
    taken = {**said["concepts"][1], "identifier": "sks"}
    (tmp_path / "out" / f"sks-{taken['category']}").mkdir(parents=True)
    (tmp_path / "out" / f"sks-{taken['category']}" / "mine.txt").touch()
    said["concepts"] = [lost, said["concepts"][0], unread, taken]
    file.write_text(yaml.safe_dump(said))
    run = myvlm("learn-all", file, "--concepts", tmp_path / "out", "--json")
    assert run.code == 2
    assert [one["identifier"] for one in run.document["learned"]] == [few_shot(0).identifier]
    failed = {one["identifier"]: one["error"] for one in run.document["failed"]}
    assert list(failed) == ["zwx", "ohwx", "sks"]
    assert "Recipe 1, of 'zwx', cannot be used: There is no file" in failed["zwx"]
    assert "is not JSON" in failed["ohwx"]
    assert "No concept can be written" in failed["sks"]
    assert "zwx was not learned" in run.stderr
    given: list[str] = []
    recipes = read_recipes(file, on_unusable=lambda identifier, error: given.append(identifier))
    assert given == ["zwx", "ohwx"]
    assert [one.identifier for one in recipes] == [few_shot(0).identifier, "sks"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own warnings
def test_a_cluster_learns_what_one_process_does(vlm: MyVLM, file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
    from tests.support.ray_cluster import nodes

    recipes = read_recipes(file)
    list(learn_all(recipes, learn_here(around(vlm), tmp_path / "here")))
    with nodes(2) as cluster:
        outcomes = []
        for outcome in learn_all(recipes, learn_on_ray(RecipeWork(NAME, "cpu", None, tmp_path / "there"))):
            outcomes.append(outcome)
            if len(outcomes) == 1:
                cluster.kill()
    assert sorted(one.identifier for one in outcomes) == sorted(one.identifier for one in recipes)
    assert not any(one.error for one in outcomes)
    for recipe in recipes:
        one, other = (Concept.load(recipe.place(tmp_path / place)) for place in ("here", "there"))
        assert (one.embeddings[NAME].directions == other.embeddings[NAME].directions).all()
