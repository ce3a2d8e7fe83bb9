"""The last line of `benchmarks/paper_tables.py`: keys, differences, null where not measured."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from myvlm.evaluation.data.plan import read_sweep
from myvlm.evaluation.metrics.intervals import Estimate
from myvlm.evaluation.report.tables import Table, TableRow
from myvlm.tinyworld.language import caption


@pytest.fixture
def paper_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delitem(sys.modules, "paper_tables", raising=False)
    import paper_tables

    return paper_tables


def row(label: str, recall: float, **others: float) -> TableRow:
    figures = {"recall": Estimate(recall, recall - 0.05, recall + 0.05, 8)}
    figures |= {name: Estimate(value, value, value, 8) for name, value in others.items()}
    return TableRow(label, ("myvlm", 4, label), "all", figures)


def found(*methods: TableRow) -> Any:
    ablation = Table("Ablation", "variant", [row("default", 0.9), row("captions=model", 0.88)])
    return SimpleNamespace(
        tables=[Table("Methods", "method", methods), Table("Photos", "photos", []), ablation]
    )


def test_the_last_line_has_all_its_keys(paper_tables: ModuleType) -> None:
    last = paper_tables.summary(
        found(
            row("myvlm", 0.95, vqa=0.9, learn_seconds=30.04),
            row("plain", 0.0, vqa=0.5),
            row("keyword", 0.4),
            row("random", 0.1),
        )
    )
    assert (last["recall"], last["recall_keyword"], last["recall_random"]) == (0.95, 0.4, 0.1)
    assert last["recall_llm"] is None
    assert last["recall_text_prompt"] is None
    assert (last["vqa_gain"], last["captions_none_gap"]) == (0.4, 0.02)
    assert last["recall_intervals"] == {
        "recall": [0.9, 1.0], "recall_keyword": [0.35, 0.45], "recall_random": [0.05, 0.15]
    }  # fmt: skip
    assert last["recall_above"] == ["keyword", "random"]
    assert last["seconds"] == {"myvlm": 30.0}
    near = paper_tables.summary(found(row("myvlm", 0.95), row("keyword", 0.9)))
    assert near["recall_above"] == [], "0.90 is not below 0.95"


def test_f1_is_compared_with_baselines_that_have_no_head(paper_tables: ModuleType) -> None:
    rows = [row("myvlm", 1.0, f1=0.97), row("keyword", 1.0, f1=0.97), row("keyword_alone", 1.0, f1=0.8)]
    last = paper_tables.summary(found(*rows))
    assert (last["f1"], last["f1_keyword_alone"], last["f1_llm_alone"]) == (0.97, 0.8, None)
    assert last["f1_above"] == ["keyword_alone"]
    assert last["recall_above"] == []


def test_a_backbone_without_weights_is_null_and_said(
    paper_tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paper_tables.assets, "WEIGHTS", tmp_path)
    notes: list[str] = []
    assert not paper_tables.is_here("tinyworld/blip2", notes)
    assert "tinyworld/blip2 was not measured" in notes[0]
    assert paper_tables.is_here("llava-hf/llava-1.5-7b-hf", notes)
    last = paper_tables.summary(None)
    assert {last[key] for key in ("recall", "recall_llm", "vqa_gain", "captions_none_gap")} == {None}


def test_a_backbone_of_the_world_brings_its_data_and_others_need_theirs(paper_tables: ModuleType) -> None:
    here, data = "tinyworld/smollm2", Path("data")
    assert paper_tables.fits("tinyworld", None, None)
    assert paper_tables.fits(None, here, None)
    assert paper_tables.fits(None, "llava-hf/llava-1.5-7b-hf", data)
    for wrong in ((None, None, None), (None, "a/b", None), (None, here, data), ("tinyworld", here, None)):
        assert not paper_tables.fits(*wrong)


def test_what_is_swept_over_can_be(paper_tables: ModuleType) -> None:
    names = [variant.name for variant in read_sweep(paper_tables.SWEEP)]
    assert "regularizer=0" in names
    assert "captions=model" in names
    methods, notes = paper_tables.methods_here()
    assert methods[0] == "myvlm"
    assert "plain" in methods
    assert len(methods) + len(notes) == 1 + sum(
        map(len, (paper_tables.UNTRAINED, paper_tables.BASELINES, paper_tables.ALONE, paper_tables.CONTROLS))
    )


def test_a_name_of_the_other_mug_is_not_right(paper_tables: ModuleType, tmp_path: Path) -> None:
    [kit] = paper_tables.users(subjects=1, tests=3)
    file = paper_tables.write_dataset(tmp_path, subjects=1, tests=3, crowded=True)
    crowd = [
        photo for photo in paper_tables.read_dataset(file).subjects[0].photos if "crowd-" in str(photo.file)
    ]
    assert len(crowd) == 3

    def jobs(method: str, name: str) -> list[Any]:
        """The right object of each scene, or every object, replaced by a name."""
        said = []
        for photo, scene in zip(crowd, kit.crowd, strict=True):
            names = {t.look: name for t in scene.things if method == "keyword" or t.look == kit.look}
            said.append(SimpleNamespace(file=photo.file, text=caption(scene, Random(1), names)))
        job = SimpleNamespace(
            method=method, subject=kit.identifier, photos=4, variant=SimpleNamespace(name="default")
        )
        return [(job, SimpleNamespace(present=said))]

    name = kit.identifier
    rights = paper_tables.rights_of(
        [*jobs("myvlm", name), *jobs("keyword", name), *jobs("plain", "a mug")], [kit]
    )
    assert {method: one.mean for method, one in rights.items()} == {
        "myvlm": 1.0,
        "keyword": 0.0,
        "plain": 0.0,
    }
    last = paper_tables.summary(found(row("myvlm", 1.0), row("keyword", 1.0)), rights)
    assert (last["right"], last["right_keyword"], last["right_llm"]) == (1.0, 0.0, None)
    assert last["right_above"] == ["keyword"]
