"""Throughput of vLLM with embedding rows over plain vLLM, in short alternating turns, as machines are
busy."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from myvlm import MyVLM
from myvlm.serving.entering import Body, EngineInput, WholePrompt, encoded, engine_inputs, messages
from myvlm.serving.vllm import AT_ONCE, VllmInput, VllmServer
from served.load import messages as about
from tests.support import stock_vllm

TOKENS = 16
"""Number of tokens of each reply."""
LARGER = 3
"""How often each visual token is repeated horizontally and vertically for a larger picture."""
OFFLINE = Path(__file__).with_name("offline.py")


@dataclass(frozen=True, eq=False)
class EncodedPicture(EngineInput):
    """A picture's projected tokens (1 × T × D) in vLLM's documented format: the input without a concept."""

    options: ClassVar = {"enable_mm_embeds": True}
    flags: ClassVar = ("--enable-mm-embeds",)

    prompt: str
    instruction: str

    def offline(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "multi_modal_data": {"image": self.embeddings}}

    def request(self) -> tuple[str, Body]:
        part = {"type": "image_embeds", "image_embeds": encoded(self.embeddings)}
        return "/chat/completions", {"messages": messages(part, [self.instruction])}


@dataclass(frozen=True, eq=False)
class PlainPicture(EngineInput):
    """The picture itself: vLLM does all of the work."""

    options: ClassVar[dict[str, bool]] = {}
    flags: ClassVar = ()

    picture: Image.Image
    instruction: str

    def offline(self) -> dict[str, Any]:
        raise NotImplementedError  # only sent to a server

    def request(self) -> tuple[str, Body]:
        [shown] = about(self.picture)
        return "/chat/completions", {"messages": messages(shown["content"][0], [self.instruction])}


def over_http(
    server: VllmServer, inputs: Sequence[VllmInput], rounds: int, console: Console
) -> dict[str, Any]:
    """Requests per second of a server for pictures, encoded pictures and whole prompts."""
    ways = ways_of(server.vlm, inputs)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), "throughput", console=console):
        for name in list(ways) if number % 2 else reversed(ways):
            seconds[name].append(_seconds(server, ways[name]))
        console.print({name: round(own[-1], 2) for name, own in seconds.items()})
    for own in seconds.values():
        del own[0]  # warm-up
    return {
        **_ratio("throughput_ratio", seconds, "with", "encoded"),
        **_ratio("throughput_ratio_over_pictures", seconds, "with", "pictures"),
        **_ratio("throughput_ratio_same_way", seconds, "with", "without"),
        **_ratio("throughput_ratio_as_many_tokens", seconds, "with", "as_many_tokens"),
        "throughput_rounds": rounds,
    }


def offline(
    vlm: MyVLM, model: Path, inputs: Sequence[VllmInput], rounds: int, *, larger: bool, console: Console
) -> dict[str, Any]:
    """The same for vLLM without a server, with pictures as they are or with nine times the tokens."""
    ways = ways_of(vlm, inputs, LARGER if larger else 1)
    del ways["pictures"]
    tokens = ways["encoded"][0].embeddings.shape[1]
    room = {"max_model_len": 1024, "hf_overrides": {"text_config": {"max_position_embeddings": 1024}}}
    takes = {**WholePrompt.options, **EncodedPicture.options, "max_num_seqs": AT_ONCE}
    name = "throughput_ratio_larger" if larger else "throughput_ratio_offline"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save({way: [one.offline() for one in own] for way, own in ways.items()}, place / "inputs.pt")
        options = {"model": str(model), **takes, **room}
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
    same_way = _ratio(f"{name}_same_way", seconds, "with", "without")
    more = said["with"]["tokens"] / said["without"]["tokens"]
    return {
        **_ratio(name, seconds, "with", "encoded"),
        **same_way,
        **_ratio(f"{name}_as_many_tokens", seconds, "with", "as_many_tokens"),
        f"{name}_tokens_a_second": round(same_way[f"{name}_same_way"] * more, 3),
        f"{name}_tokens_a_picture": tokens,
        f"{name}_tokens_with_over_without": round(more, 4),
    }


def _ratio(key: str, seconds: Mapping[str, Sequence[float]], one: str, other: str) -> dict[str, Any]:
    """Median and quartiles, over the rounds, of the ratio of two throughputs."""
    each = [there / here for here, there in zip(seconds[one], seconds[other], strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    return {key: round(middle, 3), f"{key}_quartiles": [round(low, 3), round(high, 3)]}


def ways_of(vlm: MyVLM, inputs: Sequence[VllmInput], larger: int = 1) -> dict[str, list[VllmInput]]:
    """Inputs for the pictures in which a concept is detected, by variant: as whole prompts with rows, without
    rows, and without rows but as many tokens; for plain vLLM, as encoded pictures and as pictures."""
    backbone: Any = vlm.backbone
    asked = backbone.caption_prompt
    said, told = backbone.prompter.render(asked), backbone.instruction(asked)
    ways: dict[str, list[VllmInput]] = {
        name: [] for name in ("with", "without", "as_many_tokens", "encoded", "pictures")
    }
    for one in inputs:
        if not one.detections.seen:
            continue
        [bare] = engine_inputs(backbone, [one.picture], [asked], [[]])
        [features] = backbone.encode([one.picture])
        start = backbone.prompter.prompt_ids(asked, features.layout.text).index(backbone.image_id)
        end, count = start + len(features), len(one.embeddings) - len(bare.embeddings)
        head, picture, tail = bare.embeddings.split([start, len(features), len(bare.embeddings) - end])
        picture, rows = _enlarged(picture, larger), one.embeddings[end : end + count]
        given: dict[str, EngineInput] = {
            "with": WholePrompt(torch.cat([head, picture, rows, tail])),
            "without": WholePrompt(torch.cat([head, picture, tail])),
            "as_many_tokens": WholePrompt(torch.cat([head, picture, picture[:count], tail])),
            "encoded": EncodedPicture(picture[None], said, told),
            "pictures": PlainPicture(picture, one.picture, told),
        }
        for name, own in given.items():
            ways[name].append(dataclasses.replace(one, given=own))
    return ways


def _enlarged(embeddings: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat each token of a picture `times` times horizontally and vertically: N × D."""
    side = round(len(embeddings) ** 0.5)
    grid = embeddings.unflatten(0, (side, side))
    return grid.repeat_interleave(times, 0).repeat_interleave(times, 1).flatten(0, 1)


def _seconds(server: VllmServer, inputs: Sequence[VllmInput]) -> float:
    """Seconds for all requests, several in parallel, with equally long replies."""
    # Salted: otherwise every turn but the first would find its prompts in vLLM's prefix cache.
    options = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "cache_salt": token_hex()}
    began = time.perf_counter()
    with ThreadPoolExecutor(server.at_once) as pool:
        list(pool.map(lambda one: server.reply(one, options), inputs))
    return time.perf_counter() - began
