"""The requests of the server benchmark: new pictures, and libraries without common names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("openai", reason="the extra [vllm] is not installed")

from served.load import OWNED, Fresh, leaks_in, libraries
from served.throughput import ways_of

from myvlm import ConceptLibrary, MyVLM
from myvlm.serving.vllm import vllm_inputs
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, around


def test_no_picture_is_asked_about_twice() -> None:
    body = Fresh(3)
    asked = [body()["messages"][0]["content"][0]["image_url"]["url"] for _ in range(300)]
    assert len(set(asked)) == 300


def test_each_owner_has_words_of_their_own_and_anothers_is_a_leak(tmp_path: Path) -> None:
    libraries(tmp_path, ["o1", "o2"], concepts=3)
    words = {owner: list(ConceptLibrary.load(tmp_path / owner)) for owner in ("o1", "o2")}
    assert words == {owner: [f"{owner}{OWNED}{number}" for number in range(3)] for owner in ("o1", "o2")}

    def answer(text: str) -> object:
        return {"choices": [{"message": {"content": text}}], "myvlm": {"seen": []}}

    assert leaks_in("o1", answer(f"a {words['o2'][0]}."))
    assert not leaks_in("o1", answer(f"a {words['o1'][0]}."))


def test_what_is_compared_differs_in_the_rows_alone(vlm: MyVLM, taught: Taught) -> None:
    speaking = around(vlm)
    speaking.concepts.add(taught.folder)
    seen, unseen = vllm_inputs(speaking, pictures([taught.kit.present[0], taught.kit.other[0]]))
    ways = {name: one.embeddings for name, [one] in ways_of(speaking, [seen, unseen]).items()}
    [nothing] = vllm_inputs(around(vlm), seen.picture)
    assert torch.equal(ways["with"], seen.embeddings)
    assert torch.equal(ways["without"], nothing.embeddings)
    assert len(ways["with"]) == len(ways["as_many_tokens"]) == len(nothing.embeddings) + 4
    [features] = speaking.backbone.encode([seen.picture])
    assert torch.equal(ways["encoded"][0], features.tokens)
    [[larger]] = [own for name, own in ways_of(speaking, [seen], 3).items() if name == "encoded"]
    assert larger.embeddings.shape[:2] == (1, 576)
