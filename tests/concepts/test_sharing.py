"""A library used by several models, concepts in several libraries, and threads that change them."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from myvlm.concepts import library as library_module
from myvlm.concepts.concept import Concept, libraries_holding, live_libraries
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptExistsError
from myvlm.heads.encoders import register_encoder
from myvlm.heads.objects import gate as gate_module
from myvlm.heads.objects.head import ObjectHead
from myvlm.images import LoadedImage
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scene, scenes

ENCODER = ColourEncoder("fake/sharing", bank=everyday_bank())
register_encoder(ENCODER.id, lambda device: ENCODER)


@pytest.fixture(scope="module")
def head() -> ObjectHead:
    return ObjectHead(ENCODER.id).fit(scenes(0, 4, "red"))


@pytest.fixture
def often() -> Iterator[None]:
    """Make threads switch as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-9)
    yield
    sys.setswitchinterval(before)


def _concept(name: str, head: ObjectHead) -> Concept:
    return Concept(name, "square", head, {"m": Embedding(np.ones((1, 2), np.float32), "image", "", "f")})


def test_all_who_listen_hear_of_new_concepts(head: ObjectHead) -> None:
    library, first, second = ConceptLibrary(), [], []
    library.on_add(first.extend)
    library.on_add(second.extend)
    sks = library.add(_concept("sks", head))
    again = _concept("sks", head)
    library.replace(again)
    assert first == second == [sks, again]


def test_two_threads_may_check_the_weights_of_one_gate_at_once(
    head: ObjectHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second thread found no heads left to check and reported changed encoder weights."""
    gate = ObjectHead.gate([head])
    check, held = gate_module.check_encoder_fingerprint, []

    def late(encoder: Any, kept: Any) -> None:
        gate._unchecked.clear()  # as the other thread has done by then
        held.append(len(kept))
        check(encoder, kept)

    monkeypatch.setattr(gate_module, "check_encoder_fingerprint", late)
    assert gate.score([LoadedImage(scene(1, colour="red")[0], "red")]).present.shape == (1, 1)
    assert held == [1]


def test_a_library_keeps_no_listener_in_memory(head: ObjectHead) -> None:
    library, heard = ConceptLibrary(), []
    model = ENCODER.__class__("fake/nobody")
    library.on_add(lambda of, concepts: heard.append((of.id, len(concepts))), of=model)
    library.add(_concept("sks", head))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    library.add(_concept("ohwx", head))
    assert heard == [("fake/nobody", 0), ("fake/nobody", 1)]


def test_who_listens_twice_is_called_back_once(head: ObjectHead) -> None:
    """As for a model that is given the same library for each request."""
    library, heard = ConceptLibrary(), []
    model = ENCODER.__class__("fake/nobody")

    def hear(of: object, concepts: Iterable[Concept]) -> None:
        heard.extend(concepts)

    for _ in range(3):
        library.on_add(hear, of=model)
    library.add(_concept("sks", head))
    assert len(heard) == 1


def test_a_new_word_is_the_concepts_in_every_library_that_holds_it(head: ObjectHead) -> None:
    sks, ohwx = _concept("sks", head), _concept("ohwx", head)
    one, other = ConceptLibrary([sks, ohwx]), ConceptLibrary([ohwx, sks])
    apart = ConceptLibrary([_concept("sks", head)])
    one.rename("sks", "zwx")
    for library, names in ((one, ["zwx", "ohwx"]), (other, ["ohwx", "zwx"]), (apart, ["sks"])):
        assert list(library) == names
        assert [found.identifier for found in library.recognise(scene(1, colour="red")[0])[0]] == names
        assert all(library[name].identifier == name for name in names)
    other.add(_concept("sks2", head))
    with pytest.raises(ConceptExistsError, match="'sks2' is already in use"):
        one.rename("zwx", "sks2")  # it is taken where else the concept is
    assert "zwx" in one
    assert "zwx" in other
    with pytest.raises(ConceptExistsError):
        other.add(_concept("sks", head))  # which still refuses it


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_library_is_one_of_its_own(head: ObjectHead, copied) -> None:  # type: ignore[no-untyped-def]
    heard: list[Concept] = []
    library = ConceptLibrary([_concept("sks", head)])
    library.on_add(heard.extend)
    library.false_names_per_1000 = 7
    twin = copied(library)
    assert twin.false_names_per_1000 == 7
    twin.rename("sks", "zwx")
    twin.add(_concept("ohwx", head))
    assert list(twin) == ["zwx", "ohwx"]
    assert list(library) == ["sks"]
    assert [one.identifier for one in heard] == ["sks"]


@pytest.mark.usefixtures("often")
def test_concepts_come_and_go_while_others_look(head: ObjectHead) -> None:
    library = ConceptLibrary([_concept("sks", head)])
    picture = scene(1, colour="red")[0]
    failed: list[Exception] = []
    done = threading.Event()

    def change(name: str) -> None:
        try:
            for _ in range(60):
                library.add(_concept(name, head))
                library.rename(name, name + "x")
                library.remove(name + "x")
        except Exception as error:
            failed.append(error)

    def look() -> None:
        try:
            while not done.is_set():
                [found] = library.recognise(picture)
                assert found[0].identifier == "sks"
                assert found[0].present
                assert library.present(found)[0] is library["sks"]
                assert [one.category for one in library.values()]
        except Exception as error:
            failed.append(error)

    changing = [threading.Thread(target=change, args=(name,)) for name in ("a1", "b1", "c1")]
    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in [*looking, *changing]:
        thread.start()
    for thread in changing:
        thread.join()
    done.set()
    for thread in looking:
        thread.join()
    assert failed == []
    assert list(library) == ["sks"]


def test_a_list_of_folders_is_of_one_moment(head: ObjectHead) -> None:
    """Another thread added a concept meanwhile, and the dictionary changed its size during iteration."""
    library = ConceptLibrary()

    class Meanwhile(Concept):
        def __getattribute__(self, name: str) -> Any:
            if name == "folder" and "zwx" not in library:
                library.add(_concept("zwx", head))
            return super().__getattribute__(name)

    library.add(Meanwhile("sks", "square", head))
    library.add(_concept("ohwx", head))
    assert library.paths == {"sks": None, "ohwx": None}
    assert list(library) == ["sks", "ohwx", "zwx"]


def test_a_word_that_is_taken_is_looked_up_while_nobody_frees_it(
    head: ObjectHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The concept that had the name was removed before the error could name it."""
    library, get, alone = ConceptLibrary([_concept("sks", head)]), ConceptLibrary.__getitem__, []

    def getting(self: ConceptLibrary, name: str) -> Concept:
        alone.append(library_module._library_lock._is_owned())
        return get(self, name)

    monkeypatch.setattr(ConceptLibrary, "__getitem__", getting)
    with pytest.raises(ConceptExistsError):
        library.check_free("sks")
    assert not library.is_introduced("sks")
    assert alone[0]


def test_other_libraries_are_made_while_it_is_asked_who_holds_a_concept(
    head: ObjectHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a server that learns for one owner while it corrects for another."""
    library, made = ConceptLibrary([_concept("sks", head)]), list[ConceptLibrary]()

    def reference() -> None:  # of a deleted library, called in between
        made.append(ConceptLibrary())

    monkeypatch.setitem(live_libraries.data, 0, reference)
    assert libraries_holding(library["sks"]) == [library]
    assert len(made) == 1
