"""Detect owners' concepts in pictures, in batches that mix owners."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.heads.base import EncodingGate
from myvlm.heads.detections import Detection
from myvlm.images import LoadedImage
from myvlm.serving.http.speaking.queue import BatchQueue


@dataclass(frozen=True, eq=False)
class DetectionRequest:
    """A picture in which the concepts of an owner's library are to be detected."""

    library: ConceptLibrary
    photo: LoadedImage


DetectionQueue = BatchQueue[DetectionRequest, Sequence[Detection]]


def detection_queue(*, at_once: int) -> DetectionQueue:
    """A queue that detects concepts in up to `at_once` pictures together, and returns those present."""
    return BatchQueue(_detect_all, key=lambda one: None, at_most=at_once)


def present(
    library: ConceptLibrary, found: Sequence[Detection], chosen: Sequence[str] | None
) -> list[Concept]:
    """The detected concepts that are still in the library and among those chosen."""
    names = [one.identifier for one in found if one.present]
    return [library[name] for name in names if name in library and (chosen is None or name in chosen)]


def _detect_all(requests: Sequence[DetectionRequest]) -> Sequence[Sequence[Detection]]:
    """The detections of each picture; as a single batch, so that replies are generated in one batch too."""
    _encode(requests)
    by_library: dict[int, list[int]] = {}
    for place, one in enumerate(requests):
        by_library.setdefault(id(one.library), []).append(place)
    found: dict[int, Sequence[Detection]] = {}
    for own in by_library.values():
        seen = requests[own[0]].library.recognise([requests[place].photo for place in own])
        found.update((place, one.present) for place, one in zip(own, seen, strict=True))
    return [found[place] for place in range(len(requests))]


def _encode(requests: Sequence[DetectionRequest]) -> None:
    """Run each encoder once over the pictures of all libraries that use it."""
    by_encoder: dict[Hashable, tuple[EncodingGate, dict[int, LoadedImage]]] = {}
    for one in requests:
        for members, gate in one.library.gated():
            if isinstance(gate, EncodingGate):
                head = members[0].head
                _, photos = by_encoder.setdefault((type(head), head.gate_key), (gate, {}))
                photos[id(one.photo)] = one.photo
    for gate, photos in by_encoder.values():
        gate.encode(list(photos.values()))
