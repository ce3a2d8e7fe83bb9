"""Detect owners' concepts in pictures, in batches that mix owners."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.heads.base import EncodingGate
from myvlm.heads.detections import Detection
from myvlm.images import LoadedImage
from myvlm.serving.http.speaking.queue import Batches


@dataclass(frozen=True, eq=False)
class Look:
    """A picture in which the concepts of an owner's library are to be detected."""

    library: ConceptLibrary
    photo: LoadedImage


Looking = Batches[Look, Sequence[Detection]]


def looking(*, at_once: int) -> Looking:
    """A queue that detects concepts in up to `at_once` pictures together, and returns those present."""
    return Batches(_look, key=lambda one: None, at_most=at_once)


def present(
    library: ConceptLibrary, found: Sequence[Detection], chosen: Sequence[str] | None
) -> list[Concept]:
    """The detected concepts that are still in the library and among those chosen."""
    names = [one.identifier for one in found if one.present]
    return [library[name] for name in names if name in library and (chosen is None or name in chosen)]


def _look(asked: Sequence[Look]) -> Sequence[Sequence[Detection]]:
    """The detections of each picture; as a single batch, so that replies are generated in one batch too."""
    _encode(asked)
    places: dict[int, list[int]] = {}
    for place, one in enumerate(asked):
        places.setdefault(id(one.library), []).append(place)
    found: dict[int, Sequence[Detection]] = {}
    for own in places.values():
        seen = asked[own[0]].library.recognise([asked[place].photo for place in own])
        found.update((place, one.present) for place, one in zip(own, seen, strict=True))
    return [found[place] for place in range(len(asked))]


def _encode(asked: Sequence[Look]) -> None:
    """Run each encoder once over the pictures of all libraries that use it."""
    together: dict[Hashable, tuple[EncodingGate, dict[int, LoadedImage]]] = {}
    for one in asked:
        for members, gate in one.library.gated():
            if isinstance(gate, EncodingGate):
                head = members[0].head
                _, photos = together.setdefault((type(head), head.gate_key), (gate, {}))
                photos[id(one.photo)] = one.photo
    for gate, photos in together.values():
        gate.encode(list(photos.values()))
