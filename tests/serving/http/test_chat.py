"""The server through OpenAI's client: the library's replies, whole, streamed, in conversations, in
parallel."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from openai import BadRequestError, NotFoundError

from myvlm import ConceptLibrary, MyVLM
from myvlm.tinyworld.fewshot import pictures
from tests.support.served import MODEL, Served, about, data_url, library_of, served, together, unhurried
from tests.support.taught import Taught, around


@pytest.fixture(scope="module")
def server(vlm: MyVLM, taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = library_of(tmp_path_factory.mktemp("served") / "anna", taught.folder)
    with served(around(vlm), {"anna": folder}) as running:
        yield running


@pytest.fixture(scope="module")
def here(vlm: MyVLM, taught: Taught) -> MyVLM:
    """The same model and library without a server."""
    own = around(vlm)
    own.concepts.add(taught.folder)
    return own


@pytest.fixture
def client(server: Served) -> Any:
    with server.client("anna") as client:
        yield client


def test_a_reply_is_what_the_library_says_and_tells_who_was_seen_where(
    client: Any, here: MyVLM, taught: Taught
) -> None:
    shown = pictures([taught.kit.present[0], taught.kit.other[0]])
    for picture in shown:
        expected = here.caption(picture)
        made = client.chat.completions.create(model=MODEL, messages=about(picture))
        assert made.choices[0].message.content == expected.text
        assert made.choices[0].finish_reason == "stop"
        assert made.usage.completion_tokens == len(expected.token_ids)
        seen = [one for one in expected.detections if one.present]
        assert [one["identifier"] for one in made.myvlm["seen"]] == [one.identifier for one in seen]
        assert made.myvlm["absent"] == []
        for told, one in zip(made.myvlm["seen"], seen, strict=True):
            assert told["box"] == pytest.approx(one.box, abs=0.1)
            assert told["probability"] == pytest.approx(one.probability, abs=1e-3)
    assert here.caption(shown[0]).seen == (taught.word,)


def test_a_stream_says_who_was_seen_first_and_its_pieces_are_the_reply(
    server: Served, client: Any, here: MyVLM, taught: Taught
) -> None:
    picture = pictures(taught.kit.present)[0]
    with unhurried(server):
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=about(picture), stream=True, stream_options={"include_usage": True}
            )
        )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    expected = here.caption(picture)
    assert "".join(pieces) == expected.text
    assert len([piece for piece in pieces if piece]) > 5
    assert [one["identifier"] for one in chunks[0].myvlm["seen"]] == [taught.word]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(expected.token_ids)


def test_a_question_about_who_is_not_there_is_told_so(client: Any, here: MyVLM, taught: Taught) -> None:
    [picture] = pictures(taught.kit.other[:1])
    asked = f"Is {taught.word} in the picture?"
    expected = here.ask(picture, asked)
    assert expected.absent == (taught.word,)
    made = client.chat.completions.create(model=MODEL, messages=about(picture, asked))
    assert made.choices[0].message.content == expected.text
    assert made.myvlm == {"seen": [], "absent": [taught.word]}
    first, *_ = client.chat.completions.create(model=MODEL, messages=about(picture, asked), stream=True)
    assert first.myvlm == made.myvlm
    with here.generic() as plain:
        assert plain.ask(picture, asked).text != expected.text


def test_several_turns_are_one_conversation(client: Any, here: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    chat = here.chat(picture)
    questions = [f"what colour is {taught.word} ?", "where is it ?", "what do you see ?"]
    messages = about(picture, questions[0])
    for place, question in enumerate(questions):
        if place:
            messages.append({"role": "user", "content": question})
        expected = chat.ask(question).text
        made = client.chat.completions.create(model=MODEL, messages=messages)
        assert made.choices[0].message.content == expected
        messages.append({"role": "assistant", "content": expected})
    assert len(chat.turns) == 6
    alone = here.ask(picture, questions[-1]).text
    assert chat.turns[-1] != alone, "what was said before is read"


def test_a_reply_is_handed_back_as_the_client_has_it(client: Any, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    messages: list[Any] = about(picture, f"what colour is {taught.word} ?")
    first = client.chat.completions.create(model=MODEL, messages=messages)
    more = {"role": "user", "content": "where is it ?"}
    message = first.choices[0].message
    said = {"role": "assistant", "content": message.content}
    expected = client.chat.completions.create(model=MODEL, messages=[*messages, said, more])
    nothing = {"refusal": None, "audio": None, "function_call": None, "tool_calls": [], "annotations": []}
    nothing |= {"reasoning": "", "reasoning_content": None}
    for own in (message, message.model_dump(), {**said, **nothing}):
        made = client.chat.completions.create(model=MODEL, messages=[*messages, own, more])
        assert made.choices[0].message.content == expected.choices[0].message.content
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    for unlike in ({"tool_calls": [call]}, {"content": None, "tool_calls": [call]}, {"reasoning": "so"}):
        with pytest.raises(BadRequestError, match=f"{list(unlike)[-1]}: this server only generates text"):
            client.chat.completions.create(model=MODEL, messages=[*messages, {**said, **unlike}, more])
    with pytest.raises(BadRequestError, match="Extra inputs"):
        client.chat.completions.create(model=MODEL, messages=[{**messages[0], "refusal": None}])


def test_a_request_names_the_concepts_that_it_wants(client: Any, here: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    with here.generic() as plain:
        expected = plain.caption(picture).text
    made = client.chat.completions.create(model=MODEL, messages=about(picture), extra_body={"concepts": []})
    assert made.choices[0].message.content == expected
    assert made.myvlm == {"seen": [], "absent": []}
    made = client.chat.completions.create(
        model=MODEL, messages=about(picture), extra_body={"concepts": [taught.word]}
    )
    assert made.choices[0].message.content == here.caption(picture).text
    with pytest.raises(NotFoundError, match="fnord"):
        client.chat.completions.create(
            model=MODEL, messages=about(picture), extra_body={"concepts": ["fnord"]}
        )


def test_many_clients_at_once_each_get_their_own_reply_and_are_spoken_of_together(
    server: Served, here: MyVLM, taught: Taught
) -> None:
    shown = pictures([*taught.kit.present[:3], *taught.kit.other[:3]]) * 2
    expected = [here.caption(picture).text for picture in shown]
    server.app.state.engine.batches.sizes.clear()

    def ask(picture: Any) -> str:
        with server.client("anna") as own:
            made = own.chat.completions.create(model=MODEL, messages=about(picture))
            return str(made.choices[0].message.content)

    with together(server, len(shown)), ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, shown)) == expected
    sizes = list(server.app.state.engine.batches.sizes)
    assert sum(sizes) == len(shown)
    assert max(sizes) > 1, "requests that wait together are one batch"


def test_one_picture_that_the_model_cannot_take_is_no_fault_of_the_others(
    server: Served, here: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = pictures(taught.kit.other)[:4]
    speaker = server.app.state.engine.batches
    work = speaker.work

    def fails_with_the_second(asked: Any) -> Any:
        if any(one.photo.image.size == (30, 20) for one, _ in asked):
            raise ValueError("of a processor")
        return work(asked)

    monkeypatch.setattr(speaker, "work", fails_with_the_second)
    bad = shown[0].resize((30, 20))

    def ask(picture: Any) -> Any:
        with server.client("anna") as own:
            try:
                made = own.chat.completions.create(model=MODEL, messages=about(picture))
                return made.choices[0].message.content
            except Exception as error:
                return getattr(error, "status_code", error)

    with ThreadPoolExecutor(5) as pool:
        said = list(pool.map(ask, [shown[0], bad, *shown[1:]]))
    assert said == [here.caption(shown[0]).text, 500, *(here.caption(one).text for one in shown[1:])]


def test_an_upload_is_a_picture_of_later_requests(
    client: Any, here: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    picture = pictures(taught.kit.present)[0]
    file = tmp_path / "desk.png"
    picture.save(file)
    with file.open("rb") as opened:
        name = client.files.create(file=opened, purpose="vision").id
    made = client.chat.completions.create(model=MODEL, messages=about(name))
    assert made.choices[0].message.content == here.caption(picture).text
    assert [one.id for one in client.files.list()] == [name]
    assert client.files.delete(name).deleted
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model=MODEL, messages=about(name))


def test_a_renamed_concept_is_asked_for_and_named_by_its_name_in_pieces_too(
    vlm: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    picture = pictures(taught.kit.present)[0]
    folder = library_of(tmp_path / "anna", taught.folder)
    with served(around(vlm), {"anna": folder}) as server, server.client("anna") as client:
        client.patch(f"/concepts/{taught.word}", body={"identifier": "My Old Mug"}, cast_to=dict)
        own = around(vlm)
        own.concepts = ConceptLibrary([folder / taught.folder.name])
        expected = own.caption(picture).text
        assert "My Old Mug" in expected
        chunks = client.chat.completions.create(model=MODEL, messages=about(picture), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_the_model_is_listed_and_no_other_is_taken_for_it(client: Any) -> None:
    assert [one.id for one in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "myvlm"
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "look"}}]}, "tools is not supported; leave it"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported; leave it out or send 0"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"stop": ["."]}, "stop is not supported"),
        ({"seed": 3, "temperature": 1}, "seed is not supported with a temperature"),
        ({"colour": "red"}, "colour"),
        ({"n": 2}, "n:"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 100_000}, "at most 1024 tokens"),
        ({"messages": [{"role": "user", "content": "what is it ?"}]}, "one picture"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_would_change_a_reply_and_is_not_known_is_refused(
    client: Any, taught: Taught, changed: dict[str, Any], said: str
) -> None:
    asked = {"model": MODEL, "messages": about(pictures(taught.kit.present)[0]), **changed}
    with pytest.raises(BadRequestError, match=said):
        client.post("/chat/completions", body=asked, cast_to=dict)


def test_values_that_change_nothing_are_taken(client: Any, here: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    made = client.chat.completions.create(
        model=MODEL, messages=about(picture), frequency_penalty=0, presence_penalty=0.0, logprobs=False,
        tools=[], tool_choice="auto", parallel_tool_calls=True, response_format={"type": "text"}, seed=3,
        stop=None, logit_bias={},
    )  # fmt: skip
    assert made.choices[0].message.content == here.caption(picture).text


def test_sampling_is_asked_for_by_a_temperature(client: Any, taught: Taught) -> None:
    messages = about(pictures(taught.kit.present)[0])
    said = {
        client.chat.completions.create(model=MODEL, messages=messages, temperature=2.0)
        .choices[0]
        .message.content
        for _ in range(4)
    }
    assert len(said) > 1
    short = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 3


def test_a_jpeg_is_a_picture_too(client: Any, taught: Taught) -> None:
    url = data_url(pictures(taught.kit.other)[0], "JPEG")
    assert client.chat.completions.create(model=MODEL, messages=about(url)).choices[0].message.content
