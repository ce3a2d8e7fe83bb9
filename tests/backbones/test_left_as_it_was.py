"""Every tensor, hook and flag of a model is unchanged after any use, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from myvlm.backbones.base import Backbone, ConceptRows
from myvlm.backbones.registry import backbone_for
from tests.support.taught import check_same, state_of
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_families import FAMILIES

MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "LLaVA-1.5": FAMILIES["LLaVA-1.5"],
    "Qwen2.5-VL": FAMILIES["Qwen2.5-VL"],
    "BLIP-2": tiny_blip2,
}
TIMES = int(os.environ.get("MYVLM_ATTACHED", "60"))
"""Set MYVLM_ATTACHED=1000 for a longer run by hand."""


def _use(backbone: Backbone, random: Random) -> None:
    """One random use; half of them are interrupted."""
    rows = [[ConceptRows(torch.randn(random.randint(1, 3), backbone.dim))]]
    shown, broken = pictures(1), random.random() < 0.5
    table = backbone.model.get_input_embeddings()

    def stop(*_: Any) -> None:
        raise ZeroDivisionError

    handle = table.register_forward_hook(stop) if broken else None
    try:
        with contextlib.suppress(ZeroDivisionError):
            use = random.choice(["generate", "loss", "map", "nothing within"])
            if use == "generate":
                backbone.generate(shown, ["Where?"], rows, max_new_tokens=2)
            elif use == "loss":
                backbone.answer_loss(backbone.encode(shown), ["Where?"], ["a mug"], rows)
            elif use == "map":
                backbone.attention_map(shown[0], "Where?", "a mug", "mug", rows[0])
            else:
                with backbone.inserted(rows):  # type: ignore[attr-defined]
                    raise ZeroDivisionError
    finally:
        if handle:
            handle.remove()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_left_as_it_was(name: str) -> None:
    backbone, random = backbone_for(*MODELS[name]()), Random(0)
    backbone.model.train()
    backbone.model.lm_head.weight.requires_grad_(False) if hasattr(backbone.model, "lm_head") else None
    backbone.generate(pictures(1), ["Where?"], [[]], max_new_tokens=1)  # adds transformers' own hooks
    for time in range(TIMES):
        before = state_of(backbone.model)
        _use(backbone, random)
        try:
            check_same(before, state_of(backbone.model))
        except AssertionError as error:
            raise AssertionError(f"after use {time}") from error
