"""The caller's process-wide settings (autocast, default dtype, determinism) do not change our results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch

from myvlm import LearnSettings, MyVLM
from myvlm.heads.features import forget_pictures
from myvlm.tinyworld import few_shot

Learned = dict[str, npt.NDArray[np.float32]]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "float64": partial(default_dtype, torch.float64),
    "float16": partial(default_dtype, torch.float16),
    "deterministic": deterministic,
    "inference mode": torch.inference_mode,
}


def _learned(name: str) -> Learned:
    """All numbers of a concept learned in two steps by a newly loaded model, and an attention map."""
    kit = few_shot(0, photos=2)
    forget_pictures()
    vlm = MyVLM.from_pretrained(name, device="cpu")
    concept = vlm.learn(
        kit.identifier, kit.photos(), category=kit.category, captions=[f"{kit.identifier} on a table ."] * 2,
        settings=LearnSettings(steps=2, views=1), progress=False,
    )  # fmt: skip
    looks = vlm.attention(kit.photos()[0], kit.identifier).values
    assert looks.dtype == np.float32
    assert looks.sum() == pytest.approx(1, abs=1e-5)
    rows = concept.embeddings[name].directions
    numbers = {key: np.asarray(value) for key, value in concept.head.state()[1].items()}
    return {**numbers, "rows": rows}


@pytest.fixture(scope="module", params=["tinyworld/llava", "tinyworld/blip2"])
def plain(request: pytest.FixtureRequest) -> tuple[str, Learned]:
    return request.param, _learned(request.param)


@pytest.mark.parametrize("state", STATES)
def test_what_is_learned_is_the_same_to_the_bit(plain: tuple[str, Learned], state: str) -> None:
    name, expected = plain
    with STATES[state]():
        found = _learned(name)
    assert found.keys() == expected.keys()
    for part, value in expected.items():
        assert np.array_equal(found[part], value), part
