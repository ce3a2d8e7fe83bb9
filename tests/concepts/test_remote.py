"""Concepts at an address: memory, a local S3 and a local stand-in of the hub pass the same tests."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import utils

from myvlm import Concept, ConceptLibrary, MyVLM
from myvlm.concepts.disk.record import to_json
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.remote import hub
from myvlm.concepts.remote.store import Store
from myvlm.concepts.remote.transfer import publish
from myvlm.errors import (
    ConceptFileError,
    InputError,
    MissingFileError,
    MyVLMError,
    NotWritableError,
    RemoteError,
)
from myvlm.learning.relearn import as_in_library
from tests.support.errors import check_said
from tests.support.stores import BUCKET, fresh_address, local_hub, s3_server, use_hub, use_s3
from tests.support.taught import by_hand

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # from the hub's own client


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Any]]:
    """The servers started so far, by kind."""
    with local_hub() as hub:
        yield {"hub": hub}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["memory", "s3", "hub"])
def url(request: pytest.FixtureRequest, servers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """An unused address."""
    if request.param == "s3":
        files = use_s3(monkeypatch, request.getfixturevalue("s3"))
        if not files.exists(BUCKET):
            files.mkdir(BUCKET)
    if request.param == "hub":
        use_hub(monkeypatch, servers["hub"].url)
    return fresh_address(request.param)


def other(concept: Concept, number: int = 2) -> Concept:
    """The same concept with another embedding."""
    rows = np.full((2, 5), number, np.float32)
    again = Embedding(rows, "image", "Describe.", "f00d", {"steps": 3}, {"loss": 0.25})
    return dataclasses.replace(concept, embeddings={"org/model": again}, folder=None, url=None)


def same(one: Concept, two: Concept) -> bool:
    """Whether two concepts have identical content, to the byte."""
    packed, again = one.packed(url="x"), two.packed(url="x")
    return packed.record == again.record and packed.files == again.files


def test_a_concept_comes_back_as_it_was(url: str, concept: Concept) -> None:
    assert concept.save(url) == url
    assert concept.url == url
    assert concept.folder is None
    again = Concept.load(f"{url}/")
    assert same(concept, again)
    assert (again.folder, again.url) == (None, url)


def test_a_later_one_takes_its_place_and_leaves_nothing_of_the_old(url: str, concept: Concept) -> None:
    concept.save(url)
    before = Store(url).names()
    new = other(concept)
    new.save(url)
    assert same(Concept.load(url), new)
    assert len(Store(url).names()) == len(before) >= 4
    assert not same(Concept.load(url), concept)


@pytest.mark.parametrize("files", [1, 2, 3, 4])
def test_an_upload_that_breaks_off_leaves_the_old_one(
    url: str, concept: Concept, files: int, servers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at each file in turn, the last being `concept.json`; on the hub at uploads and at the
    commit."""
    concept.save(url)
    before = Store(url).names()
    with monkeypatch.context() as broken:
        if url.startswith("hf:"):
            at = ["/preupload/", "/lfs/objects/batch", "PUT /lfs/", "/commit/"][files - 1]
            broken.setattr(servers["hub"], "refuse", lambda request: at in request and "GET" not in request)
            broken.setattr("time.sleep", lambda seconds: None)  # the client waits between retries
        else:
            _break_at(broken, files)
        with pytest.raises(MyVLMError) as raised:
            other(concept).save(url)
    check_said(raised.value)
    assert url in str(raised.value)
    assert same(Concept.load(url), concept)
    assert Store(url).names() == before
    other(concept).save(url)
    assert same(Concept.load(url), other(concept))


def _break_at(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    written = [0]
    made = Store.__init__

    def breaking(store: Store, url: str) -> None:
        made(store, url)
        put = store._files.pipe_file

        def pipe_file(path: str, data: bytes) -> None:
            written[0] += 1
            if written[0] == file:
                raise ConnectionResetError("the line went dead")
            put(path, data)

        store._files = _With(store._files, pipe_file=pipe_file)

    monkeypatch.setattr(Store, "__init__", breaking)
    monkeypatch.setattr("myvlm.concepts.remote.store.PARALLEL_TRANSFERS", 1)


class _With:
    """A file system with some methods replaced."""

    def __init__(self, files: Any, **methods: Any) -> None:
        self._files = files
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def test_the_first_upload_that_broke_off_is_no_concept_and_no_hindrance(
    concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_address("memory")
    with monkeypatch.context() as broken:
        _break_at(broken, 4)
        with pytest.raises(MyVLMError):
            concept.save(url)
    assert Store(url).names() == ["README.md"]
    with pytest.raises(MissingFileError) as raised:
        Concept.load(url)
    check_said(raised.value)
    concept.save(url)
    assert same(Concept.load(url), concept)


@pytest.mark.parametrize("altered", ["head", "embeddings/", "concept.json"])
def test_a_byte_that_was_changed_there_is_found(url: str, concept: Concept, altered: str) -> None:
    concept.save(url)
    [name] = [one for one in Store(url).names() if one.startswith(altered)]
    data = bytearray(Store(url).read([name])[name])
    data[data.index(b"0.5") if altered == "concept.json" else -1] ^= 1
    _overwrite(url, name, bytes(data))
    with pytest.raises(ConceptFileError) as raised:
        Concept.load(url)
    check_said(raised.value)
    assert url in raised.value.what, "not the copy that it was fetched into"


def _overwrite(url: str, name: str, data: bytes) -> None:
    if url.startswith("hf:"):
        from huggingface_hub import HfApi

        HfApi().upload_file(
            path_or_fileobj=data, path_in_repo=name, repo_id=url.removeprefix("hf://"), commit_message="alter"
        )
    else:
        Store(url).write({name: data})


def test_another_concept_and_other_things_are_left_alone(url: str, concept: Concept) -> None:
    concept.save(url)
    with pytest.raises(NotWritableError, match="another concept") as raised:
        dataclasses.replace(by_hand(), identifier="ohwx", spoken="ohwx").save(url)
    check_said(raised.value)
    _notes(f"{url}-notes")
    with pytest.raises(NotWritableError, match="is not a concept") as raised:
        concept.save(f"{url}-notes")
    check_said(raised.value)
    concept.save(f"{url}-notes/sks")
    assert same(Concept.load(f"{url}-notes/sks"), concept)


def _notes(url: str) -> None:
    if url.startswith("hf:"):
        from huggingface_hub import HfApi

        HfApi().create_repo(url.removeprefix("hf://"), private=True)
        _overwrite(url, "notes.txt", b"mine")
    else:
        Store(url).write({"notes.txt": b"mine"})


def test_a_library_is_saved_and_loaded_whole(url: str, concept: Concept) -> None:
    mug, dog = concept, dataclasses.replace(by_hand(), identifier="ohwx", spoken="ohwx", category="dog")
    library = ConceptLibrary([mug, dog])
    library.save(url)
    again = ConceptLibrary.load(url)
    assert sorted(again) == ["ohwx", "sks"]
    assert same(again["sks"], mug)
    assert again["ohwx"].url == f"{url}/ohwx-dog"
    library.rename("ohwx", "Bo")
    library.save(url)
    assert sorted(ConceptLibrary.load(url)) == ["Bo", "sks"], "the renamed one was saved beside itself"
    with pytest.raises(InputError, match="is a single concept"):
        ConceptLibrary.load(f"{url}/sks-mug")
    assert same(ConceptLibrary([f"{url}/sks-mug"])["sks"], mug)


def test_what_was_copied_there_by_other_means_is_read(url: str, concept: Concept, tmp_path: Any) -> None:
    folder = concept.save(tmp_path / "sks")
    plain = {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }
    if url.startswith("hf:"):
        pytest.skip("the hub's names are plain in any case")
    Store(url).write(plain)
    assert same(Concept.load(url), concept)
    concept.save(url)
    assert "head.safetensors" not in Store(url).names()
    assert same(Concept.load(url), concept)


def test_one_that_is_replaced_while_it_is_read_is_read_again(
    concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, new = fresh_address("memory"), other(concept)
    concept.save(url)
    read, once = Store.read, [True]

    def reading(store: Store, names: Any, *, skip_denied: bool = False) -> dict[str, bytes]:
        found = read(store, names, skip_denied=skip_denied)
        if once and "concept.json" in found:
            once.clear()
            publish(url, {"": new.packed(url=url)})
        return found

    monkeypatch.setattr(Store, "read", reading)
    assert same(Concept.load(url), new)


@pytest.mark.parametrize("name", ["", "mug"])
def test_what_another_writer_took_away_meanwhile_is_put_back(
    name: str, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, write = fresh_address("memory"), Store.write
    place, taken = f"{url}/{name}".rstrip("/"), list[str]()

    def writing(store: Store, files: Any) -> None:
        write(store, files)
        if any(one.endswith("README.md") for one in files):  # before `concept.json` lists our tensors
            taken.extend(one for one in store.names() if one.endswith(".safetensors"))
            store.delete(taken)

    monkeypatch.setattr(Store, "write", writing)
    publish(url, {name: concept.packed(url=place)})
    assert len(taken) == 2
    assert same(Concept.load(place), concept)


def test_what_another_writer_put_there_meanwhile_is_put_back(
    concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer's files existed but were in no record yet when this writer looked for leftovers."""
    url, elsewhere, read = fresh_address("memory"), fresh_address("memory"), Store.read
    second, third = other(concept, 2), other(concept, 3)
    third.save(elsewhere)
    begun = [one for one in Store(elsewhere).names() if one.endswith(".safetensors")]
    Store(url).write(Store(elsewhere).read(begun))
    its_record, ended = to_json(second.packed(url=url).record), list[Concept]()

    def reading(store: Store, names: Any, *, skip_denied: bool = False) -> dict[str, bytes]:
        found = read(store, names, skip_denied=skip_denied)
        if not ended and found.get("concept.json") == its_record:
            ended.append(third)
            third.save(url)
        return found

    monkeypatch.setattr(Store, "read", reading)
    second.save(url)
    assert ended
    assert same(Concept.load(url), third)


def test_what_cannot_be_taken_away_is_told_and_what_was_put_there_stays(
    concept: Concept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = fresh_address("memory")
    concept.save(url)

    def down(store: Store, names: Any) -> None:
        raise RemoteError("The line went dead.", got="nothing", expected="an answer", fix="wait")

    monkeypatch.setattr(Store, "delete", down)
    other(concept).save(url)
    assert caplog.messages == [f"The replaced files at {url} could not be deleted: The line went dead."]
    assert same(Concept.load(url), other(concept))


def test_a_concept_of_many_that_is_in_the_way_is_named_by_its_own_address(concept: Concept) -> None:
    url = fresh_address("memory")
    concept.save(f"{url}/mug")
    twin = dataclasses.replace(by_hand(), identifier="ohwx", spoken="ohwx")
    with pytest.raises(NotWritableError, match=f"^{url}/mug contains another concept") as raised:
        publish(url, {"dog": concept.packed(), "mug": twin.packed()})
    check_said(raised.value)
    assert Store(url).folders() == ["mug"]


class OverSsh(LocalFileSystem):
    """A local disk that behaves like a remote one: absolute paths, and a folder must exist before its
    files."""

    protocol = "sftp"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("sftp://")


def test_where_files_lie_in_folders_these_are_made_first(
    concept: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(import_module("fsspec.registry")._registry, "sftp", OverSsh)
    url = f"sftp://{tmp_path}/shelf/sks"
    concept.save(url)
    assert (tmp_path / "shelf" / "sks" / "concept.json").is_file()
    assert same(Concept.load(url), concept)
    other(concept).save(url)
    assert same(Concept.load(url), other(concept))
    assert len(list((tmp_path / "shelf" / "sks" / "embeddings").iterdir())) == 1


def test_the_card_says_where_it_loads_from(url: str, concept: Concept) -> None:
    concept.save(url)
    card = Store(url).read(["README.md"])["README.md"].decode()
    assert f'vlm.concepts.add("{url}")' in card
    head = card.split("---\n")[1]
    assert json.loads(head.split("base_model: ")[1]) == ["org/model"]
    assert "library_name: myvlm" in head


def test_the_readmes_lines_on_sharing_do_what_they_say(
    fresh: MyVLM, concept: Concept, s3: str, servers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"## Share.*?```python\n(.*?)```", readme, flags=re.DOTALL)
    use_hub(monkeypatch, servers["hub"].url)
    use_s3(monkeypatch, s3).mkdir("family")
    names = {"mug": concept, "vlm": fresh}
    exec(compile(code, "README.md", "exec"), names)
    assert list(names["vlm"].concepts) == ["sks"]
    assert names["vlm"].concepts["sks"].url == "s3://family/concepts/sks-mug"
    assert names["vlm"].backbone is fresh.backbone
    assert "me/sks-mug" in servers["hub"].repositories


def test_one_that_is_loaded_is_known_by_its_address(concept: Concept) -> None:
    url = fresh_address("memory")
    concept.save(url)
    library = ConceptLibrary([url])
    library.rename("sks", "zwx")
    assert as_in_library(url, library).identifier == "zwx", "as of a folder: what the library calls it"


def test_the_hub_shows_no_bars_for_kilobytes_and_is_left_as_it_was() -> None:
    before = utils.are_progress_bars_disabled()
    with hub._without_progress_bars(utils):
        assert utils.are_progress_bars_disabled()
        with hub._without_progress_bars(utils):
            pass
        assert utils.are_progress_bars_disabled(), "of two at once the first out leaves the other's"
    assert utils.are_progress_bars_disabled() == before
