"""Many owners on one model: no concept, name, score or picture of one reaches another; memory is bounded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import httpx
from openai import NotFoundError, PermissionDeniedError

from myvlm import Concept, ConceptLibrary, MyVLM
from myvlm.concepts import editing
from myvlm.files import claims
from myvlm.heads import ObjectHead
from myvlm.heads.features import forget_pictures
from myvlm.images import load_images
from myvlm.serving.http import owners as owners_module
from myvlm.serving.http.owners import CONCEPT_OVERHEAD_BYTES, Access, Owners, new_token, read_tokens
from myvlm.serving.http.speaking.looking import DetectionRequest, detection_queue
from myvlm.text import contains_word
from myvlm.tinyworld import sample_picture
from myvlm.tinyworld.fewshot import pictures
from tests.support.fake_encoder import ColourEncoder, scene, scenes
from tests.support.records import rewrite
from tests.support.served import MODEL, PATIENCE, Served, about, library_of, served, together
from tests.support.taught import Taught, around

OTHER = "blorp"
"""Another owner's name for their copy of the same object."""


@pytest.fixture(scope="module")
def server(vlm: MyVLM, taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    folders = {
        "anna": library_of(place / "anna", taught.folder),
        "bert": library_of(place / "bert", taught.folder),
        "carla": place / "carla",
    }
    editing.rename(folders["bert"], taught.word, OTHER)
    access = {owner: Access(owner, True) for owner in folders} | {"anna-speaks": Access("anna")}
    with served(around(vlm), folders, access=access) as running:
        yield running


def ask(server: Served, token: str, picture: Any, text: str = "", **more: Any) -> tuple[str, list[str]]:
    with server.client(token) as client:
        made: Any = client.chat.completions.create(
            model=MODEL, messages=about(picture, text), extra_body=more
        )
        return made.choices[0].message.content, [one["identifier"] for one in made.myvlm["seen"]]


def test_owners_ask_about_one_picture_at_once_and_each_sees_their_own(
    server: Served, vlm: MyVLM, taught: Taught
) -> None:
    picture = pictures(taught.kit.present)[0]
    expected = {}
    for owner, folder in server.folders.items():
        own = around(vlm)
        if folder.is_dir():
            own.concepts.add(folder / taught.folder.name)
        reply = own.caption(picture)
        expected[owner] = reply.text, list(reply.seen)
    assert expected["anna"][1] == [taught.word]
    assert expected["bert"][1] == [OTHER]
    assert expected["carla"][1] == []
    asked = ["anna", "bert", "carla"] * 4
    with together(server, len(asked)), ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda owner: ask(server, owner, picture), asked))
    assert said == [expected[owner] for owner in asked]
    assert max(server.app.state.engine.batches.sizes) > 1, "owners are spoken for in one batch"
    for owner, (text, _) in zip(asked, said, strict=True):
        assert contains_word(text, taught.word) == (owner == "anna")
        assert contains_word(text, OTHER) == (owner == "bert")


def test_anothers_concept_is_as_unknown_as_one_that_is_not(server: Served, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    headers = {"authorization": "Bearer bert"}
    body = {"model": MODEL, "messages": about(picture), "concepts": [taught.word]}
    answers = []
    for name in (taught.word, "fnord"):
        body["concepts"] = [name]
        with httpx.Client(headers=headers, base_url=server.url, timeout=PATIENCE) as client:
            each = [
                client.post("/chat/completions", json=body),
                client.patch(f"/concepts/{name}", json={"identifier": "sks"}),
                client.delete(f"/concepts/{name}"),
                client.delete(f"/concepts/{name}?erase=true"),
            ]
        answers.append([(one.status_code, one.text.replace(name, "…")) for one in each])
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0]] == [404, 404, 404, 404]
    assert (server.folders["anna"] / taught.folder.name / "concept.json").is_file()


def test_a_word_of_anothers_is_but_a_word(server: Served, vlm: MyVLM, taught: Taught) -> None:
    picture = pictures(taught.kit.present)[0]
    question = f"where is {taught.word} ?"
    with around(vlm).generic() as plain:
        expected = plain.ask(picture, question).text
    assert ask(server, "carla", picture, question) == (expected, [])


def test_anothers_upload_is_not_there(server: Served) -> None:
    with server.client("anna") as anna, server.client("bert") as bert:
        name = anna.files.create(file=("a.png", _png()), purpose="vision").id
        assert [one.id for one in bert.files.list()] == []
        with pytest.raises(NotFoundError):
            bert.chat.completions.create(model=MODEL, messages=about(name))
        with pytest.raises(NotFoundError):
            bert.files.delete(name)
        assert [one.id for one in anna.files.list()] == [name]


def test_to_change_concepts_is_a_right_of_its_own(server: Served, taught: Taught) -> None:
    with server.client("anna-speaks") as client:
        listed: Any = client.get("/concepts", cast_to=dict)
        assert [one["identifier"] for one in listed["data"]] == [taught.word]
        body = {"identifier": "sks", "category": "mug", "photos": ["file-x"]}
        for change in (
            lambda: client.post("/concepts", body=body, cast_to=dict),
            lambda: client.patch(f"/concepts/{taught.word}", body={"identifier": "sks"}, cast_to=dict),
            lambda: client.delete(f"/concepts/{taught.word}?erase=true", cast_to=dict),
        ):
            with pytest.raises(PermissionDeniedError):
                change()


def test_the_pictures_of_several_owners_are_encoded_in_one_pass() -> None:
    encoder = ColourEncoder()
    head = ObjectHead(encoder).fit(scenes(20, 3), scenes(50, 20, None))
    libraries = [ConceptLibrary([Concept(word, "toy", head)]) for word in ("sks", "fnord", "ulmo")]
    shown = load_images([scene(200)[0], scene(201, colour=None)[0], scene(202)[0]])
    encoder.calls.clear()
    alone = [library.recognise(photo)[0].present for library, photo in zip(libraries, shown, strict=True)]
    looked = sum(encoder.calls)
    forget_pictures()
    encoder.calls.clear()
    queue = detection_queue(at_once=4)
    found = queue.work(
        [DetectionRequest(library, photo) for library, photo in zip(libraries, shown, strict=True)]
    )
    queue.close()
    assert encoder.calls[0] == 3 * 10, "the large windows of all three"
    assert sum(encoder.calls) <= looked, "and no more than each would look at alone"
    names = [[one.identifier for one in own] for own in found]
    assert names == [["sks"], [], ["ulmo"]]
    assert [[one.probability for one in own] for own in found] == [
        [one.probability for one in own] for own in alone
    ]


def test_libraries_are_let_go_of_by_a_bound_and_read_again(
    taught: Taught, vlm: MyVLM, tmp_path: Path
) -> None:
    folders = {owner: library_of(tmp_path / owner, taught.folder) for owner in ("a", "b", "c", "d")}
    weights = vlm.backbone.fingerprint()
    owners = Owners(folders, fingerprint=weights, device="cpu", at_most=3 * CONCEPT_OVERHEAD_BYTES)
    first = owners.library("a")
    assert owners.library("a") is first
    read = {owner: owners.library(owner) for owner in "bcda"}
    assert [list(one) for one in read.values()] == [[taught.word]] * 4
    assert 0 < owners.nbytes <= 3 * CONCEPT_OVERHEAD_BYTES
    assert owners.library("a") is read["a"], "the one that was asked for last is there"
    assert read["a"] is not first, "it was let go of and read again"
    assert owners.library("b") is not read["b"]


def test_what_changes_on_the_disk_is_seen_at_the_next_request(
    taught: Taught, vlm: MyVLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "anna"
    owners = Owners({"anna": folder}, fingerprint=vlm.backbone.fingerprint(), device="cpu", at_most=2**20)
    assert list(owners.library("anna")) == []
    library_of(folder, taught.folder)
    assert list(owners.library("anna")) == [taught.word]
    (folder / "broken").mkdir()
    (folder / "broken" / "concept.json").write_text("{}")
    assert list(owners.library("anna")) == [taught.word]
    assert "skipping" in caplog.text
    shutil.rmtree(folder / taught.folder.name)
    assert list(owners.library("anna")) == []


def test_what_another_model_learned_is_told_in_words_where_there_are_any(
    taught: Taught, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = library_of(tmp_path / "anna", taught.folder)
    rewrite(folder / taught.folder.name, lambda record: record["recipe"].update(description="the mug"))
    owners = Owners({"anna": folder}, fingerprint="another", device="cpu", at_most=2**20)
    assert list(owners.library("anna")) == [taught.word]
    assert "its description is used instead" in caplog.text
    rewrite(folder / taught.folder.name, lambda record: record["recipe"].pop("description"))
    owners.drop_from_cache("anna")
    assert list(owners.library("anna")) == []
    assert "skipping" in caplog.text


def _png() -> bytes:
    import io

    buffer = io.BytesIO()
    sample_picture(1).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.skipif(claims.fcntl is None, reason="there are no locks on this system; run it on another")
def test_of_two_tokens_that_are_made_at_once_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock, 81 of 240 tokens made by four processes survived."""
    alone, write = [], owners_module.write_atomically

    def asked(file: Path, text: str, **options: str) -> None:
        with claims.try_lock(tmp_path) as free:
            alone.append(not free)
        write(file, text, **options)

    monkeypatch.setattr(owners_module, "write_atomically", asked)
    file = tmp_path / "owners.json"
    tokens = [new_token(file, owner, may_change=False) for owner in ("anna", "bo")]
    assert alone == [True, True]
    known = read_tokens(file)
    assert [known.access(f"Bearer {one}") for one in tokens] == [Access("anna"), Access("bo")]
