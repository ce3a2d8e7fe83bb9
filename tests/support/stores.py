"""Remote storage on this machine: memory, a local S3 (moto), a local stand-in of the Hugging Face hub."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from tests.support.local_hub import TOKEN, Hub, local_hub

BUCKET = "things"
S3 = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a local S3 server; skips the test if its packages are not installed."""
    pytest.importorskip("s3fs", reason='needs s3fs: pip install "myvlm[share]"')
    server = pytest.importorskip("moto.server", reason='needs moto: pip install "moto[server]"')
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> Any:
    """Point `s3://` addresses to this endpoint for the rest of the test; return the file system."""
    import s3fs

    for name, value in {**S3, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, *, token: str = TOKEN) -> None:
    """Point `hf://` addresses to this endpoint with this token for the rest of the test."""
    from huggingface_hub import HfFileSystem, constants

    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for patience in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):  # ten seconds are short if busy
        monkeypatch.setattr(constants, patience, 300)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has the older protocol
    monkeypatch.setenv("HF_TOKEN", token)
    HfFileSystem.clear_instance_cache()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def fresh_address(kind: str) -> str:
    """An unused address in `memory`, `s3` or `hub`."""
    name = uuid4().hex[:8]
    return {"memory": f"memory://{name}/sks", "s3": f"s3://{BUCKET}/{name}", "hub": f"hf://me/{name}"}[kind]


__all__ = ["BUCKET", "Hub", "closed_port", "fresh_address", "local_hub", "s3_server", "use_hub", "use_s3"]
