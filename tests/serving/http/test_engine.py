"""`myvlm serve --engine`: detection and encoding here, generation by a server like vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from openai import APIStatusError, BadRequestError, InternalServerError, RateLimitError

from myvlm import MyVLM
from myvlm.errors import BackboneError, InputError
from myvlm.serving.http.speaking.engine import VllmEngine
from myvlm.tinyworld.fewshot import pictures
from tests.support.served import MODEL, Served, about, library_of, served, unhurried
from tests.support.taught import Taught, around, elsewhere
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.vllm_stand_in import StandIn, serving


@pytest.fixture
def stand_in(vlm: MyVLM) -> StandIn:
    return StandIn(vlm)


@pytest.fixture
def server(vlm: MyVLM, taught: Taught, stand_in: StandIn, tmp_path: Path) -> Iterator[Served]:
    folder = library_of(tmp_path / "anna", taught.folder)
    with serving(stand_in) as url:
        engine = VllmEngine(around(vlm), url, at_once=8)
        with served(around(vlm), {"anna": folder}, engine=engine) as running:
            yield running


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    with server.client("anna") as client:
        yield client.chat.completions


@pytest.fixture
def here(vlm: MyVLM, taught: Taught) -> MyVLM:
    own = around(vlm)
    own.concepts.add(taught.folder)
    return own


def test_what_is_seen_is_rows_and_what_is_not_the_picture_itself(
    client: Any, here: MyVLM, taught: Taught, stand_in: StandIn
) -> None:
    shown = [*pictures(taught.kit.present)[:3], *pictures(taught.kit.other)[:3]]
    expected = here.caption(shown)
    made = [client.create(model=MODEL, messages=about(one), temperature=0) for one in shown]
    assert [one.choices[0].message.content for one in made] == [one.text for one in expected]
    assert {bool(one.seen) for one in expected} == {True, False}
    for said, right, body, tokens in zip(made, expected, stand_in.asked, stand_in.tokens, strict=True):
        assert [one["identifier"] for one in said.myvlm["seen"]] == list(right.seen)
        assert ("prompt_embeds" if right.seen else "messages") in body
        assert tokens == (68 if right.seen else 64)
        assert said.usage.completion_tokens > 2
        assert said.usage.prompt_tokens > tokens


def test_names_of_others_are_bad_words_and_a_question_about_them_says_that_they_are_away(
    server: Served, client: Any, taught: Taught, stand_in: StandIn
) -> None:
    elsewhere(taught, "zork").save(server.folders["anna"] / "zork")
    there, away = pictures(taught.kit.present)[0], pictures(taught.kit.other)[0]
    for shown in (there, away):
        client.create(model=MODEL, messages=about(shown, "Where is zork?"), temperature=0)
    first, second = stand_in.asked[-2:]
    assert first["bad_words"] == ["zork"]
    assert "bad_words" not in second
    told = "There is no zork in this picture. Where is zork?"
    assert stand_in.spelled(told) in stand_in.told(first)
    assert second["messages"][0]["content"][1]["text"] == told


def test_a_stream_is_passed_on_as_it_comes(server: Served, client: Any, here: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    with unhurried(server):
        events = list(client.create(model=MODEL, messages=about(picture), stream=True))
    assert [one["identifier"] for one in events[0].myvlm["seen"]] == [taught.word]
    pieces = [event.choices[0].delta.content or "" for event in events]
    assert "".join(pieces) == here.caption(picture).text
    assert sum(map(bool, pieces)) > 3
    assert events[-1].choices[0].finish_reason == "stop"


def test_turns_and_a_renamed_concept_go_there_in_the_words_that_were_learned(
    client: Any, server: Served, here: MyVLM, taught: Taught, stand_in: StandIn
) -> None:
    with server.client("anna") as owner:
        owner.patch(f"/concepts/{taught.word}", body={"identifier": "Zork"}, cast_to=dict)
    here.concepts.rename(taught.word, "Zork")
    picture = pictures(taught.kit.present)[0]
    chat = here.chat(picture)
    first = chat.ask("where is Zork ?").text
    second = chat.ask("what is next to Zork ?").text
    turns = [*about(picture, "where is Zork ?"), {"role": "assistant", "content": first},
             {"role": "user", "content": "what is next to Zork ?"}]  # fmt: skip
    said = client.create(model=MODEL, messages=turns).choices[0].message.content
    assert said == second
    told = stand_in.told(stand_in.asked[-1])
    assert stand_in.spelled(f"where is {taught.word} ?") in told
    assert stand_in.spelled(f"what is next to {taught.word} ?") in told
    streamed = client.create(model=MODEL, messages=about(picture), stream=True)
    text = "".join(event.choices[0].delta.content or "" for event in streamed)
    assert text == here.caption(picture).text
    assert "Zork" in text


def test_many_at_once_each_get_their_own_reply(client: Any, here: MyVLM, taught: Taught) -> None:
    shown = [*pictures(taught.kit.present), *pictures(taught.kit.other)][:8] * 2

    def ask(picture: Any) -> str:
        return str(client.create(model=MODEL, messages=about(picture)).choices[0].message.content)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, shown))
    assert said == [reply.text for reply in here.caption(shown)]
    assert len(set(said)) > 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, BadRequestError, "maximum context"),
        (429, RateLimitError, "too many requests at once"),
        (401, InternalServerError, "vLLM server failed"),
        (500, InternalServerError, "vLLM server failed"),
    ],
)
def test_what_the_engine_refuses_is_said_and_what_it_lets_slip_is_not(
    client: Any, taught: Taught, stand_in: StandIn, status: int,
    error: type[APIStatusError], message: str, stream: bool,
) -> None:  # fmt: skip
    stand_in.fails = status
    stand_in.says = "longer than the maximum context" if status == 400 else "at /srv/secret"
    picture = pictures(taught.kit.present)[0]
    if not stream:
        with pytest.raises(error, match=message) as raised:
            client.create(model=MODEL, messages=about(picture))
        assert "secret" not in str(raised.value)
        return
    with pytest.raises(Exception, match=message) as broken:
        list(client.create(model=MODEL, messages=about(picture), stream=True))
    assert "secret" not in str(broken.value)


def test_an_engine_that_is_gone_is_said_and_the_server_lives(
    vlm: MyVLM, taught: Taught, stand_in: StandIn, tmp_path: Path
) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    with serving(stand_in) as url:
        engine = VllmEngine(around(vlm), url, at_once=8)
    with served(around(vlm), {"anna": folder}, engine=engine) as running, running.client("anna") as client:
        picture = pictures(taught.kit.present)[0]
        with pytest.raises(InternalServerError, match="does not respond"):
            client.chat.completions.create(model=MODEL, messages=about(picture))  # type: ignore[arg-type]
        assert client.models.list().data[0].id == MODEL


def test_a_key_of_the_engines_is_sent_to_it(vlm: MyVLM, taught: Taught, stand_in: StandIn) -> None:
    stand_in.key = "secret"
    with serving(stand_in) as url:
        for key, expected in (("secret", True), ("other", False)):
            engine = VllmEngine(around(vlm), url, key=key, at_once=8)
            with served(around(vlm), {"anna": taught.folder / "none"}, engine=engine) as running:
                picture = about(pictures(taught.kit.present)[0])
                with running.client("anna") as client:
                    if expected:
                        assert client.chat.completions.create(model=MODEL, messages=picture)  # type: ignore[arg-type]
                        continue
                    with pytest.raises(InternalServerError, match="vLLM server failed"):
                        client.chat.completions.create(model=MODEL, messages=picture)  # type: ignore[arg-type]


def test_no_engine_and_no_family_for_one_are_said_at_the_start(vlm: MyVLM) -> None:
    with pytest.raises(InputError, match="vLLM server cannot be reached"):
        VllmEngine(vlm, "http://127.0.0.1:9/v1", at_once=8)
    with pytest.raises(InputError, match="vLLM server cannot be reached"):
        VllmEngine(vlm, "no address", at_once=8)
    with pytest.raises(BackboneError, match="cannot be used with this model in vLLM"):
        VllmEngine(MyVLM(*tiny_blip2(language="t5")), "http://127.0.0.1:9/v1", at_once=8)
