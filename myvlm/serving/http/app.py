"""Create and run the ASGI application that serves a frozen model and its owners' concept libraries."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from myvlm.api import MyVLM
from myvlm.errors import InputError
from myvlm.serving.http import chat, concepts, pictures
from myvlm.serving.http.errors import add_handlers
from myvlm.serving.http.guard import LOOPBACK, Guard
from myvlm.serving.http.learning import Learner
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Owners, Tokens
from myvlm.serving.http.speaking.asking import Engine
from myvlm.serving.http.speaking.in_process import InProcess
from myvlm.serving.http.speaking.looking import detection_queue


def create_app(
    vlm: MyVLM,
    tokens: Tokens,
    folders: Mapping[str, Path | str],
    *,
    limits: Limits | None = None,
    engine: Engine | None = None,
) -> FastAPI:
    """Create the application, for uvicorn or another ASGI server in one process.

    Args:
        vlm: the model that replies and learns; of its own library only `false_names_per_1000` is used.
        tokens: the access tokens.
        folders: owner → folder of concept folders, or an address.
        limits: bounds on what clients send.
        engine: generates replies instead of `vlm`, such as a `VllmEngine`.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.detection_queue.close()
        await app.state.engine.close()
        app.state.learner.close()

    app = FastAPI(title="myvlm", lifespan=lifespan, docs_url=None, redoc_url=None)
    device = str(vlm.backbone.device)
    owners = Owners(
        folders,
        fingerprint=vlm.backbone.fingerprint(),
        device=device,
        at_most=limits.libraries_bytes,
        false_names_per_1000=vlm.concepts.false_names_per_1000,
    )
    app.state.vlm, app.state.limits, app.state.owners, app.state.tokens = vlm, limits, owners, tokens
    app.state.begun = int(time.time())
    app.state.pictures = pictures.Pictures(limits)
    app.state.detection_queue = detection_queue(at_once=limits.batch)
    app.state.engine = engine or InProcess(vlm, at_once=limits.batch)
    app.state.learner = Learner(vlm, owners, limits)
    for room in (chat, concepts, pictures):
        app.include_router(room.router)
    add_handlers(app)
    app.add_middleware(Guard, tokens=tokens, limits=limits)
    return app


def check_address(host: str, tokens: Tokens) -> None:
    """Raise InputError if other computers could connect without a token.

    >>> check_address("127.0.0.1", Tokens({}))
    """
    if host not in LOOPBACK and (tokens.anonymous or not tokens.by_digest):
        raise InputError(
            "Other computers could use this server without a token.",
            got=f"the address {host} and no token",
            expected="127.0.0.1, or a token",
            fix="set MYVLM_TOKEN, pass --owners, or omit --host",
        )


def check_port(host: str, port: int) -> None:
    """Raise InputError if no server can listen there, for example because another one does."""

    async def listen_once() -> None:
        listening = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
        listening.close()

    try:
        asyncio.run(listen_once())
    except OSError as error:
        raise InputError(
            f"The server cannot listen on {host}, port {port}.",
            got=error.strerror or str(error),
            expected="an address of this computer and a free port",
            fix="stop the program that uses it, or choose another port with --port",
        ) from error


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_answering: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_answering = on_answering

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_answering()


def server(
    app: ASGIApp, host: str, port: int, on_answering: Callable[[], object] = lambda: None
) -> uvicorn.Server:
    """A uvicorn server for the application; it logs no client address, query or header.

    Args:
        app: the application.
        host, port: where to listen.
        on_answering: called once it listens.
    """
    config = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_level="warning", log_config=None,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return _Server(config, on_answering)


@contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1") -> Iterator[str]:
    """A context in which the application runs in a thread, on a free port; gives its URL, ending in `/v1`."""
    own = server(app, host, 0)
    with socket.socket() as listening:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        thread = Thread(target=own.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not own.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://{host}:{port}/v1"
        finally:
            own.should_exit = True
            thread.join(30)
