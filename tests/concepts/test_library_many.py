"""Libraries of many concepts: loading a folder at once or lazily, all or nothing, and joint scoring."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.record import json_with_digest
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptExistsError, ConceptFileError, MissingFileError, NotFittedError
from myvlm.heads import Detection, FaceHead, ObjectHead
from myvlm.heads.encoders import register_encoder
from myvlm.heads.faces.registry import register_face_encoder
from myvlm.heads.features import forget_pictures
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scene, scenes
from tests.support.fake_faces import FakeFaces, photo, photos

ENCODER = ColourEncoder("fake/many", bank=everyday_bank())
register_encoder("fake/many", lambda device: ENCODER)
register_face_encoder("fake/many-faces", lambda device: FakeFaces("fake/many-faces"))


@pytest.fixture(scope="module")
def head() -> ObjectHead:
    return ObjectHead("fake/many").fit(scenes(0, 4))


def concept(name: str, head: ObjectHead | FaceHead) -> Concept:
    return Concept(name, "square", head, {"m": Embedding(np.ones((1, 2), np.float32), "image", "", "f")})


@pytest.fixture
def collection(head: ObjectHead, tmp_path: Path) -> Path:
    for number in (10, 2, 1):
        concept(f"c{number}", head).save(tmp_path / f"c{number}")
    concept("gone", head).save(tmp_path / ".removed" / "gone")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_a_folder_of_concepts_loads_in_natural_order(collection: Path, head: ObjectHead) -> None:
    library = ConceptLibrary.load(collection)
    assert list(library) == ["c1", "c2", "c10"]
    assert library.paths["c2"] == (collection / "c2").resolve()
    one_by_one = ConceptLibrary([collection / name for name in ("c1", "c2", "c10")])
    picture = scene(1000)[0]
    assert library.recognise(picture) == one_by_one.recognise(picture)
    library.remove("c2", erase=True)
    assert not (collection / "c2").exists()
    with pytest.raises(MissingFileError, match="no folder"):
        ConceptLibrary.load(collection / "nowhere")
    with pytest.raises(MissingFileError, match="a file"):
        ConceptLibrary.load(collection / "notes.txt")
    assert len(ConceptLibrary.load(collection / "notes")) == 0


def test_embeddings_are_read_when_they_are_used(collection: Path) -> None:
    file = collection / "c2" / "embeddings" / "m.safetensors"
    library = ConceptLibrary.load(collection)
    embedding = library["c2"].embeddings["m"]
    assert "directions" not in vars(embedding)
    assert (embedding.norm, embedding.fingerprint) == ("image", "f")
    assert embedding.directions.tolist() == [[1, 1]]
    assert embedding.directions is library["c2"].embedding_for("m", "f", 2).directions
    file.write_bytes(file.read_bytes()[:-1])
    late = ConceptLibrary.load(collection)
    assert late["c1"].embedding_for("m", "f", 2).directions.tolist() == [[1, 1]]
    with pytest.raises(ConceptFileError, match=r"m\.safetensors was truncated or modified"):
        late["c2"].embedding_for("m", "f", 2)
    with pytest.raises(ConceptFileError, match="another model"):
        late["c1"].embedding_for("m", "g", 2)
    with pytest.raises(ConceptFileError, match="truncated or modified"):
        Concept.load(collection / "c2")


def test_a_lazily_loaded_concept_is_saved_whole(collection: Path, tmp_path: Path) -> None:
    library = ConceptLibrary.load(collection)
    library["c1"].save(tmp_path / "copy")
    assert Concept.load(tmp_path / "copy").embeddings["m"].directions.tolist() == [[1, 1]]


def test_many_are_added_all_or_none(collection: Path, head: ObjectHead) -> None:
    library = ConceptLibrary([concept("c2", head)])
    before = dict(library)
    wrong: list[tuple[list[object], type[Exception], str]] = [
        ([concept("new", head), collection / "c2"], ConceptExistsError, "'c2' is already in use"),
        (
            [concept("new", head), concept("NEW", head)],
            ConceptExistsError,
            "Two concepts use(.|\n)*new and NEW",
        ),
        ([concept("new", head), concept("late", ObjectHead("fake/many"))], NotFittedError, "is not fitted"),
        ([concept("new", head), collection / "notes"], ConceptFileError, "not a concept folder"),
    ]
    for many, error, message in wrong:
        with pytest.raises(error, match=message):
            library.add_all(many)  # type: ignore[arg-type]
        assert dict(library) == before
        assert len(library.recognise(scene(0)[0])[0]) == 1
    added = library.add_all([concept("a", head), collection / "c1"])
    assert [one.identifier for one in added] == ["a", "c1"]
    assert list(library) == ["c2", "a", "c1"]


def test_a_spoilt_folder_among_many_is_named(collection: Path) -> None:
    (collection / "c10" / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(ConceptFileError, match=r"c10(.|\n)*head\.safetensors was truncated"):
        ConceptLibrary.load(collection)


def test_people_and_objects_side_by_side_keep_their_order(head: ObjectHead) -> None:
    anna = FaceHead("fake/many-faces").fit(photos(11))
    bob = FaceHead("fake/many-faces").fit(photos(22))
    library = ConceptLibrary([concept("anna", anna), concept("mug", head), concept("bob", bob)])
    picture = Image.new("RGB", (260, 160))
    picture.paste(photo(22, draw=9, width=1), (0, 0))
    picture.paste(scene(1003)[0], (100, 0))
    [found] = library.recognise(picture)
    assert [(one.identifier, one.present) for one in found] == [("anna", False), ("mug", True), ("bob", True)]
    assert [one.identifier for one in found.present] == ["mug", "bob"]
    assert found[-1].box == (0, 0, 20, 20)
    library.rename("anna", "ann")
    library.remove("mug")
    assert [one.identifier for one in library.recognise(picture)[0]] == ["ann", "bob"]
    assert [one.identifier for one in library.recognise(picture)[0].present] == ["bob"]


def test_detections_are_a_sequence_made_on_demand(head: ObjectHead) -> None:
    library = ConceptLibrary(concept(f"c{number}", head) for number in range(5))
    [found] = library.recognise(scene(1000)[0])
    assert len(found) == 5
    assert isinstance(found[2], Detection)
    assert found[-1].identifier == "c4"
    assert [one.identifier for one in found[1:3]] == ["c1", "c2"]
    assert found == list(found)
    assert found != []
    assert "c3" in repr(found)
    with pytest.raises(IndexError):
        found[5]
    assert ConceptLibrary().recognise(scenes(0, 2)) == [[], []]


def test_thousands_load_and_are_scored_as_one(head: ObjectHead, tmp_path: Path) -> None:
    first = concept("c0", head).save(tmp_path / "c0")
    record = json.loads((first / "concept.json").read_bytes())
    for number in range(1, 1000):
        folder = tmp_path / f"c{number}"
        folder.mkdir()
        name = f"c{number}"
        (folder / "concept.json").write_bytes(
            json_with_digest({**record, "identifier": name, "spoken": name})
        )
        (folder / "head.safetensors").write_bytes((first / "head.safetensors").read_bytes())
    started = time.process_time()
    library = ConceptLibrary.load(tmp_path)
    assert time.process_time() - started < 60, "a hang, not a benchmark"
    forget_pictures()
    ENCODER.calls.clear()
    [found] = library.recognise(scene(4321)[0])
    drawn, first, *later = ENCODER.calls
    assert (drawn, first) == (1, 10), "the picture that the encoder is known by, and the windows"
    assert len(later) <= 2, "small windows, and refined ones, once for all"
    assert len(found) == 1000
    assert len(found.present) in (0, 1000)
    assert [one.identifier for one in found[:3]] == ["c0", "c1", "c2"]


def test_adding_and_removing_one_of_many_makes_no_row_again(
    head: ObjectHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    lime = ObjectHead("fake/many").fit(scenes(50, 3, "lime"))
    stacked: list[int] = []
    stack = np.stack
    monkeypatch.setattr(
        np, "stack", lambda rows, *args, **kw: stacked.append(len(rows)) or stack(rows, *args, **kw)
    )
    library = ConceptLibrary(concept(f"c{number}", head) for number in range(200))
    picture = scenes(77, 1, "lime")[0]
    assert not library.recognise(picture)[0].present
    assert 200 in stacked
    stacked.clear()
    for number in range(200, 210):
        library.add(concept(f"c{number}", lime))
    assert max(stacked) == 2, "a new one is tried with one of those that are there, no more"
    library.remove("c0")
    library.replace(concept("c1", lime))
    library.rename("c2", "two")
    [found] = library.recognise(picture)
    assert max(stacked) < 100, "nothing as large as the library is put together"
    assert [one.identifier for one in found.present] == ["c1", *(f"c{number}" for number in range(200, 210))]
    assert found == ConceptLibrary(library.values()).recognise(picture)[0]
    for name in list(library):
        library.remove(name)
    library.add(concept("last", lime))
    assert [one.identifier for one in library.recognise(picture)[0].present] == ["last"]
