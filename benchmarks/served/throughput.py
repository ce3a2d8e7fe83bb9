"""Throughput of vLLM with rows over that without, in short turns that a busy machine disturbs alike."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from myvlm.serving.entering import ImageEmbeddings, WholePrompt
from myvlm.serving.vllm import AT_ONCE, VllmInput, VllmServer
from tests.support import stock_vllm

TOKENS = 16
"""Of each reply."""
LARGER = 3
"""How often a visual token stands beside itself and below itself in a larger picture."""
OFFLINE = Path(__file__).with_name("offline.py")


def over_http(
    server: VllmServer,
    prompts: VllmServer | None,
    inputs: Sequence[VllmInput],
    rounds: int,
    console: Console,
) -> dict[str, Any]:
    """Requests a second of servers; one that takes whole prompts may stand beside."""
    made = _ways(inputs)
    ways = {name: (server, own) for name, own in made.items()}
    if prompts:
        for name in ("with", "without"):
            ways[f"prompts_{name}"] = prompts, [_as_prompt(prompts.vlm.backbone, one) for one in made[name]]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), "throughput", console=console):
        for name in list(ways) if number % 2 else reversed(ways):
            seconds[name].append(_seconds(*ways[name]))
        console.print({name: round(own[-1], 2) for name, own in seconds.items()})
    for own in seconds.values():
        del own[0]  # which warmed up
    figures = {
        **_ratio("throughput_ratio", seconds, "with", "without"),
        **_ratio("throughput_ratio_as_many_tokens", seconds, "with", "as_many_tokens"),
    }
    if prompts:
        figures |= _ratio("throughput_ratio_by_prompts", seconds, "prompts_with", "prompts_without")
        figures |= _ratio("throughput_prompts_over_images", seconds, "prompts_without", "without")
    return {**figures, "throughput_rounds": rounds}


def offline(
    model: Path, inputs: Sequence[VllmInput], rounds: int, *, larger: bool, console: Console
) -> dict[str, Any]:
    """The same of vLLM with no server around it, of pictures as they are or of nine times the tokens."""
    ways = _ways(inputs, LARGER if larger else 1)
    tokens = min(one.embeddings.shape[1] for one in ways["without"])
    room = {"max_model_len": 1024, "hf_overrides": {"text_config": {"max_position_embeddings": 1024}}}
    # A step may not take in two pictures, see `engine_options`.
    steps = {"max_num_batched_tokens": 2 * tokens - 1, "max_num_seqs": AT_ONCE}
    name = "throughput_ratio_larger" if larger else "throughput_ratio_offline"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save({way: [one.offline() for one in own] for way, own in ways.items()}, place / "inputs.pt")
        options = {"model": str(model), "enable_mm_embeds": True, **room, **steps}
        (place / "engine.json").write_text(json.dumps(options), encoding="utf-8")
        console.print(f"{name}: {tokens} tokens a picture, {rounds} rounds")
        done = subprocess.run(
            [stock_vllm.PYTHON, OFFLINE, place, str(rounds), str(TOKENS)],
            env=stock_vllm.environment(place / "own"),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    said = json.loads(done.stdout.splitlines()[-1])
    seconds = {way: own["seconds"] for way, own in said.items()}
    requests = _ratio(name, seconds, "with", "without")
    more = said["with"]["tokens"] / said["without"]["tokens"]
    return {
        **requests,
        **_ratio(f"{name}_as_many_tokens", seconds, "with", "as_many_tokens"),
        f"{name}_tokens_a_second": round(requests[name] * more, 3),
        f"{name}_tokens_a_picture": tokens,
        f"{name}_tokens_with_over_without": round(more, 4),
    }


def _ratio(key: str, seconds: Mapping[str, Sequence[float]], one: str, other: str) -> dict[str, Any]:
    """Of a throughput to another, round by round: the median, and the quartiles."""
    each = [there / here for here, there in zip(seconds[one], seconds[other], strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    return {key: round(middle, 3), f"{key}_quartiles": [round(low, 3), round(high, 3)]}


def _ways(inputs: Sequence[VllmInput], larger: int = 1) -> dict[str, list[VllmInput]]:
    """The pictures in which something is seen: with rows, without, and without but of as many tokens."""
    tokens = min(one.embeddings.shape[1] for one in inputs)
    ways: dict[str, list[VllmInput]] = {"without": [], "with": [], "as_many_tokens": []}
    for one in inputs:
        if one.detections.seen:
            bare, rows = one.embeddings.split([tokens, one.embeddings.shape[1] - tokens], 1)
            bare = _enlarged(bare, larger)
            ways["without"].append(_with(one, bare))
            ways["with"].append(_with(one, torch.cat([bare, rows], 1)))
            ways["as_many_tokens"].append(_with(one, torch.cat([bare, bare[:, : rows.shape[1]]], 1)))
    return ways


def _enlarged(embeddings: torch.Tensor, times: int) -> torch.Tensor:
    """A picture's tokens, each so often beside itself and below itself: `1 × N × D`."""
    side = round(embeddings.shape[1] ** 0.5)
    grid = embeddings.unflatten(1, (side, side))
    return grid.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1, 2)


def _with(one: VllmInput, embeddings: torch.Tensor) -> VllmInput:
    """The same picture of other tokens."""
    return dataclasses.replace(one, given=dataclasses.replace(one.given, embeddings=embeddings))


def _as_prompt(backbone: Any, one: VllmInput) -> VllmInput:
    """The same as the embeddings of the whole prompt."""
    given = one.given
    assert isinstance(given, ImageEmbeddings)
    ids = torch.tensor(backbone.processor.tokenizer(given.prompt, add_special_tokens=False)["input_ids"])
    [place] = (ids == backbone.image_id).nonzero()[:, 0].tolist()
    read = backbone.model.get_input_embeddings()(ids).detach()
    whole = torch.cat([read[:place], given.embeddings[0], read[place + 1 :]])
    return dataclasses.replace(one, given=WholePrompt(whole))


def _seconds(server: VllmServer, inputs: Sequence[VllmInput]) -> float:
    """Of all requests, some under way together, each of as many tokens."""
    # Salted, or every turn but the first would find its prompts in vLLM's prefix cache.
    options = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "cache_salt": token_hex()}
    began = time.perf_counter()
    with ThreadPoolExecutor(server.at_once) as pool:
        list(pool.map(lambda one: server.reply(one, options), inputs))
    return time.perf_counter() - began
