"""A picture and an owner's library → who is seen in it: in batches, owners mixed."""

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
    """A picture that an owner's library is looked for in."""

    library: ConceptLibrary
    photo: LoadedImage


Looking = Batches[Look, Sequence[Detection]]


def looking(*, at_once: int) -> Looking:
    """What looks at so many pictures together; it finds those that are there."""
    return Batches(_look, key=lambda one: None, at_most=at_once)


def present(
    library: ConceptLibrary, found: Sequence[Detection], chosen: Sequence[str] | None
) -> list[Concept]:
    """The concepts that are there, of those that were chosen."""
    names = [one.identifier for one in found if one.present]
    return [library[name] for name in names if name in library and (chosen is None or name in chosen)]


def _look(asked: Sequence[Look]) -> Sequence[Sequence[Detection]]:
    """All in one batch: those who are looked at together are spoken of together."""
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
    """One pass of each encoder over the pictures of all libraries that use it."""
    together: dict[Hashable, tuple[EncodingGate, dict[int, LoadedImage]]] = {}
    for one in asked:
        for members, gate in one.library.gated():
            if isinstance(gate, EncodingGate):
                head = members[0].head
                _, photos = together.setdefault((type(head), head.gate_key), (gate, {}))
                photos[id(one.photo)] = one.photo
    for gate, photos in together.values():
        gate.encode(list(photos.values()))
