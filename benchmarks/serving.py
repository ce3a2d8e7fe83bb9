"""Concepts served: by stock vLLM, and by `myvlm serve`; the same words, at what price, under what load.

    python benchmarks/serving.py --export FOLDER                  # once: weights with names that vLLM reads
    python -m vllm.entrypoints.openai.api_server --model FOLDER --dtype float32 --enable-mm-embeds \\
        --max-model-len 384 --max-num-batched-tokens 127 --max-num-seqs 64  # in an environment of its own
    python benchmarks/serving.py --url http://127.0.0.1:8000/v1 [--pictures 200] [--out FILE]

Pictures of tinyworld with none, one and three of a user's concepts in turn, greedy. `vllm_identical` is the
share of replies with rows that are word for word what `MyVLM.caption` says, `vllm_plain_identical` of replies
where nothing is seen; every reply that differs is printed. `throughput_ratio` is requests a second with rows
over requests a second without on the same pictures, both encoded before, in turn, the median of the rounds;
`throughput_ratio_as_many_tokens` over pictures of as many tokens as picture and rows. With `--prompts-url`,
a second server of the same weights that is started with `--enable-prompt-embeds` and no bound on its steps,
`throughput_ratio_by_prompts` is the first where both sides go there as embeddings of the whole prompt, and
`throughput_prompts_over_images` requests a second without rows there over those here.

    python benchmarks/serving.py --only engine [--url …]

is the same through `myvlm serve --engine`, sixteen clients at once: `engine_identical` and, for pictures in
which nothing is seen, which go to vLLM as they are, `engine_plain_identical`.

    python benchmarks/serving.py --only served --only tenants --only overload --only hostile [--seconds 60]

are the figures of `myvlm serve`, each of so many seconds; see `served/figures.py`. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from served import figures
from served.load import asked_by, messages, serving

from myvlm import Lesson, MyVLM
from myvlm.serving.checkpoint import export_vllm
from myvlm.serving.entering import ImageEmbeddings, WholePrompt
from myvlm.serving.vllm import VllmInput, VllmServer, vllm_inputs
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.multi_concept_user import multi_concept_user

console = Console(stderr=True)
NAME = "tinyworld/llava"


def main(
    export: Annotated[Path | None, typer.Option(help="Write the weights for vLLM here, and stop.")] = None,
    url: Annotated[str, typer.Option(help="vLLM's OpenAI interface.")] = "http://127.0.0.1:8000/v1",
    prompts_url: Annotated[str | None, typer.Option(help="The same of one that takes prompts.")] = None,
    count: Annotated[int, typer.Option("--pictures", help="How many pictures.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds of requests with rows and without.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the user.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One of the figures above, such as engine; again for more."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of each of the server's figures.")] = 60.0,
    owners: Annotated[int, typer.Option(help="Of the tenants.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the figures here too.")] = None,
) -> None:
    """Compare; see the module."""
    if export:
        console.print(export_vllm(NAME, export))
        return
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "vllm": lambda: _vllm(url, prompts_url, count, rounds, seed),
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


def _vllm(url: str, prompts_url: str | None, count: int, rounds: int, seed: int) -> dict[str, Any]:
    """The same words from vLLM, and its price."""
    vlm = MyVLM.from_pretrained(NAME, device="cpu")
    shown = _pictures(vlm, count, seed)
    server = VllmServer(vlm, url)
    theirs = [reply.text for reply in server.caption(shown)]
    prompts = VllmServer(vlm, prompts_url) if prompts_url else None
    return {
        **_identical("vllm", vlm, shown, theirs),
        **_throughput(server, prompts, list(vllm_inputs(vlm, shown)), rounds),
        "seed": seed,
    }


def _engine(url: str, count: int, seed: int) -> dict[str, Any]:
    """The same words through `myvlm serve` in front of vLLM."""
    vlm = MyVLM.from_pretrained(NAME, device="cpu")
    shown = _pictures(vlm, count, seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "people"
        for number, concept in enumerate(vlm.concepts.values()):
            concept.save(place / "o0" / f"c{number}")
        with serving(place, ["o0"], "--engine", url) as server:
            begun = time.monotonic()
            theirs = asked_by(server, "o0", [messages(one) for one in shown], figures.CLIENTS)
            seconds = time.monotonic() - begun
    identical = _identical("engine", vlm, shown, theirs)
    return {**identical, "engine_requests_a_second": round(len(shown) / seconds, 2), "seed": seed}


def _identical(name: str, vlm: MyVLM, shown: list[Image.Image], theirs: list[str]) -> dict[str, Any]:
    """How many of these replies are ours, word for word; those that are not are printed."""
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
    """Teach the model a user's three concepts; pictures with none, one and three of them, in turn."""
    user = multi_concept_user(0, seed=seed, size=3, tests=-(-count // 3))
    lessons = [
        Lesson(kit.identifier, kit.photos(), category=kit.category, captions=kit.captions())
        for kit in user.kits
    ]
    vlm.learn_many(lessons)
    scenes = [scene for triple in zip(*(user.scenes[n] for n in (0, 1, 3)), strict=True) for scene in triple]
    return pictures(scenes[:count])


def _throughput(
    server: VllmServer, prompts: VllmServer | None, inputs: list[VllmInput], rounds: int
) -> dict[str, float]:
    """Requests a second with rows over those without, of the pictures that have some."""
    with_rows = [one for one in inputs if one.detections.seen]
    tokens = min(one.embeddings.shape[1] for one in inputs)
    without = [_with(one, one.embeddings[:, :tokens]) for one in with_rows]
    as_many = [_with(one, _wrapped(one.embeddings, tokens)) for one in with_rows]
    ways = {"without": (server, without), "with": (server, with_rows), "as many": (server, as_many)}
    if prompts:
        ways["prompts without"] = prompts, [_as_prompt(prompts.vlm.backbone, one) for one in without]
        ways["prompts with"] = prompts, [_as_prompt(prompts.vlm.backbone, one) for one in with_rows]
    seconds: list[dict[str, float]] = []
    for _ in track(range(rounds), "throughput", console=console):
        seconds.append({name: _seconds(*way) for name, way in ways.items()})
        console.print(seconds[-1])

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(own[other] / own[one] for own in seconds), 3)

    figures = {
        "throughput_ratio": ratio("with", "without"),
        "throughput_ratio_as_many_tokens": ratio("with", "as many"),
    }
    if prompts:
        figures["throughput_ratio_by_prompts"] = ratio("prompts with", "prompts without")
        figures["throughput_prompts_over_images"] = ratio("prompts without", "without")
        figures["throughput_prompts_over_images_with_rows"] = ratio("prompts with", "with")
    return figures


def _with(one: VllmInput, embeddings: torch.Tensor) -> VllmInput:
    """The same picture of other tokens."""
    return dataclasses.replace(one, given=dataclasses.replace(one.given, embeddings=embeddings))


def _wrapped(embeddings: torch.Tensor, tokens: int) -> torch.Tensor:
    """A picture's tokens, and its first ones again in the place of rows: `1 × N × D`."""
    return embeddings[:, [place % tokens for place in range(embeddings.shape[1])]]


def _as_prompt(backbone: Any, one: VllmInput) -> VllmInput:
    """The same as the embeddings of the whole prompt."""
    given = one.given
    assert isinstance(given, ImageEmbeddings)
    ids = torch.tensor(backbone.processor.tokenizer(given.prompt, add_special_tokens=False)["input_ids"])
    [place] = (ids == backbone.image_id).nonzero()[:, 0].tolist()
    read = backbone.model.get_input_embeddings()(ids).detach()
    whole = torch.cat([read[:place], given.embeddings[0], read[place + 1 :]])
    return dataclasses.replace(one, given=WholePrompt(whole))


def _seconds(server: VllmServer, inputs: list[VllmInput]) -> float:
    """Of all requests, sixteen under way together, each of as many tokens."""
    options = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
    began = time.perf_counter()
    with ThreadPoolExecutor(server.at_once) as pool:
        list(pool.map(lambda one: server.reply(one, options), inputs))
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
