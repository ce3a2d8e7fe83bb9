"""`myvlm serve` and `myvlm token`: who is served, and what is refused before a model is loaded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from fastapi import FastAPI

from myvlm.cli import opening
from myvlm.concepts.gates import FALSE_NAMES_PER_1000
from myvlm.serving.http import app as serving
from myvlm.serving.http.libraries import FolderLibrary
from tests.support.command import Myvlm
from tests.support.taught import Taught

CHECK_PORT, SERVER = serving.check_port, serving.server


class Stub:
    """Stand-in for uvicorn's server that ends at once."""

    def __init__(self, app: Any, host: str, port: int, on_answering: Callable[[], object]) -> None:
        self.app, self.host, self.port, self.on_answering = app, host, port, on_answering
        started.append(self)

    def run(self) -> None:
        if self.port != FAILING:
            self.on_answering()


started: list[Stub] = []
FAILING = 8099
"""A port on which the stub never answers."""


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    started.clear()
    monkeypatch.setattr(serving, "server", Stub)
    monkeypatch.setattr(serving, "check_port", lambda host, port: None)


def test_a_folder_of_concepts_is_served_on_this_computer(myvlm: Myvlm, taught: Taught) -> None:
    done = myvlm("serve", "--concepts", taught.folder.parent, "--requests", 5)
    assert done.code == 0, done.stderr
    [server] = started
    assert (server.host, server.port) == ("127.0.0.1", 8000)
    state = server.app.state
    assert list(state.owners.library("local")) == [taught.word]
    assert state.limits.requests == 5
    assert state.owners.library("local").false_names_per_1000 == FALSE_NAMES_PER_1000


def test_libraries_of_owners_are_held_to_the_false_names_that_are_asked_for(
    myvlm: Myvlm, taught: Taught
) -> None:
    done = myvlm("serve", "--concepts", taught.folder.parent, "--false-names", 3)
    assert done.code == 0, done.stderr
    assert started[0].app.state.owners.library("local").false_names_per_1000 == 3


def test_each_owner_has_a_folder_and_a_token(myvlm: Myvlm, tmp_path: Path) -> None:
    made = myvlm("token", "anna", "--owners", tmp_path / "owners.json", "--json")
    assert made.code == 0, made.stderr
    assert made.document["owner"] == "anna"
    assert made.document["token"] not in (tmp_path / "owners.json").read_text()
    done = myvlm("serve", "--owners", tmp_path / "owners.json", "--libraries", tmp_path, "--host", "0.0.0.0")
    assert done.code == 0, done.stderr
    assert started[0].app.state.owners.storage("anna") == FolderLibrary(tmp_path / "anna")


def test_concepts_and_libraries_may_lie_at_an_address(myvlm: Myvlm, tmp_path: Path, taught: Taught) -> None:
    pytest.importorskip("fsspec", reason="the extra [share] is not installed")
    place = f"memory://{tmp_path.name}"
    taught.concept.save(f"{place}/sks")
    assert myvlm("serve", "--concepts", place).code == 0
    assert list(started[0].app.state.owners.library("local")) == [taught.word]
    myvlm("token", "anna", "--owners", tmp_path / "owners.json")
    assert myvlm("serve", "--owners", tmp_path / "owners.json", "--libraries", place).code == 0
    assert started[1].app.state.owners.storage("anna").url == f"{place}/anna"
    assert list(started[1].app.state.owners.library("anna")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "without a token"),
        (["--concepts", "nothing"], "no folder nothing"),
        (["--owners", "owners.json"], "folders are set per owner"),
        (["--owners", "owners.json", "--libraries", "."], "no file owners.json"),
        (["--owners", "owners.json", "--libraries", "nothing"], "no folder nothing"),
        (["--owners", "owners.json", "--libraries", "hf://me/people"], "history keeps erased files"),
        (["--concepts", "sftp://me:secret@there/people"], "an address with a password"),
        (["--concepts", "simplecache::s3://things"], "may leave copies"),
        (["--concepts", "nowhere://things"], "not a supported address"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_model_is_loaded(
    myvlm: Myvlm, words: list[str], said: str
) -> None:
    done = myvlm("serve", *words)
    assert done.code == 2
    assert said in done.stderr
    assert started == []


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(
    myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "check_port", CHECK_PORT)
    monkeypatch.setattr(opening, "open_model", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = myvlm("serve", "--port", port)
        assert done.code == 2
        assert f"The server cannot listen on 127.0.0.1, port {port}." in done.stderr
        assert "ddress already in use" in done.stderr
        assert "is at" not in done.stderr
    CHECK_PORT("127.0.0.1", port)
    assert myvlm("serve", "--host", "192.0.2.1", "--token", "sesame").code == 2
    assert started == []


def test_where_it_is_is_said_once_it_answers(myvlm: Myvlm) -> None:
    assert "is at http://127.0.0.1:8000/v1; stop it with Ctrl-C." in myvlm("serve").stderr
    assert "is at" not in myvlm("serve", "--port", FAILING).stderr


def test_a_server_says_that_it_answers_when_it_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    answered: list[int] = []

    def on_answering() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            answered.append(port)
        own.should_exit = True

    own = SERVER(FastAPI(), "127.0.0.1", port, on_answering)
    own.run()
    assert answered == [port]


def test_an_engine_that_is_not_there_is_said(myvlm: Myvlm) -> None:
    done = myvlm("serve", "--engine", "http://127.0.0.1:9/v1")
    assert done.code == 2
    assert "vLLM server cannot be reached" in done.stderr
    assert started == []


def test_a_token_comes_from_the_environment_and_opens_other_addresses(
    myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYVLM_TOKEN", "sesame")
    done = myvlm("serve", "--host", "0.0.0.0")
    assert done.code == 0, done.stderr
    assert "sesame" not in done.stdout + done.stderr
    assert started[0].host == "0.0.0.0"
