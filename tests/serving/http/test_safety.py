"""What the server must never do: read files for clients, reveal whose a token is, or crash."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from PIL import Image
from served.hostile import bad_requests, refused_all, watched

from myvlm import MyVLM
from myvlm.errors import InputError
from myvlm.serving.http.app import check_address, create_app, running
from myvlm.serving.http.guard import Guard
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Tokens, digest, new_token, read_tokens
from myvlm.tinyworld import sample_picture
from tests.support.served import MODEL, PATIENCE, Served, about, data_url, library_of, served, until
from tests.support.taught import Taught, around


@pytest.fixture(scope="module")
def server(vlm: MyVLM, taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = library_of(tmp_path_factory.mktemp("served") / "anna", taught.folder)
    with served(around(vlm), {"anna": folder}, limits=Limits(body_bytes=4 * 2**20)) as running:
        yield running


def test_bad_requests_are_refused_and_nothing_is_read_for_them(
    server: Served, tmp_path: Path, taught: Taught
) -> None:
    canary = tmp_path / "secret" / "canary.png"
    canary.parent.mkdir()
    sample_picture(1).save(canary)
    bad = bad_requests(canary, "http://127.0.0.1:9", 4 * 2**20)
    assert len(bad) >= 200
    with watched() as touched:
        statuses = refused_all(server.url, "anna", bad)
    assert {why: status for why, status in statuses.items() if not 400 <= status < 500} == {}
    forbidden = ("canary", "secret", "passwd", "environ", "/dev/", "win.ini", ".ssh")
    assert [one for one in touched if any(word in one for word in forbidden)] == []
    port = server.url.rsplit(":", 1)[1].split("/")[0]
    assert [one for one in touched if one.startswith("connect") and port not in one] == []
    with server.client("anna") as client:
        made = client.chat.completions.create(model=MODEL, messages=about(sample_picture(1)))
        assert made.choices[0].message.content
        assert [one["identifier"] for one in client.get("/concepts", cast_to=dict)["data"]] == [taught.word]


def test_a_body_is_not_read_before_its_token_and_its_length_are_known(server: Served) -> None:
    address = urlsplit(server.url)
    for token, status in (("", 401), ("Authorization: Bearer anna\r\n", 413)):
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{token}"
            body = f"Content-Type: application/json\r\nContent-Length: {2**40}\r\n\r\n{{"
            connection.sendall((head + body).encode())
            with connection.makefile("rb") as answer:
                assert f" {status} " in answer.readline().decode()


def test_more_than_the_server_takes_is_turned_away_with_429_and_then_all_is_as_before(
    vlm: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    body = {"model": MODEL, "messages": about(sample_picture(1))}
    with served(around(vlm), {"anna": folder}, limits=Limits(requests=3)) as server:

        def ask(_: int) -> tuple[int, str | None]:
            headers = {"authorization": "Bearer anna"}
            answer = httpx.post(
                server.url + "/chat/completions", json=body, headers=headers, timeout=PATIENCE
            )
            return answer.status_code, answer.headers.get("retry-after")

        batches, go_on = server.app.state.engine.batches, Event()
        work = batches.work
        batches.work = lambda asked: go_on.wait(PATIENCE) and work(asked)
        with ThreadPoolExecutor(20) as pool:
            asking = [pool.submit(ask, number) for number in range(20)]
            assert len(list(islice(as_completed(asking), 17))) == 17, "three are inside"
            go_on.set()
        answers = [one.result() for one in asking]
        assert sorted(status for status, _ in answers) == [200] * 3 + [429] * 17
        assert {after for status, after in answers if status == 429} == {"1"}
        assert ask(0)[0] == 200
        guard = guard_of(server)
        opened = server.app.state.pictures.open  # the client gets its answer before the server frees it
        until(
            lambda: (guard.in_flight, guard.held_bytes, opened.free) == (0, 0, opened.units),
            "all is let go of",
        )


def guard_of(server: Served) -> Guard:
    """The guard of a server that has had a request before."""
    layer: Any = server.app.middleware_stack
    while not isinstance(layer, Guard):
        layer = layer.app
    return layer


def test_a_reply_that_takes_too_long_is_given_up(
    vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = around(vlm)
    with (
        served(own, {"anna": tmp_path / "anna"}, limits=Limits(seconds=1)) as server,
        server.client("anna") as client,
    ):
        client.models.list()
        guard_of(server).limits = Limits()  # on a busy machine the body alone may take a second
        go_on = Event()
        monkeypatch.setattr(
            server.app.state.engine.batches, "work", lambda asked: [go_on.wait(PATIENCE)] * len(asked)
        )
        messages: Any = about(sample_picture(1))
        with pytest.raises(Exception, match="took too long") as error:
            client.chat.completions.create(model=MODEL, messages=messages)
        assert error.value.status_code == 504  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="took too long"):
            list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
        go_on.set()


def test_without_a_token_only_this_computer_and_no_page_of_another_host_comes_in(
    vlm: MyVLM, tmp_path: Path
) -> None:
    app = create_app(around(vlm), Tokens({}, anonymous=Access("local")), {"local": tmp_path})
    with running(app) as url, httpx.Client(timeout=PATIENCE) as client:
        assert client.get(f"{url}/models").status_code == 200
        refused = client.delete(f"{url}/concepts/sks")
        assert refused.status_code == 403
        assert "token" not in refused.text
        assert "start the server with --may-change" in refused.text
        for headers in (
            {"host": "evil.example"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"host": "127.0.0.1.evil.example:8000"},
            {"host": "["},
        ):
            assert client.get(f"{url}/models", headers=headers).status_code == 403, headers
        assert client.get(f"{url}/models", headers={"origin": "http://localhost:3000"}).status_code == 200
    with pytest.raises(InputError, match="without a token"):
        check_address("0.0.0.0", Tokens({}, anonymous=Access("local")))
    check_address("0.0.0.0", Tokens({digest("a"): Access("local")}))


def test_logs_hold_no_picture_no_token_and_no_question(
    server: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, taught: Taught
) -> None:
    caplog.set_level(logging.DEBUG)
    picture = sample_picture(1)
    messages = about(picture, "is this a very private question ?")

    def fails(*_: object) -> None:
        raise RuntimeError(f"{picture!r} a very private question")

    with server.client("anna") as client:
        client.chat.completions.create(model=MODEL, messages=messages)
        monkeypatch.setattr(server.app.state.engine.batches, "work", fails)
        with pytest.raises(Exception, match="server failed"):
            client.chat.completions.create(model=MODEL, messages=messages)
    with pytest.raises(Exception, match="token"), server.client("sesame") as client:
        client.models.list()
    own = "\n".join(one.getMessage() for one in caplog.records if one.name.startswith(("myvlm", "uvicorn")))
    assert "anna POST /v1/chat/completions 200" in own
    assert "RuntimeError" in own
    for word in ("private", "base64", data_url(picture)[30:60], "sesame", "Bearer", "PIL"):
        assert word not in own


def test_errors_say_nothing_of_the_servers_disk(server: Served, tmp_path: Path) -> None:
    with httpx.Client(headers={"authorization": "Bearer anna"}, timeout=PATIENCE) as client:
        for path in ("/concepts/fnord", "/concepts/fnord?erase=true"):
            answer = client.delete(server.url + path)
            assert answer.status_code == 404
            assert str(server.folders["anna"].parent) not in answer.text
        body = {"identifier": "ulmo", "category": "mug", "photos": [data_url(sample_picture(1))]}
        answer = client.post(server.url + "/concepts", json=body)
        assert answer.status_code == 409, answer.text
        assert "/" not in json.dumps(answer.json()["error"]["message"])


def test_a_file_of_owners_holds_digests_alone(tmp_path: Path) -> None:
    file = tmp_path / "owners.json"
    token, other = new_token(file, "anna", may_change=True), new_token(file, "bert", may_change=False)
    tokens = read_tokens(file)
    assert token not in file.read_text()
    assert tokens.access(f"Bearer {token}") == Access("anna", True)
    assert tokens.access(f"Bearer {other}") == Access("bert", False)
    with pytest.raises(InputError, match="owner's name is invalid"):
        new_token(file, "../anna", may_change=True)
    file.write_text('{"a": {"owner": "../anna"}}')
    with pytest.raises(InputError, match="not a valid owners file"):
        read_tokens(file)


def test_an_uploads_place_is_taken_by_newer_ones(vlm: MyVLM) -> None:
    from myvlm.serving.http.pictures import Pictures

    pictures = Pictures(Limits(uploads_bytes=30_000))
    noise = [Image.effect_noise((100, 100), 50 + number) for number in range(5)]
    contents = [_png(one) for one in noise]
    names = [pictures.upload("anna", one) for one in contents]
    kept = pictures.uploads("anna")
    assert list(kept) == names[-len(kept) :]
    assert 1 <= len(kept) < 5
    assert sum(size for size, _ in kept.values()) <= 30_000


def _png(picture: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
