"""Libraries of owners at addresses: loading, learning, renaming, removing and erasing as in a folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("fsspec", reason="the extra [share] is not installed")

from openai import ConflictError, InternalServerError, NotFoundError, PermissionDeniedError

from myvlm import Concept, MyVLM
from myvlm.concepts.remote.store import Store
from myvlm.errors import ConceptExistsError, InputError, RemoteError, UnknownConceptError
from myvlm.heads.base import head_class
from myvlm.serving.http import libraries
from myvlm.serving.http.libraries import OwnedLibrary, RemoteLibrary, library_at
from myvlm.serving.http.owners import Access, Owners
from myvlm.speaking.addressing import Names
from myvlm.tinyworld.fewshot import pictures
from tests.support.served import MODEL, about, served
from tests.support.stores import BUCKET, fresh_address, s3_server, use_s3
from tests.support.taught import Taught, around, elsewhere


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | str:
    """An unused folder or address."""
    if request.param == "folder":
        return tmp_path / "anna"
    if request.param == "s3":
        files = use_s3(monkeypatch, request.getfixturevalue("s3"))
        if not files.exists(BUCKET):
            files.mkdir(BUCKET)
    return fresh_address(request.param)


def loose(concept: Concept) -> Concept:
    """A copy without folder or address."""
    return dataclasses.replace(concept, folder=None, url=None)


def words(library: OwnedLibrary) -> list[str]:
    with library.local_folders() as found:
        return sorted(Concept.load(path).identifier for path, _ in found)


def files(place: Path | str) -> list[str]:
    if isinstance(place, str):
        return Store(place).names()
    return sorted(str(one.relative_to(place)) for one in place.rglob("*") if one.is_file())


def test_a_concept_is_added_renamed_put_aside_and_erased(place: Path | str, taught: Taught) -> None:
    library = library_at(place)
    assert words(library) == []
    states = [library.state()]

    def changed() -> None:
        states.append(library.state())
        assert states[-1] != states[-2]

    library.add(loose(taught.concept))
    changed()
    assert words(library) == [taught.word]
    with pytest.raises(ConceptExistsError):
        library.add(loose(taught.concept))
    library.rename(taught.word, "zork")
    changed()
    assert words(library) == ["zork"]
    with library.local_folders() as [(path, _)]:
        again = Concept.load(path)
    assert again.spoken == taught.concept.spoken
    assert again.packed(url="x").files.keys() == taught.concept.packed(url="x").files.keys()
    with pytest.raises(UnknownConceptError):
        library.rename(taught.word, "blorp")
    library.remove("zork")
    changed()
    assert words(library) == []
    assert any(name.startswith(".removed/") for name in files(place)), "it was put aside"
    library.add(loose(elsewhere(taught, "zork")))
    changed()
    library.erase("zork")
    changed()
    assert files(place) == [], "nothing of it is left, what was put aside included"
    with pytest.raises(UnknownConceptError):
        library.erase("zork")
    with pytest.raises(UnknownConceptError):
        library.remove("zork")


def test_it_is_served_from_there(place: Path | str, vlm: MyVLM, taught: Taught) -> None:
    library_at(place).add(loose(taught.concept))
    picture = pictures(taught.kit.present)[0]
    here = around(vlm)
    here.concepts.add(loose(taught.concept))
    expected = here.caption(picture).text
    with served(around(vlm), {"anna": place}) as server, server.client("anna") as client:

        def said() -> tuple[str, list[str]]:
            made: Any = client.chat.completions.create(model=MODEL, messages=about(picture))  # type: ignore[arg-type]
            return made.choices[0].message.content, [one["identifier"] for one in made.myvlm["seen"]]

        assert said() == (expected, [taught.word])
        client.patch(f"/concepts/{taught.word}", body={"identifier": "zork"}, cast_to=dict)
        assert said() == (expected.replace(taught.word, "zork"), ["zork"])
        corrected: Any = client.post(
            "/concepts/zork/correct",
            body={"photo": about(picture)[0]["content"][0]["image_url"]["url"], "present": False},
            cast_to=dict,
        )
        assert corrected["object"] == "concept.correction"
        assert said()[1] == []
        with pytest.raises(NotFoundError):
            client.delete(f"/concepts/{taught.word}?erase=true", cast_to=dict)
        client.delete("/concepts/zork?erase=true", cast_to=dict)
        listed: Any = client.get("/concepts", cast_to=dict)
        assert listed["data"] == []
        assert files(place) == []


def test_names_are_made_once_and_never_go_stale(
    place: Path | str, vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "LISTING_INTERVAL", 0.0)
    library_at(place).add(loose(taught.concept))
    backbone = vlm.backbone
    owners = Owners({"anna": place}, fingerprint=backbone.fingerprint(), device="cpu", at_most=2**20)

    def names() -> Names:
        return owners.loaded("anna").names(backbone)

    first = names()
    assert names() is first, "not made anew at each request"
    assert [one.identifier for one in first.concepts] == [taught.word]
    library_at(place).rename(taught.word, "zork")  # by another process
    assert [one.identifier for one in names().concepts] == ["zork"]
    assert names().banned_words([]) == []
    owners.library("anna").rename("zork", "blorp")  # in memory only
    assert [one.identifier for one in names().in_prompt("Is blorp here?")] == ["blorp"]
    assert names().in_prompt("Is zork here?") == ()
    owners.library("anna").remove("blorp")
    assert names().concepts == ()


def test_one_that_breaks_off_and_one_that_is_damaged_are_passed_over(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(libraries, "LISTING_INTERVAL", 0.0)
    url = fresh_address("memory")
    library_at(url).add(loose(taught.concept))
    Store(url).write({"half/head.0123456789abcdef.safetensors": b"x", "bad/concept.json": b"{}"})
    owners = Owners({"a": url}, fingerprint=vlm.backbone.fingerprint(), device="cpu", at_most=2**20)
    assert list(owners.library("a")) == [taught.word]
    assert f"skipping {url}/bad" in caplog.text
    assert owners.nbytes > libraries.LISTING_INTERVAL
    library_at(url).erase(taught.word)
    assert list(owners.library("a")) == []


def test_the_store_is_listed_now_and_then_and_at_once_after_a_change_of_our_own(
    taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    original = Store.versions
    monkeypatch.setattr(Store, "versions", lambda self, name: listed.append(name) or original(self, name))
    own = RemoteLibrary(fresh_address("memory"))
    assert own.state() == own.state() == {}
    assert len(listed) == 1
    RemoteLibrary(own.url).add(loose(taught.concept))
    assert own.state() == {}, "another's, and the time has not come"
    own.rename(taught.word, "zork")
    assert own.state() != {}
    assert len(listed) == 2


def test_a_face_goes_there_only_if_that_was_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert head_class("face")
    url = fresh_address("memory")
    monkeypatch.delenv("MYVLM_SHARE_FACES", raising=False)
    library = library_at(url)
    library.check_may_hold("object", face_consent=False)
    for consent in (False, True):
        with pytest.raises(InputError, match="may not be uploaded"):
            library.check_may_hold("face", face_consent=consent)
    monkeypatch.setenv("MYVLM_SHARE_FACES", url.rpartition("/")[0])
    library.check_may_hold("face", face_consent=True)
    with pytest.raises(InputError, match="may not be uploaded"):
        library.check_may_hold("face", face_consent=False)


@pytest.mark.parametrize("ask", ["chat", "list", "erase"])
def test_a_store_that_is_down_is_503_and_says_nothing_of_it(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    def down(*_: Any) -> Any:
        raise RemoteError("memory://secret-place cannot be reached.", got="nothing", expected="an answer")

    url = fresh_address("memory")
    with served(around(vlm), {"anna": url}) as server, server.client("anna") as client:
        monkeypatch.setattr(Store, "versions", down)
        monkeypatch.setattr(Store, "names", down)
        monkeypatch.setattr(Store, "folders", down)
        asked: dict[str, Callable[[], Any]] = {
            "chat": lambda: client.chat.completions.create(
                model=MODEL,
                messages=about(pictures(taught.kit.present)[0]),  # type: ignore[arg-type]
            ),
            "list": lambda: client.get("/concepts", cast_to=dict),
            "erase": lambda: client.delete("/concepts/sks?erase=true", cast_to=dict),
        }
        with pytest.raises(InternalServerError, match="The concepts' storage cannot be reached") as error:
            asked[ask]()
        assert error.value.status_code == 503
        assert "secret-place" not in str(error.value)


def test_owners_at_one_store_do_not_see_each_other(vlm: MyVLM, taught: Taught) -> None:
    root = fresh_address("memory")
    places = {"anna": f"{root}/anna", "bert": f"{root}/bert"}
    library_at(places["anna"]).add(loose(taught.concept))
    access = {"anna": Access("anna", True), "bert": Access("bert", True), "reads": Access("anna")}
    with served(around(vlm), places, access=access) as server:
        with server.client("bert") as bert:
            assert bert.get("/concepts", cast_to=dict)["data"] == []  # type: ignore[index]
            with pytest.raises(NotFoundError):
                bert.delete(f"/concepts/{taught.word}?erase=true", cast_to=dict)
        with server.client("reads") as reads, pytest.raises(PermissionDeniedError):
            reads.delete(f"/concepts/{taught.word}?erase=true", cast_to=dict)
        library_at(places["anna"]).add(loose(elsewhere(taught, "zork")))
        with server.client("anna") as anna, pytest.raises(ConflictError):
            anna.patch(f"/concepts/{taught.word}", body={"identifier": "ZORK"}, cast_to=dict)
    assert words(library_at(places["anna"])) == sorted([taught.word, "zork"])


def test_copies_are_gone_once_they_are_read(taught: Taught) -> None:
    library = library_at(fresh_address("memory"))
    library.add(loose(taught.concept))
    with library.local_folders() as [(path, url)]:
        assert url == f"{library.url}/{path.name}"  # type: ignore[attr-defined]
        assert path.is_dir()
    assert not path.exists()
    shutil.rmtree(path, ignore_errors=True)
