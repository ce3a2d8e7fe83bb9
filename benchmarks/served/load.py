"""A `myvlm serve` process, and clients that send it requests in parallel."""

from __future__ import annotations

import base64
import io
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from openai import OpenAI
from PIL import Image

from myvlm import Concept
from myvlm.concepts.disk.record import json_with_digest
from myvlm.concepts.disk.storage import RECORD, read_record
from myvlm.serving.http.owners import new_token
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

MODEL = "tinyworld/llava"
WORKED = Path(__file__).parents[2] / "concepts"
KINDS = [WORKED / "ulmo-mug", WORKED / "max-woman"]
OWNED = "owned"
"""Separates the owner's name and the number in a concept's identifier."""


@dataclass(frozen=True, eq=False)
class Server:
    """A running `myvlm serve`: its address, its process, and one token per owner."""

    url: str
    process: psutil.Process
    tokens: dict[str, str]

    @property
    def mib(self) -> float:
        """Resident memory of the process."""
        return float(self.process.memory_info().rss) / 2**20

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@contextmanager
def serving(place: Path, owners: Sequence[str], *words: str) -> Iterator[Server]:
    """Run `myvlm serve` for these owners inside this context; their libraries are folders of `place`."""
    file = place.parent / f"{place.name}-owners.json"
    tokens = {owner: new_token(file, owner, may_change=True) for owner in owners}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "myvlm", "serve", "--owners", str(file), "--libraries", str(place), "-q"]
    process = subprocess.Popen([*command, "--port", str(port), *words], env=dict(os.environ))
    url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait(url, process, next(iter(tokens.values())))
        yield Server(url, psutil.Process(process.pid), tokens)
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], token: str) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"myvlm serve ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/models", headers={"authorization": f"Bearer {token}"}).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("myvlm serve did not start")


def libraries(place: Path, owners: Sequence[str], concepts: int = 10) -> None:
    """Write a library for each owner, whose concepts have identifiers of that owner.

    Two concepts are the example ones. The others have heads with shuffled coefficients: scoring them costs
    the same, and they are detected only by chance. Tensor files are hard links, since thousands would take
    space.
    """
    first = place / owners[0]
    for number in range(concepts):
        concept = Concept.load(KINDS[number % len(KINDS)])
        if number >= len(KINDS):
            concept.head.coef_ = np.random.default_rng(number).permutation(concept.head.coef_)  # type: ignore[attr-defined]
            concept.spoken = f"{OWNED}{number}"
        concept.identifier = f"{owners[0]}{OWNED}{number}"
        concept.save(first / f"c{number}")
    for owner in owners[1:]:
        for folder in sorted(first.iterdir()):
            target = place / owner / folder.name
            shutil.copytree(folder, target, copy_function=os.link)
            record = read_record(target)
            word = record.identifier.replace(owners[0], owner, 1)
            (target / RECORD).unlink()
            said = {**record.model_dump(mode="json", exclude={"sha256"}), "identifier": word}
            (target / RECORD).write_bytes(json_with_digest(said))


def shown(count: int, *, seed: int = 0) -> list[Image.Image]:
    """`count` different pictures, with and without the example concepts."""
    kit = few_shot(0, seed=seed, tests=-(-count // 2))
    made = pictures([*kit.present, *kit.other])[:count]
    random.Random(seed).shuffle(made)
    return made


class Fresh:
    """Requests about pictures that no server has seen: those of `shown` in turn, with one pixel changed.

    A server caches its last pictures, so a repeated one would cost less.
    """

    def __init__(self, count: int, *, seed: int = 0) -> None:
        self._made = [np.asarray(one.convert("RGB")) for one in shown(count, seed=seed)]
        self._numbers = itertools.count()

    def __call__(self) -> dict[str, Any]:
        """The body of the next request."""
        number = next(self._numbers)
        pixels = self._made[number % len(self._made)].copy()
        pixels[0, 0] = number % 256, number // 256 % 256, number // 65536
        return {"model": MODEL, "messages": messages(Image.fromarray(pixels))}


def messages(picture: Image.Image) -> list[dict[str, Any]]:
    """The messages that ask for a description of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def asked_by(server: Server, owner: str, asked: Sequence[list[dict[str, Any]]], clients: int) -> list[str]:
    """Replies to all requests, sent by `clients` OpenAI clients in parallel, each with its own connection."""
    own = [
        OpenAI(base_url=server.url, api_key=server.tokens[owner], max_retries=0, timeout=300)
        for _ in range(clients)
    ]

    def ask(number: int) -> str:
        create: Any = own[number % clients].chat.completions.create
        return str(create(model=MODEL, messages=asked[number]).choices[0].message.content)

    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(ask, range(len(asked))))
    for client in own:
        client.close()
    return replies


def hammer(
    server: Server, owners: Sequence[str], body: Callable[[], Any], *, clients: int, seconds: float
) -> Counter[int]:
    """Send requests for `seconds`; each client picks a random owner after every answer.

    Returns the number of answers by status. 0 counts missing answers; a reply with another owner's concept
    (see `leaks_in`) is also counted under its status plus 1000.
    """
    until, statuses = time.monotonic() + seconds, Counter[int]()

    def one(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=300) as client:
            while time.monotonic() < until:
                owner = rng.choice(owners)
                headers = {"authorization": f"Bearer {server.tokens[owner]}"}
                try:
                    answer = client.post("/chat/completions", json=body(), headers=headers)
                    statuses[answer.status_code] += 1
                    if answer.status_code == 200 and leaks_in(owner, answer.json()):
                        statuses[1000 + answer.status_code] += 1
                    if answer.status_code == 429:
                        time.sleep(float(answer.headers["retry-after"]) * rng.random())
                except httpx.TransportError:
                    statuses[0] += 1

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
    return statuses


def leaks_in(owner: str, answer: Any) -> bool:
    """Whether a reply names, or lists as detected, a concept of another owner; see `libraries`."""
    text = str(answer["choices"][0]["message"]["content"])
    names = [one["identifier"] for one in answer["myvlm"]["seen"]]
    words = [word for word in [*text.replace(".", " ").split(), *names] if OWNED in word]
    return any(word.partition(OWNED)[0] != owner for word in words)
