"""`benchmarks/names.py`: a user who gives the same object another name."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from myvlm import MyVLM


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delitem(sys.modules, "names", raising=False)
    import names

    return names


@pytest.mark.slow
def test_a_user_learns_and_asks_under_another_name(
    names: ModuleType, vlm: MyVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(names.LOADED, "vlm", vlm)
    tokens, tally = names.one_run((0, "sks", 4))
    assert tokens == len(vlm.backbone.word_ids("sks"))
    assert set(tally.outcomes) == set(names.FIGURES)
    assert tally.rate("recall") >= 0.75
    assert tally.rate("blind_category") in (0, 1)
    assert len(tally.outcomes["unseen_wording"][names.SEED]) == 4
