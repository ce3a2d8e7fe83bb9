"""Serving with concepts, by stock vLLM and by `myvlm serve`: identity of replies, throughput, and load.

    PYTHONPATH=. MYVLM_VLLM=…/bin/python python benchmarks/serving.py [--pictures 200] [--out FILE]

`MYVLM_VLLM` is a Python with vLLM, whose servers this program starts (.github/CONTRIBUTING.md); `--url` is a
server that is already running, with weights from `export_vllm` and the flags of `server_flags`.

Pictures of tinyworld show zero, one and three of a user's concepts in turn; decoding is greedy.
`vllm_identical` is the share of replies with rows that equal those of `MyVLM.caption`, `vllm_plain_identical`
that of replies without a detection; every reply that differs is printed.

`throughput_ratio` is the requests per second with rows relative to plain vLLM on the same pictures, both
encoded beforehand, with 16 tokens each, through one server: the median over rounds, with quartiles. With
rows, a request is the embeddings of its whole prompt, as made by `vllm_inputs`; plain vLLM gets the picture's
image embeddings, as in its documentation, and in `…_over_pictures` the picture itself. `…_same_way` is
relative to whole prompts without rows, the cost of the rows; `…_as_many_tokens` to those with as many tokens.
`…_offline` is the same without a server, so that vLLM's steps are equal in every round, in CPU seconds of
vLLM; `…_larger` is that for pictures of 576 tokens, as in LLaVA-1.5; `…_tokens_a_second` counts tokens
instead of requests. The prefix cache is not used.

    PYTHONPATH=. python benchmarks/serving.py --only engine [--url …]

measures the same through `myvlm serve --engine` with sixteen concurrent clients: `engine_identical`, and
`engine_plain_identical` for pictures without a detection, which are sent to vLLM unchanged.

    PYTHONPATH=. python benchmarks/serving.py --only served --only tenants --only overload --only hostile

measures `myvlm serve` itself, `--seconds 60` for each figure; see `served/figures.py`. The last line is JSON.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from served import figures, throughput
from served.load import asked_by, messages, serving

from myvlm import Lesson, MyVLM
from myvlm.serving.checkpoint import export_vllm
from myvlm.serving.vllm import VllmServer, server_flags, vllm_inputs
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.multi_concept_user import multi_concept_user
from tests.support import stock_vllm

console = Console(stderr=True)
NAME = "tinyworld/llava"
OFFLINE = 30
"""Maximum number of pictures for the two figures without a server."""
ROOM = ["--max-model-len", "384"]


def main(
    url: Annotated[str | None, typer.Option(help="vLLM's OpenAI interface, where it runs already.")] = None,
    count: Annotated[int, typer.Option("--pictures", help="How many pictures.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds of requests with rows and without.", min=3)] = 20,
    seed: Annotated[int, typer.Option(help="Of the user.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One of the figures above, such as engine; repeat the option for more."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of each of the server's figures.")] = 60.0,
    owners: Annotated[int, typer.Option(help="Of the tenants.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the figures here too.")] = None,
) -> None:
    """Run the benchmark; see the module's docstring."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "vllm": lambda: _vllm(url, count, rounds, seed),
        "offline": lambda: _offline(count, rounds, seed),
        "engine": lambda: _engine(url, count, seed),
        "served": lambda: figures.served(seconds),
        "tenants": lambda: figures.tenants(seconds, owners),
        "overload": lambda: figures.overload(seconds),
        "hostile": figures.hostile,
    }
    measured: dict[str, Any] = {}
    for name in only or parts:
        measured |= parts[name]()
    measured |= {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads here",
        "versions": {name: version(name) for name in ("torch", "transformers", "openai")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    if out:
        out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured))


def _vllm(url: str | None, count: int, rounds: int, seed: int) -> dict[str, Any]:
    """Identity of vLLM's replies, and throughput over HTTP."""
    vlm = MyVLM.from_pretrained(NAME, device="cpu")
    shown = _pictures(vlm, count, seed)
    inputs = list(vllm_inputs(vlm, shown))
    with _engine_at(url, vlm, throughput.EncodedPicture.flags) as address:
        server = VllmServer(vlm, address)
        with server.client:
            theirs = [reply.text for reply in server.caption(shown)]
            priced = throughput.over_http(server, inputs, rounds, console)
    return {**_identical("vllm", vlm, shown, theirs), **priced, "seed": seed}


def _offline(count: int, rounds: int, seed: int) -> dict[str, Any]:
    """Throughput without a server, which varies least."""
    _wanted()
    vlm = MyVLM.from_pretrained(NAME, device="cpu")
    inputs = list(vllm_inputs(vlm, _pictures(vlm, min(count, OFFLINE), seed)))
    with tempfile.TemporaryDirectory() as folder:
        model = export_vllm(NAME, Path(folder) / "llava")
        own = [
            throughput.offline(vlm, model, inputs, rounds, larger=larger, console=console)
            for larger in (False, True)
        ]
    return {**own[0], **own[1], "throughput_offline_rounds": rounds}


def _engine(url: str | None, count: int, seed: int) -> dict[str, Any]:
    """Identity of the replies of `myvlm serve` with vLLM as its engine."""
    vlm = MyVLM.from_pretrained(NAME, device="cpu")
    shown = _pictures(vlm, count, seed)
    with tempfile.TemporaryDirectory() as folder, _engine_at(url, vlm) as engine:
        place = Path(folder) / "people"
        for number, concept in enumerate(vlm.concepts.values()):
            concept.save(place / "o0" / f"c{number}")
        with serving(place, ["o0"], "--engine", engine) as server:
            begun = time.monotonic()
            theirs = asked_by(server, "o0", [messages(one) for one in shown], figures.CLIENTS)
            seconds = time.monotonic() - begun
    identical = _identical("engine", vlm, shown, theirs)
    return {**identical, "engine_requests_a_second": round(len(shown) / seconds, 2), "seed": seed}


@contextmanager
def _engine_at(url: str | None, vlm: MyVLM, more: Sequence[str] = ()) -> Iterator[str]:
    """Context manager: address of a vLLM server, the one at `url` or one started with additional flags."""
    if url:
        yield url
        return
    _wanted()
    with tempfile.TemporaryDirectory() as folder:
        model = export_vllm(NAME, Path(folder) / "llava")
        flags = [*server_flags(vlm), *more, *ROOM]
        console.print(f"starting vLLM {' '.join(flags)}")
        with stock_vllm.serving(model, Path(folder), flags) as running:
            yield running


def _wanted() -> None:
    if not stock_vllm.PYTHON:
        raise typer.BadParameter("vLLM is wanted: --url of its server, or MYVLM_VLLM, a Python that has it")


def _identical(name: str, vlm: MyVLM, shown: list[Image.Image], theirs: list[str]) -> dict[str, Any]:
    """Share of replies that equal ours; those that differ are printed."""
    ours = [vlm.caption(picture) for picture in track(shown, "this library", console=console)]
    same: dict[int, list[bool]] = {}
    for here, there in zip(ours, theirs, strict=True):
        same.setdefault(len(here.seen), []).append(here.text == there)
        if here.text != there:
            console.print(f"{here.seen}\n  here:  {here.text}\n  there: {there}")
    plain = same.pop(0, [])
    with_rows = [one for own in same.values() for one in own]
    return {
        f"{name}_identical": statistics.mean(with_rows),
        f"{name}_plain_identical": statistics.mean(plain),
        f"{name}_by_concepts_seen": {
            str(n): [sum(own), len(own)] for n, own in sorted({0: plain, **same}.items())
        },
        f"{name}_pictures": len(shown),
    }


def _pictures(vlm: MyVLM, count: int, seed: int) -> list[Image.Image]:
    """Teach the model a user's three concepts; returns pictures with zero, one and three of them in turn."""
    user = multi_concept_user(0, seed=seed, size=3, tests=-(-count // 3))
    lessons = [
        Lesson(kit.identifier, kit.photos(), category=kit.category, captions=kit.captions())
        for kit in user.kits
    ]
    vlm.learn_many(lessons)
    scenes = [scene for triple in zip(*(user.scenes[n] for n in (0, 1, 3)), strict=True) for scene in triple]
    return pictures(scenes[:count])


if __name__ == "__main__":
    typer.run(main)
