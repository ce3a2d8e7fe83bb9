"""The example concepts of the repository load, detect their objects and are named in captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from myvlm import Concept, MyVLM
from myvlm.images import load_images
from myvlm.text import contains_word

FOLDERS = sorted(f.parent for f in (Path(__file__).parents[2] / "concepts").glob("*/concept.json"))


def test_there_are_two() -> None:
    assert len(FOLDERS) == 2


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_worked_concept_speaks(folder: Path, fresh: MyVLM) -> None:
    concept = fresh.concepts.add(folder)
    assert isinstance(concept, Concept)
    assert (folder / "README.md").read_text(encoding="utf-8").strip()
    assert concept.recipe["captions"]
    photos = load_images(folder / "photos")
    assert len(photos) == 4
    replies = fresh.caption(photos)
    assert all(reply.seen == (concept.identifier,) for reply in replies)
    assert all(contains_word(reply.text, concept.identifier) for reply in replies)
