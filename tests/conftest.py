"""Shared fixtures: no network, two threads, the embedded model loaded once, one concept learned once.

Fixtures import heavy packages only when used, so tests of text and pictures run without torch.
"""

from __future__ import annotations

import copy
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before anything imports torch
os.environ["MYVLM_CACHE"] = tempfile.mkdtemp(prefix="myvlm-tests-")

import pytest

gc.disable()  # imports live for ever; scanning them took a third of the collection time

if TYPE_CHECKING:
    from myvlm import Concept, MyVLM
    from myvlm.backbones.families.llava import LlavaBackbone
    from myvlm.tinyworld import FewShot
    from tests.support.command import Myvlm
    from tests.support.taught import Taught


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["MYVLM_CACHE"], ignore_errors=True)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def vlm() -> MyVLM:
    """The embedded model, loaded once. Tests that change its library use `fresh`."""
    from tests.support import taught

    return taught.load()


@pytest.fixture
def fresh(vlm: MyVLM) -> MyVLM:
    """The same model with a library of its own."""
    from tests.support import taught

    return taught.around(vlm)


@pytest.fixture
def quick(vlm: MyVLM) -> MyVLM:
    """The same model with heads on an encoder of colours only: learns quickly, if not much."""
    from tests.support import taught

    return taught.around(vlm, encoder=taught.COLOURS)


@pytest.fixture(scope="session")
def taught(vlm: MyVLM, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """The first concept of tinyworld, learned from four photos on disk."""
    from tests.support.taught import learned

    return learned(vlm, tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def kit() -> FewShot:
    """A user's four photos of an object in tinyworld, and six unseen pictures of each kind."""
    from myvlm.tinyworld import few_shot

    return few_shot(0, photos=4, tests=6)


@pytest.fixture(scope="session")
def llava() -> tuple[Any, Any]:
    """A tiny random model and its processor, made once; tests that change it use `backbone`."""
    from tests.support.tiny import tiny_llava

    return tiny_llava()


@pytest.fixture
def backbone(llava: tuple[Any, Any]) -> LlavaBackbone:
    """A backbone around a copy of `llava`."""
    from myvlm.backbones.families.llava import LlavaBackbone

    return LlavaBackbone(copy.deepcopy(llava[0]), llava[1])


@pytest.fixture
def concept() -> Concept:
    """A concept made by hand: six features, two rows of five numbers for `org/model`."""
    from tests.support.taught import by_hand

    return by_hand()


@pytest.fixture
def saved(concept: Concept, tmp_path: Path) -> Path:
    """The folder of `concept`."""
    return concept.save(tmp_path / "sks-mug")


@pytest.fixture
def myvlm(vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Myvlm:
    """Runs the command in an empty working folder with the model that is already loaded."""
    from typer.testing import CliRunner

    from myvlm import MyVLM
    from myvlm.cli import app
    from tests.support.command import Run
    from tests.support.taught import around

    from_pretrained = MyVLM.from_pretrained
    here = tmp_path / "here"
    here.mkdir()

    def loaded(name: str, **options: Any) -> MyVLM:
        return around(vlm) if name == "tinyworld/llava" else from_pretrained(name, **options)

    monkeypatch.setattr(MyVLM, "from_pretrained", loaded)
    monkeypatch.chdir(here)
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *words: Run(runner.invoke(app, [str(word) for word in words]))


@pytest.fixture
def unchanged(vlm: MyVLM) -> Iterator[None]:
    """Check after the test that the frozen model is unchanged, to the bit."""
    from tests.support.taught import check_same, state_of

    before = state_of(vlm.backbone.model)
    yield
    check_same(before, state_of(vlm.backbone.model))
