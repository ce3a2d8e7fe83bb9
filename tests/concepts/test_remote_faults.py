"""What must not be uploaded, and remote failures: each raises an error with a fix."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from myvlm import Concept, ConceptLibrary
from myvlm.concepts.remote.address import SHARE_FACES, path_or_url
from myvlm.concepts.remote.hub import commit, ensure_repository, parse_address
from myvlm.concepts.remote.store import Store
from myvlm.errors import (
    ConceptFileError,
    InputError,
    MissingFileError,
    MissingPackageError,
    NotWritableError,
    RemoteError,
)
from myvlm.heads.faces.head import FaceHead
from myvlm.heads.faces.registry import register_face_encoder
from tests.support.errors import check_said
from tests.support.fake_faces import FakeFaces, photos
from tests.support.local_hub import READER, TOKEN, Hub, local_hub
from tests.support.stores import closed_port, fresh_address, s3_server, use_hub, use_s3

ROOT = Path(__file__).parents[2]
register_face_encoder("fake/remote", lambda device: FakeFaces("fake/remote"))
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # from the hub's own client


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub() as hub:
        use_hub(monkeypatch, hub.url)
        yield hub


@pytest.fixture
def anna() -> Concept:
    """A person, recognized by face."""
    return Concept("Anna", "woman", FaceHead("fake/remote").fit(photos(1)))


def test_a_face_stays_here_unless_that_is_said_twice(
    anna: Concept, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SHARE_FACES, raising=False)
    family = fresh_address("memory").removesuffix("/sks")
    url = f"{family}/anna"
    library = ConceptLibrary([concept, anna])

    def refused(consent: bool) -> str:
        for save in (
            lambda: anna.save(url, face_consent=consent),
            lambda: library.save(f"{family}/all", face_consent=consent),
        ):
            with pytest.raises(InputError, match="'Anna' may not be uploaded") as raised:
                save()
            check_said(raised.value)
        assert Store(family).names() == []
        return str(raised.value)

    assert SHARE_FACES in refused(True)
    assert "face_consent=True" in refused(False)
    name = family.removeprefix("memory://")
    for setting in (f"s3://{name} {family}-album", "memory:", name):
        monkeypatch.setenv(SHARE_FACES, setting)
        refused(True)
    monkeypatch.setenv(SHARE_FACES, f"s3://elsewhere {family}/")
    refused(False)
    anna.save(url, face_consent=True)
    assert Concept.load(url).identifier == "Anna"
    library.save(f"{family}/all", face_consent=True)
    assert sorted(ConceptLibrary.load(f"{family}/all")) == ["Anna", "sks"]
    concept.save(f"{family}/mug")  # an object needs no consent


def test_a_face_goes_to_no_hub_either(anna: Concept, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARE_FACES, raising=False)
    with pytest.raises(InputError, match="may not be uploaded"):
        anna.push_to_hub("me/anna", face_consent=True)
    assert hub.asked == []
    monkeypatch.setenv(SHARE_FACES, "hf://me")
    assert anna.push_to_hub("me/anna", face_consent=True) == "hf://me/anna"
    assert hub.repositories["me/anna"].private


def test_photos_stay_here(concept: Concept) -> None:
    with pytest.raises(InputError, match="Photos cannot be uploaded") as raised:
        concept.save(fresh_address("memory"), include_photos=photos(1))
    check_said(raised.value)


def test_the_hub_gets_one_commit_with_the_card_as_readme(concept: Concept, hub: Hub) -> None:
    assert concept.push_to_hub("me/mug") == "hf://me/mug"
    repository = hub.repositories["me/mug"]
    assert repository.private
    assert len(repository.commits) == 2, "the first is the hub's own"
    assert b'vlm.concepts.add("hf://me/mug")' in hub.files("me/mug")["README.md"]
    concept.push_to_hub("me/mug/inside")
    assert "inside/concept.json" in hub.files("me/mug")
    with pytest.raises(InputError, match="not an address on the hub") as raised:
        concept.push_to_hub("mug")
    check_said(raised.value)


def test_nothing_becomes_public_unasked(concept: Concept, hub: Hub) -> None:
    concept.push_to_hub("me/mug", private=False)
    assert not hub.repositories["me/mug"].private
    with pytest.raises(NotWritableError, match="is public, so nothing was uploaded") as raised:
        concept.save("hf://me/mug")
    check_said(raised.value)
    assert len(hub.repositories["me/mug"].commits) == 2


def test_who_may_not_write_or_see_is_told(
    concept: Concept, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept.push_to_hub("me/private")
    concept.push_to_hub("me/public", private=False)
    use_hub(monkeypatch, hub.url, token=READER)
    with pytest.raises(NotWritableError, match="You may not write to") as written:
        concept.push_to_hub("me/public", private=False)
    with pytest.raises(MissingFileError, match="There is no concept at") as read:
        Concept.load("hf://me/private")
    for raised in (written, read):
        check_said(raised.value)
        assert "log" in str(raised.value.fix)
    assert Concept.load("hf://me/public").identifier == "sks"


def test_another_writers_commit_is_not_lost(
    concept: Concept, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept.push_to_hub("me/mug")

    def meanwhile(request: str) -> bool:
        if "/preupload/" in request:
            hub.repositories["me/mug"].commit({**hub.files("me/mug"), "notes.txt": b"of somebody else"})
        return False

    monkeypatch.setattr(hub, "refuse", meanwhile)
    with pytest.raises(RemoteError) as raised:
        Concept("sks", "cup", concept.head).push_to_hub("me/mug")
    check_said(raised.value)
    assert "notes.txt" in hub.files("me/mug")
    assert Concept.load("hf://me/mug").category == "mug"


def test_a_network_that_is_down_is_said(concept: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with closed_port() as nobody:
        use_hub(monkeypatch, nobody)
        _cannot(concept, "hf://me/mug")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in _cannot(concept, "hf://me/mug")


def test_a_bucket_that_is_not_there_and_an_s3_that_is_down(
    concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        files = use_s3(monkeypatch, endpoint)
        with pytest.raises(NotWritableError, match="the bucket") as written:
            concept.save("s3://nowhere/sks")
        with pytest.raises(MissingFileError) as read:
            Concept.load("s3://nowhere/sks")
        with pytest.raises(MissingFileError) as listed:
            ConceptLibrary.load("s3://nowhere")
        for raised in (written, read, listed):
            check_said(raised.value)
        assert not files.exists("nowhere"), "no bucket is made of a slip"
    with closed_port() as nobody:
        use_s3(monkeypatch, nobody)
        _cannot(concept, "s3://things/sks")


def _cannot(concept: Concept, url: str) -> str:
    with pytest.raises(RemoteError, match="cannot be reached") as written:
        concept.save(url)
    with pytest.raises(RemoteError, match="cannot be reached") as read:
        Concept.load(url)
    for raised in (written, read):
        check_said(raised.value)
    return str(read.value)


def test_what_another_writer_took_away_first_is_gone() -> None:
    """Otherwise the rest stayed, and the error said that the bucket, repository or branch was missing."""
    store = Store(fresh_address("memory"))
    store.write({f"{number}.txt": b"" for number in range(40)})
    store.delete(["gone.txt", *store.names()])
    assert store.names() == []


def test_a_package_that_is_not_here_is_named(concept: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    for work in (Concept.load, ConceptLibrary.load, concept.save):
        with pytest.raises(MissingPackageError, match="s3:// needs a package") as raised:
            work("s3://things/sks")
        check_said(raised.value)
        assert 'pip install "myvlm[share]"' in str(raised.value.fix)
        assert "s3fs" in str(raised.value.got)


def test_the_hubs_package_is_asked_for_by_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    place = parse_address("hf://me/mug")
    assert place is not None
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for work in (
        lambda: ensure_repository(place, "hf://me/mug", private=True),
        lambda: commit(place, "hf://me/mug", {}, [], message="Save"),
    ):
        with pytest.raises(MissingPackageError, match=r"^hf://me/mug") as raised:
            work()
        check_said(raised.value)


@pytest.mark.parametrize("url", ["nothing://here/sks", "htp://here/sks"])
def test_an_unknown_scheme_is_no_folder(url: str, concept: Concept) -> None:
    for work in (lambda: Concept.load(url), lambda: concept.save(url), lambda: ConceptLibrary.load(url)):
        with pytest.raises(InputError, match="not a supported address") as raised:
            work()
        check_said(raised.value)
        assert "s3" in str(raised.value.expected)


def test_what_can_only_be_read_is_not_written(concept: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Store("memory://x")._files

    def forbidden(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(files), "pipe_file", forbidden)
    with pytest.raises(NotWritableError, match="is read-only") as raised:
        concept.save(fresh_address("memory"))
    check_said(raised.value)


def test_a_path_is_a_path_whatever_it_is_called(tmp_path: Path, concept: Concept) -> None:
    folder = tmp_path / "my mug"
    concept.save(f"file://{folder.as_posix().replace(' ', '%20')}")
    assert Concept.load(folder).folder == folder
    for slip in (Path("s3://bucket/sks"), Path("hf://me/mug")):
        with pytest.raises(InputError, match="was converted to a path") as raised:
            concept.save(slip)
        check_said(raised.value)
    assert path_or_url("C:/concepts/sks", "folder") == Path("C:/concepts/sks")
    assert path_or_url("zip://sks::s3://bucket/all.zip", "folder") == "zip://sks::s3://bucket/all.zip"


def test_erasing_says_where_it_still_is(
    concept: Concept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    concept.save("memory://shelf/sks")
    folder = concept.save(tmp_path / "sks")
    ConceptLibrary([concept]).remove("sks", erase=True)
    assert not folder.exists()
    assert "memory://shelf/sks" in caplog.text
    assert Concept.load("memory://shelf/sks").identifier == "sks"


def test_the_address_of_the_hub_is_the_clients_own_setting(saved: Path) -> None:
    """As users have it: in a new process with that environment, nothing patched."""
    code = f"""
from myvlm import Concept, ConceptLibrary
Concept.load({str(saved)!r}).push_to_hub("me/things/sks-mug")
print(ConceptLibrary.load("hf://me/things"))
"""
    with local_hub() as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == "ConceptLibrary(sks)\n", done.stderr[-2000:]
        assert len(hub.repositories["me/things"].commits) == 2


def test_a_record_that_is_no_record_is_damaged(concept: Concept) -> None:
    url = fresh_address("memory")
    concept.save(url)
    Store(url).write({"concept.json": b"{}"})
    with pytest.raises(ConceptFileError) as raised:
        Concept.load(url)
    check_said(raised.value)
