"""A server of the embedded model in a thread, and OpenAI's client for it."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fastapi import FastAPI
from openai import OpenAI
from PIL import Image

from myvlm import MyVLM
from myvlm.serving.http.app import create_app, running
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Tokens, digest
from myvlm.serving.http.speaking.asking import CountedReply, Engine, EngineRequest

MODEL = "tinyworld/llava"
PATIENCE = 600
"""Seconds in which even a busy machine answers; after that a request counts as hanging."""


@dataclass(frozen=True, eq=False)
class Served:
    """A running server: its address, its application and the folders of its owners."""

    url: str
    app: FastAPI
    folders: Mapping[str, Path]

    def client(self, token: str = "none") -> OpenAI:
        return OpenAI(base_url=self.url, api_key=token, max_retries=0, timeout=PATIENCE)


@contextmanager
def served(
    vlm: MyVLM,
    folders: Mapping[str, Path],
    *,
    access: Mapping[str, Access] | None = None,
    limits: Limits | None = None,
    engine: Engine | None = None,
) -> Iterator[Served]:
    """Serve these libraries; each owner's token is the owner's name unless `access` is given."""
    known = {owner: Access(owner, True) for owner in folders} if access is None else dict(access)
    tokens = Tokens({digest(token): one for token, one in known.items()})
    app = create_app(vlm, tokens, folders, limits=limits or Limits(seconds=PATIENCE), engine=engine)
    with running(app) as url:
        yield Served(url, app, folders)


@contextmanager
def together(server: Served, count: int) -> Iterator[None]:
    """Hold the first request until all `count` requests are waiting, inside this context."""
    batches = server.app.state.engine.batches
    work = batches.work

    def first(asked: Any) -> Any:
        batches.work = work
        until(lambda: len(asked) + len(batches._waiting) == count, "the other requests are there")
        return work(asked)

    batches.work = first
    try:
        yield
    finally:
        batches.work = work


@contextmanager
def unhurried(server: Served) -> Iterator[None]:
    """Finish replies only after their streamed pieces were sent, as later pieces would be dropped."""
    engine: Any = server.app.state.engine
    answer = engine.reply

    async def later(asked: EngineRequest) -> CountedReply:
        reply: CountedReply = await answer(asked)
        for _ in range(1000):
            await asyncio.sleep(0)  # lets every other task run, however slow the machine is
        return reply

    engine.reply = later
    try:
        yield
    finally:
        engine.reply = answer


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until a condition that another thread will make true holds."""
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, f"never: {what}"
        sleep(0.01)


def library_of(folder: Path, *concepts: Path) -> Path:
    """Make a folder with copies of these concept folders."""
    folder.mkdir(parents=True)
    for one in concepts:
        shutil.copytree(one, folder / one.name)
    return folder


def data_url(picture: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def about(picture: Image.Image | str, text: str = "") -> list[dict[str, Any]]:
    """The messages of a first question about a picture."""
    url = picture if isinstance(picture, str) else data_url(picture)
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
    if text:
        parts.append({"type": "text", "text": text})
    return [{"role": "user", "content": parts}]
