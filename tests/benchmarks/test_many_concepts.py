"""Several concepts of one user in one picture: scenes, what a caption says of each, and the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import many_concepts
import pytest

from myvlm.tinyworld.multi_concept_user import multi_concept_user
from myvlm.tinyworld.said import mentions, said_of_it
from myvlm.tinyworld.world.scenes import Accent, Appearance, Scene, Thing

ROOT = Path(__file__).parents[2]
MUG = Appearance("mug", "red", "plain", Accent("gold", "star"))
DOG = Appearance("dog", "blue", "dotted")
CAR = Appearance("car", "green", "striped")
NAMES = {"sks": MUG, "vex": DOG, "ulmo": Appearance("bird", "white", "plain")}


def thing(look: Appearance, row: str, left: float) -> Thing:
    return Thing(look, "large", (left, 40.0, left + 40, 80.0), row, 0.0)  # type: ignore[arg-type]


def scene(*things: Thing) -> Scene:
    return Scene("beach", "sun", things, 1.0, 0)


def test_a_user_has_concepts_of_other_names_and_kinds_in_pictures_of_every_number() -> None:
    user, again = (
        multi_concept_user(1, seed=6, size=5, tests=6),
        multi_concept_user(1, seed=6, size=5, tests=6),
    )
    assert user == again
    assert len(set(user.names.values())) == len({look.category for look in user.names}) == 5
    assert all(look.held_out for look in user.names)
    assert not set(user.names) & set(multi_concept_user(0, seed=6, size=5, tests=1).names)
    assert [len(scenes) for scenes in user.scenes] == [6] * 5
    others = 0
    for count, scenes in enumerate(user.scenes):
        for one in scenes:
            here = user.present(one)
            assert len(here) == count
            kinds = {kit.category for kit in user.kits if kit.identifier in here}
            strangers = [t.look for t in one.things if t.look not in user.names]
            assert not kinds & {look.category for look in strangers}
            assert len(one.things) == count + len(strangers) <= 4
            others += len(strangers)
    assert others > 10
    trained = {own for kit in user.kits for own in kit.train}
    assert not trained & {one for scenes in user.scenes for one in scenes}


def test_a_caption_is_read_as_things_in_rows() -> None:
    text = "in the garden at night , vex beside a mug with a gold star behind a woman in plain blue ."
    dog, mug, woman = mentions(text, NAMES)
    assert (dog.word, dog.row, dog.beside) == ("vex", "back", (1,))
    assert (mug.word, mug.attributes, mug.row) == ("mug", {"gold", "star"}, "back")
    assert (woman.word, woman.attributes, woman.row, woman.beside) == (
        "woman",
        {"plain", "blue"},
        "front",
        (),
    )
    first, second = mentions("a striped green car in front of sks", NAMES)
    assert (first.row, first.attributes, second.row) == ("front", {"striped", "green"}, "back")
    assert [m.row for m in mentions("sks next to vex on the beach", NAMES)] == [None, None]
    assert mentions("on the beach in the sun", NAMES) == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("sks next to vex in front of a striped green car .", True),
        ("vex beside sks in front of a car .", False),  # on the wrong side
        (
            "a striped green car behind sks next to a dotted blue cat .",
            True,
        ),  # the neighbour's category does not matter
        ("sks with a gold star next to a dog .", True),
        ("ulmo next to vex in front of a car .", False),  # not named
        ("sks behind a dog .", False),  # in the wrong row
        ("sks next to a striped green car .", False),  # next to the wrong neighbour
        ("sks next to a plain red mug .", False),  # used for the neighbour while sks itself is described
        ("sks next to a dog in front of a red mug .", False),
        ("sks next to sks in front of a car .", False),
        ("sks with a teal ring next to a dog .", False),
        ("sks in striped green next to a dog .", False),
        ("sks next to ulmo in front of a car .", False),  # there is no bird, and no dog is one
    ],
)
def test_a_name_is_of_its_thing_by_what_is_said_of_it(text: str, right: bool) -> None:
    here = scene(thing(MUG, "front", 4), thing(DOG, "front", 50), thing(CAR, "back", 30))
    assert said_of_it(text, "sks", here, NAMES) is right


def test_what_stands_alone_has_nothing_beside_it() -> None:
    here = scene(thing(MUG, "front", 4), thing(DOG, "back", 50))
    assert said_of_it("sks in front of vex .", "sks", here, NAMES)
    assert not said_of_it("sks next to vex .", "sks", here, NAMES)
    with pytest.raises(ValueError, match="ulmo is not in the scene"):
        said_of_it("ulmo .", "ulmo", here, NAMES)


@pytest.mark.slow
def test_the_benchmark_ends_in_one_json_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.jsonl"
    asked = {"users": 1, "size": 2, "seeds": 1, "first": 6, "tests": 2, "workers": 1, "keep": kept}
    options = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "benchmarks/many_concepts.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"f1_1", "f1_2", "right_thing", "iou50", "plain_identical"} <= set(figures)
    assert figures["f1_1"] > 0
    assert figures["plain_identical"] == 1.0
    many_concepts.main(**asked)
    again = capsys.readouterr().out.strip().splitlines()[-1]
    assert json.loads(again) == figures, "what was kept is not measured again"
    assert len(kept.read_text().splitlines()) == 1
