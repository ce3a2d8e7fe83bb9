"""vLLM itself gives the same replies: offline, by its server, and behind `myvlm serve`.

It needs an environment of its own with its own torch; these tests are skipped without it. `test_vllm.py`
interprets the inputs as vLLM does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from myvlm import MyVLM
from myvlm.backbones import ConceptRows
from myvlm.serving.checkpoint import export_vllm
from myvlm.serving.entering import engine_inputs
from myvlm.serving.vllm import VllmServer, request_body, server_flags
from myvlm.tinyworld.fewshot import pictures as draw
from tests.support import stock_vllm
from tests.support.taught import Taught, around
from tests.support.tiny import pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not stock_vllm.PYTHON, reason="MYVLM_VLLM names no Python that has vLLM (.github/CONTRIBUTING.md)"
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models: one for whole prompts, one for rows as pictures of one token each."""
    folder = tmp_path_factory.mktemp("models")
    stock_vllm.made(folder, "smolvlm", "qwen3_vl")
    return folder


def test_offline_it_says_token_by_token_what_we_say(models: Path, tmp_path: Path) -> None:
    figures = stock_vllm.run(models, tmp_path)
    assert figures["vllm_same"] == {"qwen3_vl": "6 of 6", "smolvlm": "6 of 6"}
    assert figures["vllm_families"] == 2


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_its_server_says_it_too(family: str, models: Path, tmp_path: Path) -> None:
    vlm = MyVLM.from_pretrained(str(models / family), device="cpu")
    backbone: Any = vlm.backbone
    shown = pictures(3)
    rows = [[ConceptRows(backbone.word_direction("mug")[None].repeat(n, 1))] if n else [] for n in (0, 1, 4)]
    prompts = ["Describe the image."] * 3
    expected = backbone.generate(shown, prompts, rows, max_new_tokens=8)
    with stock_vllm.serving(models / family, tmp_path, server_flags(vlm)) as url, httpx.Client() as client:
        for entry, own in zip(engine_inputs(backbone, shown, prompts, rows), expected, strict=True):
            path, asked = entry.request()
            more = {"temperature": 0, "logit_bias": {str(backbone.prompter.sentinel_id): -100}}
            body = request_body(path, {"model": str(models / family), **asked, **more}, 8)
            answer = client.post(f"{url}{path}", json=body, timeout=stock_vllm.WAIT)
            assert answer.status_code == 200, answer.text
            [choice] = answer.json()["choices"]
            said = choice["text"] if path == "/completions" else choice["message"]["content"]
            # the server withholds the bytes of a character that the end of the reply cut off
            assert said.strip().rstrip("\ufffd") == own.text.rstrip("\ufffd")


def test_a_taught_model_is_spoken_for_by_its_server_and_behind_ours(
    vlm: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from myvlm.serving.http.speaking.engine import VllmEngine
    from tests.support.served import MODEL, about, library_of, served

    speaking = around(vlm)
    speaking.concepts.add(taught.folder)
    shown = [*draw(taught.kit.present)[:4], *draw(taught.kit.other)[:4]]
    expected = speaking.caption(shown)
    assert {bool(one.seen) for one in expected} == {True, False}
    folder = export_vllm("tinyworld/llava", tmp_path / "llava")
    with stock_vllm.serving(folder, tmp_path, [*server_flags(vlm), "--max-model-len", "384"]) as url:
        server = VllmServer(speaking, url)
        with server.client:
            assert [one.text for one in server.caption(shown)] == [one.text for one in expected]
        engine = VllmEngine(around(vlm), url, at_once=8)
        library = library_of(tmp_path / "anna", taught.folder)
        with served(around(vlm), {"anna": library}, engine=engine) as ours, ours.client("anna") as client:
            for picture, right in zip(shown, expected, strict=True):
                made: Any = client.chat.completions.create(model=MODEL, messages=about(picture))  # type: ignore[arg-type]
                assert made.choices[0].message.content == right.text
                assert [one["identifier"] for one in made.myvlm["seen"]] == list(right.seen)
