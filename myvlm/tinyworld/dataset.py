"""Write a tinyworld evaluation set to disk: photos of subjects that none of its models has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from myvlm.tinyworld.fewshot import FewShot, few_shot
from myvlm.tinyworld.language import caption
from myvlm.tinyworld.smollm2.english import as_sentence
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import PEOPLE, Scene, Thing

TINYWORLD = "tinyworld"
"""The name by which `myvlm evaluate` takes this data set instead of a folder."""

REFERENCES = 5


def write_dataset(
    folder: Path,
    *,
    subjects: int = 6,
    seed: int = 0,
    photos: int = 8,
    tests: int = 12,
    crowded: bool = False,
    sentences: bool = False,
) -> Path:
    """Write pictures and `data.json`, and return the path of the latter.

    Args:
        folder: created if needed; existing files are overwritten.
        subjects: number of objects and people, whose categories alternate.
        seed: another seed gives other subjects.
        photos: number of photos per subject to draw training photos from. They are confounded on purpose: all
            show the same companion in the same weather.
        tests: number of unseen pictures per subject, and as many without it, half of them with a look-alike.
        crowded: whether to add as many pictures with the subject and another object of its category, named
            `crowd-0.png` and so on.
        sentences: whether captions, questions and answers are ordinary English, for a language model
            pretrained by others (`SPOKEN_BY`); else they are in tinyworld's own spaced words.

    >>> import tempfile
    >>> from myvlm.evaluation.data.dataset import read_dataset
    >>> file = write_dataset(Path(tempfile.mkdtemp()), subjects=1, photos=2, tests=2)
    >>> [mug] = read_dataset(file).subjects
    >>> mug.category, len(mug.photos), len(mug.negatives), mug.photos[-1].part
    ('mug', 4, 2, 'test')
    """
    kits = users(subjects=subjects, seed=seed, photos=photos, tests=tests)
    entries = [_entry(folder, kit, tests, crowded) for kit in kits]
    if sentences:
        entries = [
            {**entry, "photos": [_in_sentences(photo) for photo in entry["photos"]]} for entry in entries
        ]
    file = folder / "data.json"
    file.write_text(json.dumps({"subjects": entries}, indent=1) + "\n", encoding="utf-8")
    return file


def users(*, subjects: int = 6, seed: int = 0, photos: int = 8, tests: int = 12) -> list[FewShot]:
    """Return the few-shot sets whose pictures `write_dataset` writes."""
    return [few_shot(number, seed=seed, photos=photos, tests=tests) for number in range(subjects)]


def _entry(folder: Path, kit: FewShot, tests: int, crowded: bool) -> dict[str, Any]:
    own = folder / kit.identifier
    own.mkdir(parents=True, exist_ok=True)
    files = [_draw(own, f"train-{number}", scene) for number, scene in enumerate(kit.train)]
    train = [
        {"file": file, "part": "train", "captions": captions, "questions": questions}
        for file, captions, questions in zip(files, kit.captions(), kit.questions(), strict=True)
    ]
    unseen = {"test": kit.present, "crowd": kit.crowd if crowded else ()}
    test = [
        _test_photo(own, f"{name}-{number}", scene, kit)
        for name, scenes in unseen.items()
        for number, scene in enumerate(scenes)
    ]
    without = [*kit.look_alike[: tests // 2], *kit.other[: tests - tests // 2]]
    return {
        "identifier": kit.identifier,
        "category": kit.category,
        # tinyworld's people have no faces to tell them apart by, so their heads are object heads
        "kind": "object",
        "name": f"{kit.identifier}{' (person)' if kit.category in PEOPLE else ''}",
        "photos": [*train, *test],
        "negatives": [_draw(own, f"without-{n}", scene) for n, scene in enumerate(without)],
    }


def _in_sentences(photo: dict[str, Any]) -> dict[str, Any]:
    """The same photo, with its texts as English sentences."""
    asked = [[as_sentence(question), as_sentence(answer)] for question, answer in photo["questions"]]
    return {**photo, "captions": [as_sentence(text) for text in photo["captions"]], "questions": asked}


def _test_photo(own: Path, name: str, scene: Scene, kit: FewShot) -> dict[str, Any]:
    thing = scene.find(kit.look)
    assert thing is not None, "a scene of `present` shows the subject"
    random = Random(f"references {kit.identifier} {name.removeprefix('test-')}")
    return {
        "file": _draw(own, name, scene),
        "part": "test",
        "captions": [caption(scene, random, {kit.look: kit.identifier}) for _ in range(REFERENCES)],
        "questions": _unseen_questions(kit, scene),
        "box": list(thing.box),
    }


def _unseen_questions(kit: FewShot, scene: Scene) -> list[list[str]]:
    """Questions in wordings that no concept is trained with, in words that tinyworld's models know.

    A question is asked only if another object in the picture would have another answer: otherwise a model
    that does not know the subject would be right as well.
    """
    thing = scene.find(kit.look)
    assert thing is not None, "a scene of `present` shows the subject"
    asked: dict[str, Callable[[Thing], str]] = {
        "what is the colour of {} ?": lambda one: one.look.colour,
        "what pattern has {} ?": lambda one: one.look.pattern,
        "what is the size of {} ?": lambda one: one.size,
    }
    return [
        [form.format(kit.identifier), answer(thing)]
        for form, answer in asked.items()
        if any(answer(other) != answer(thing) for other in scene.things)
    ]


def _draw(own: Path, name: str, scene: Scene) -> str:
    file = own / f"{name}.png"
    draw_scene(scene).save(file)
    return f"{own.name}/{file.name}"
