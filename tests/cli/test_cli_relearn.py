"""`myvlm relearn`: the folder gets a further embedding, or stays the same to the byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from myvlm import Concept, MyVLM
from myvlm.learning import relearn as recipe_module
from myvlm.tinyworld import FewShot, few_shot
from tests.support.command import Myvlm
from tests.support.relearning import NAME, learned_with_photos, other_weights, photos_on_disk
from tests.support.taught import COLOURS


@pytest.fixture(scope="module")
def kit() -> FewShot:
    return few_shot(3, photos=3, tests=1)


@pytest.fixture
def photos(kit: FewShot, tmp_path: Path) -> list[Path]:
    return photos_on_disk(kit, tmp_path / "photos")


@pytest.fixture
def folder(quick: MyVLM, kit: FewShot, photos: list[Path], tmp_path: Path) -> Path:
    return learned_with_photos(quick, kit, photos, tmp_path / "concept")


@pytest.fixture
def relearning(vlm: MyVLM, folder: Path, myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch) -> Myvlm:
    """The command, with the embedded model but other weights than the folder was learned for."""
    other = MyVLM(other_weights(vlm), vlm.backbone.processor, name=NAME, encoder=COLOURS)
    monkeypatch.setattr(MyVLM, "from_pretrained", lambda *_, **__: other)
    return myvlm


def test_the_command_adds_an_embedding_to_the_folder(
    relearning: Myvlm, folder: Path, photos: list[Path]
) -> None:
    shutil.rmtree(folder / "photos")
    refused = relearning("relearn", folder, "--quiet")
    assert refused.code == 2
    assert "c.png, a.png, b.png" in refused.stderr
    assert "PHOTOS" in refused.stderr
    assert list(Concept.load(folder).embeddings) == [NAME]

    done = relearning("relearn", folder, *photos, "--quiet", "--json")
    assert done.code == 0, done.stderr
    assert done.document["command"] == "relearn"
    assert done.document["figures"]["steps"] == 2
    assert len(Concept.load(folder).embeddings) == 2
    assert not (folder / "photos").exists()
    assert relearning("relearn", folder, *photos, "--quiet", "--keep-photos").code == 0
    assert len(list((folder / "photos").iterdir())) == 3
    assert relearning("relearn", folder / "nowhere").code == 2


def test_ctrl_c_leaves_the_folder_alone(
    relearning: Myvlm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "concept.json").read_bytes()
    learn = recipe_module.learned_again

    def stopped(*given: Any, **named: Any) -> Concept:
        concept = learn(*given, **named)
        concept.embeddings[NAME].figures["interrupted"] = True
        return concept

    monkeypatch.setattr(recipe_module, "learned_again", stopped)
    done = relearning("relearn", folder)
    assert done.code == 130
    assert f"The concept in {folder} is unchanged" in done.stderr
    assert (folder / "concept.json").read_bytes() == before
