"""Concepts over HTTP: learned with progress while the server replies; renamed, removed, erased."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import httpx
from openai import BadRequestError, InternalServerError, NotFoundError, PermissionDeniedError

from myvlm import Concept, MyVLM
from myvlm.errors import NotWritableError
from myvlm.heads import features
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access
from myvlm.tinyworld import few_shot, sample_picture
from myvlm.tinyworld.fewshot import pictures
from tests.support.served import MODEL, PATIENCE, Served, about, data_url, library_of, served, until
from tests.support.taught import COLOURS, Taught, around


@pytest.fixture
def server(vlm: MyVLM, tmp_path: Path) -> Iterator[Served]:
    """A server that learns quickly, since its heads use colours only."""
    quick = around(vlm, encoder=COLOURS)
    with served(quick, {"anna": tmp_path / "anna"}, limits=Limits(learners=1)) as running:
        yield running


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.url, headers={"authorization": "Bearer anna"}, timeout=PATIENCE
    ) as client:
        yield client


def enrolment(**changed: Any) -> dict[str, Any]:
    kit = few_shot(0)
    body = {
        "identifier": kit.identifier,
        "category": kit.category,
        "photos": [data_url(photo) for photo in kit.photos()],
        "captions": kit.captions(),
    }
    return {**body, **changed}


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_a_concept_is_learned_while_its_progress_comes_and_is_then_named(
    http: httpx.Client, server: Served
) -> None:
    kit = few_shot(0)
    with http.stream("POST", "/concepts", json=enrolment(stream=True)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = list(events(answer))
    assert [kind for kind, _ in told[:-1]] == ["progress"] * (len(told) - 1)
    steps = [event["step"] for kind, event in told if kind == "progress"]
    assert len(steps) > 5
    assert steps == sorted(steps)
    kind, concept = told[-1]
    assert kind == "done"
    assert concept["identifier"] == kit.identifier
    [folder] = server.folders["anna"].iterdir()
    assert Concept.load(folder).identifier == kit.identifier
    assert not (folder / "photos").exists()
    with server.client("anna") as client:
        made: Any = client.chat.completions.create(model=MODEL, messages=about(kit.photos()[0]))
        assert [one["identifier"] for one in made.myvlm["seen"]] == [kit.identifier]
    assert http.post("/concepts", json=enrolment()).status_code == 409


def test_one_is_learned_beside_speaking_and_no_other_and_who_leaves_stops_it(
    http: httpx.Client, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, go_on = server.app.state.learner, Event()
    learn = learner._learn

    def held(enrolment: Any, report: Callable[[Any], None]) -> Any:
        def told(learned: Any) -> None:
            report(learned)
            if learned.step == 2:
                go_on.wait(PATIENCE)  # otherwise learning may end before the other requests arrive

        return learn(enrolment, told)

    monkeypatch.setattr(learner, "_learn", held)
    with http.stream("POST", "/concepts", json=enrolment(stream=True)) as answer:
        told = events(answer)  # keep a reference: the connection is closed when it is collected
        assert next(told)[0] == "progress"
        again = http.post("/concepts", json=enrolment(identifier="fnord", captions=None))
        assert again.status_code == 429
        assert again.headers["retry-after"]
        with server.client("anna") as client:
            made = client.chat.completions.create(model=MODEL, messages=about(sample_picture(1)))
            assert made.choices[0].message.content
        assert learner.queued == 1
        assert next(told)[0] == "progress"
    until(lambda: learner.queued == 0, "that the client is gone is known")
    go_on.set()
    learner._thread.submit(lambda: None).result(PATIENCE)  # the work in its one thread has ended
    assert not server.folders["anna"].exists() or not list(server.folders["anna"].iterdir())


def test_a_fault_in_a_stream_is_an_event(http: httpx.Client) -> None:
    wrong = enrolment(stream=True, captions=["no name in it"] * 4)
    with http.stream("POST", "/concepts", json=wrong) as answer:
        [(kind, error)] = list(events(answer))
    assert kind == "error"
    assert error["error"]["type"] == "invalid_request_error"


def test_a_concept_is_renamed_taken_out_and_erased(vlm: MyVLM, taught: Taught, tmp_path: Path) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    picture = pictures(taught.kit.present)[0]
    with (
        served(around(vlm), {"anna": folder}) as server,
        httpx.Client(
            base_url=server.url, headers={"authorization": "Bearer anna"}, timeout=PATIENCE
        ) as client,
        server.client("anna") as speaker,
    ):

        def seen() -> list[str]:
            made: Any = speaker.chat.completions.create(model=MODEL, messages=about(picture))
            return [one["identifier"] for one in made.myvlm["seen"]]

        assert seen() == [taught.word]
        renamed = client.patch(f"/concepts/{taught.word}", json={"identifier": "Jösé Mug"}).json()
        assert (renamed["identifier"], renamed["learned_as"]) == ("Jösé Mug", taught.word)
        assert seen() == ["Jösé Mug"]
        assert client.delete("/concepts/J%C3%B6s%C3%A9%20Mug").json()["erased"] is False
        assert seen() == []
        assert list((folder / ".removed").iterdir())
        speaker.files.create(file=("a.png", _png(picture)), purpose="vision")
        assert _remembered()
        assert client.delete("/concepts/J%C3%B6s%C3%A9%20Mug?erase=true").json()["erased"] is True
        assert [one for one in folder.rglob("*") if one.is_file()] == []
        assert list(speaker.files.list()) == []
        assert not _remembered()
        assert client.delete("/concepts/J%C3%B6s%C3%A9%20Mug?erase=true").status_code == 404


def test_a_concept_is_corrected_by_a_picture_and_that_is_taken_back(
    vlm: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    picture = pictures(taught.kit.present)[0]
    access = {"anna": Access("anna", True), "reader": Access("anna")}
    with (
        served(around(vlm), {"anna": folder}, access=access) as server,
        server.client("anna") as client,
        server.client("reader") as reader,
    ):
        place = f"/concepts/{taught.word}/correct"

        def seen() -> list[str]:
            made: Any = client.chat.completions.create(model=MODEL, messages=about(picture))
            return [one["identifier"] for one in made.myvlm["seen"]]

        def correct(present: bool | None, **more: Any) -> Any:
            body = {"photo": data_url(picture), "present": present, **more}
            return client.post(place, body=body, cast_to=dict)

        assert seen() == [taught.word]
        with pytest.raises(PermissionDeniedError, match="correct"):
            reader.post(place, body={"photo": data_url(picture), "present": False}, cast_to=dict)
        assert seen() == [taught.word]
        said = correct(False)
        assert (said["object"], said["identifier"]) == ("concept.correction", taught.word)
        assert (said["present"], said["held"], said["corrections"]) == (False, True, 1)
        assert said["score"]["before"] >= 0.5 > said["score"]["after"]
        assert str(tmp_path) not in json.dumps(said)
        assert seen() == []
        assert not Concept.load(folder / taught.folder.name).head.score(picture)[0].present
        assert correct(None)["corrections"] == 0
        assert seen() == [taught.word]
        with pytest.raises(BadRequestError, match="has no correction by"):
            correct(None)
        with pytest.raises(BadRequestError, match="is not a part"):
            correct(False, box=[0, 0, 9999, 1])
        with pytest.raises(BadRequestError, match="box"):
            correct(False, box=[1, 2])
        body = {"photo": data_url(picture), "present": True}
        with pytest.raises(NotFoundError):
            client.post("/concepts/fnord/correct", body=body, cast_to=dict)
        assert seen() == [taught.word]


def test_a_correction_that_cannot_be_kept_changes_nothing(
    vlm: MyVLM, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    picture = pictures(taught.kit.present)[0]

    def full(*_: Any, **__: Any) -> None:
        raise NotWritableError("No space is left.")

    with served(around(vlm), {"anna": folder}) as server, server.client("anna") as client:
        monkeypatch.setattr(Concept, "save", full)
        with pytest.raises(InternalServerError):
            client.post(f"/concepts/{taught.word}/correct",
                        body={"photo": data_url(picture), "present": False}, cast_to=dict)  # fmt: skip
        made: Any = client.chat.completions.create(model=MODEL, messages=about(picture))
    assert [one["identifier"] for one in made.myvlm["seen"]] == [taught.word]


def _remembered() -> bool:
    return any(kept for cache in features._caches for kept in cache._by_encoder.values())


def _png(picture: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
