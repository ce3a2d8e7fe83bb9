"""The personalized model as a model of lmms-eval and of VLMEvalKit.

The kits run only where they are installed, each in its own process, because they change imported packages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from myvlm import MyVLM
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError
from myvlm.integrations import lmms_eval as lmms
from myvlm.integrations import personalized as kits
from myvlm.integrations import vlmeval
from tests.support.kit_task import CAPTION, CONCEPT, documents

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
WORKED = ROOT / "concepts" / "ulmo-mug"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one concept."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(WORKED, folder / WORKED.name)
    return folder


@pytest.fixture(scope="module")
def answering(library: Path) -> lmms.LmmsModel:
    model = lmms.LmmsModel("tinyworld/llava", concepts=str(library), device="cpu", batch_size=2)
    model.cache_hook = SimpleNamespace(add_partial=lambda *_: None)
    return model


def requests(docs: list[dict[str, Any]], **settings: Any) -> list[Any]:
    """Requests as lmms-eval makes them from a task's documents, which the model finds in its `task_dict`."""
    settings = {"max_new_tokens": 24, "temperature": 0, **settings}
    return [
        SimpleNamespace(args=(doc["question"], settings, lambda doc: [doc["image"]], number, "tiny", "test"))
        for number, doc in enumerate(docs)
    ]


def said(model: lmms.LmmsModel, docs: list[dict[str, Any]], **settings: Any) -> list[str]:
    model.task_dict = {"tiny": {"test": docs}}
    return model.generate_until(requests(docs, **settings))


# ------------------------------------------------------------------ without the kits


def test_concepts_are_said_where_they_are_seen_and_nothing_changes_elsewhere(
    answering: lmms.LmmsModel,
) -> None:
    seen, unseen = documents(True), documents(False)
    taught, other = said(answering, seen), said(answering, unseen)
    answering.plain = True
    try:
        plain, same = said(answering, seen), said(answering, unseen)
    finally:
        answering.plain = False
    assert other == same
    assert len(set(same)) > 1
    assert all(CONCEPT.identifier in text.split() for text in taught)
    assert not any(CONCEPT.identifier in text.split() for text in plain)


def test_answers_come_in_the_order_of_the_requests_whatever_the_batch(answering: lmms.LmmsModel) -> None:
    docs = documents(False)[:4] + documents(True)[:2]
    together = said(answering, docs)
    assert together == [said(answering, [doc])[0] for doc in docs]
    ended = said(answering, docs, until=[" "])
    assert ended == [text.split(" ")[0] for text in together]


def test_a_placeholder_of_the_kit_is_left_out(answering: lmms.LmmsModel) -> None:
    [doc] = documents(True)[:1]
    assert said(answering, [{**doc, "question": f"<image>\n{CAPTION}"}]) == said(answering, [doc])


def test_what_a_personalized_model_cannot_do_is_said(answering: lmms.LmmsModel) -> None:
    [doc] = documents(True)[:1]
    answering.task_dict = {"tiny": {"test": [doc]}}
    [request] = requests([doc])
    several = SimpleNamespace(args=(*request.args[:2], lambda doc: [doc["image"]] * 2, *request.args[3:]))
    with pytest.raises(InputError, match="tiny 0 does not have exactly one picture"):
        answering.generate_until([several])
    with pytest.raises(InputError, match="a task of type loglikelihood"):
        answering.loglikelihood([request])
    with pytest.raises(InputError, match="not likelihoods or several rounds"):
        answering.generate_until_multi_round([request])


def test_vlmevalkit_is_answered_in_the_same_words(
    library: Path, answering: lmms.LmmsModel, tmp_path: Path
) -> None:
    docs = documents(True)[:1] + documents(False)[:1]
    model = vlmeval.VLMEvalModel(
        "tinyworld/llava", concepts=str(library), device="cpu", generation={"max_new_tokens": 24}
    )
    for doc, expected in zip(docs, said(answering, docs), strict=True):
        doc["image"].save(tmp_path / "picture.png")
        message = [
            {"type": "image", "value": str(tmp_path / "picture.png")},
            {"type": "text", "value": doc["question"]},
        ]
        assert model.generate_inner(message, "tiny") == expected
    with pytest.raises(InputError, match="tiny does not have exactly one picture"):
        model.generate_inner(message[1:], "tiny")


def test_a_concept_of_another_model_is_refused_before_anything_is_answered(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MyVLM, "from_pretrained", lambda name, concepts, **_: _other(name, concepts))
    with pytest.raises(ConceptFileError, match="tinyworld/llava"):
        kits.open_personalized("tinyworld/other", concepts=library)


def _other(name: str, concepts: Path) -> Any:
    backbone = SimpleNamespace(name=name, dim=8, fingerprint=lambda: "another")
    return SimpleNamespace(backbone=backbone, concepts=ConceptLibrary.load(concepts))


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(lmms.manifest, "lmms_eval", "lmms"), (lmms.model_class, "lmms_eval", "lmms"),
     (vlmeval.model_class, "vlmeval", "vlmeval")],
)  # fmt: skip
def test_a_missing_kit_is_named_with_its_extra(
    make: Any, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf'pip install "myvlm\[{extra}\]"'):
        getattr(make, "__wrapped__", make)()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]


def test_lmms_eval_finds_the_model_by_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["myvlm"].partition(":")
    assert module == lmms.__name__
    assert getattr(lmms, function) is lmms.manifest


# ------------------------------------------------------------------ the kits themselves


def run(script: str, library: Path, work: Path) -> Any:
    """The last line printed by a script in its own process without a network."""
    (work / "data").mkdir()
    places = {"HF_HOME": str(work / "hub"), "LMUData": str(work / "data")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / script), str(library), str(work)],
        env={**os.environ, **offline, **places}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: pip install 'myvlm[lmms]', best in an environment of its own",
)
def test_lmms_eval_scores_the_plain_model_the_same_where_no_concept_is_seen(
    library: Path, tmp_path: Path
) -> None:
    found = run("kit_lmms.py", library, tmp_path)
    assert found["personalized unseen"] == found["plain unseen"]
    assert len(found["plain unseen"]["said"]) == len(documents(False))
    assert found["plain unseen"]["score"] > 0.5
    assert found["plain seen"]["score"] == 0
    assert found["personalized seen"]["score"] == 1


@pytest.mark.skipif(
    find_spec("vlmeval") is None,
    reason="VLMEvalKit is not installed: pip install 'myvlm[vlmeval]', best in an environment of its own",
)
def test_vlmevalkit_gets_the_plain_models_answers_where_no_concept_is_seen(
    library: Path, tmp_path: Path
) -> None:
    found = run("kit_vlmeval.py", library, tmp_path)
    assert found["personalized unseen"] == found["plain unseen"]
    assert len(found["plain unseen"]) == len(documents(False))
    # Not in all of them: the kit stores pictures as JPEG, which blurs tinyworld's patterns.
    assert any(CONCEPT.identifier in text.split() for text in found["personalized seen"])
    assert not any(CONCEPT.identifier in text.split() for text in found["plain seen"])
