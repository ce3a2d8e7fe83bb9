"""Finding and separating concepts that are mistaken for each other, using only stored features of photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import (
    Correction,
    Feedback,
    GatedLibrary,
    apply_feedback,
    correctable,
    with_examples,
)
from myvlm.heads import Gate
from myvlm.heads.detections import UNSURE, FloatArray
from myvlm.heads.examples import Correctable, CorrectedPicture, Examples, FeatureGate

POSSIBLY_DETECTED = 0.5 - UNSURE
"""The probability from which a concept counts as possibly detected: the lower end of the `unsure` range."""
PHOTOS_PER_BATCH = 512
"""The number of photos scored against all concepts in one batch: some 40 MB for ten thousand concepts."""


@dataclass(frozen=True)
class ConfusablePair:
    """Two concepts, one of which is possibly detected in photos of the other.

    Attributes:
        seen: identifier of the concept that is possibly detected.
        photos_of: identifier of the concept whose photos they are.
        probability: the highest probability among these photos.
        photos: the number of photos in which it is possibly detected.
    """

    seen: str
    photos_of: str
    probability: float
    photos: int


def confusable(library: GatedLibrary, at_least: float) -> list[ConfusablePair]:
    """Return all pairs with a probability of at least `at_least`, most probable first."""
    found: list[ConfusablePair] = []
    for members, gate in library.gated():
        if isinstance(gate, FeatureGate) and len(members) > 1:
            places = {id(one): place for place, one in enumerate(members)}
            batch: list[tuple[int, FloatArray]] = []
            for one, examples in with_examples(members):
                batch += [(places[id(one)], rows) for rows in examples.photos]
                if len(batch) >= PHOTOS_PER_BATCH:
                    found += _pairs(members, gate, batch, at_least)
                    batch = []
            found += _pairs(members, gate, batch, at_least) if batch else []
    return sorted(found, key=lambda pair: -pair.probability)


def _pairs(
    members: Sequence[Concept], gate: FeatureGate, photos: Sequence[tuple[int, FloatArray]], least: float
) -> list[ConfusablePair]:
    """Return the pairs among a batch of photos.

    Args:
        photos: for each photo the position among `members` of its own concept, and its features, R × D.
    """
    owners = np.array([owner for owner, _ in photos])
    likely = gate.likely([rows for _, rows in photos])
    likely[np.arange(len(photos)), owners] = 0.0
    rows, seen = np.nonzero(likely >= least)
    pairs: dict[tuple[int, int], list[float]] = {}
    for row, place in zip(rows.tolist(), seen.tolist(), strict=True):
        pairs.setdefault((place, int(owners[row])), []).append(float(likely[row, place]))
    return [
        ConfusablePair(members[place].identifier, members[owner].identifier, max(each), len(each))
        for (place, owner), each in pairs.items()
    ]


def separate(
    library: GatedLibrary, identifiers: Sequence[str], concepts: Mapping[str, Concept]
) -> list[Correction]:
    """Correct each concept of a pair by the other's photos, as pictures that do not show it.

    Args:
        identifiers: concepts to separate, each from every other; if one is given, it is separated from those
            it is confusable with; if none is given, all confusable pairs are separated.
        concepts: the library's concepts by identifier.
    """
    named = list(dict.fromkeys(identifiers))
    pairs = list(permutations(named, 2)) or [
        (pair.seen, pair.photos_of)
        for pair in confusable(library, POSSIBLY_DETECTED)
        if not named or named[0] in (pair.seen, pair.photos_of)
    ]
    learned = dict(with_examples(concepts[one] for one in sorted(set().union(*pairs))))
    return [
        apply_feedback(library, one, _negatives_from_photos(other, learned[other]))
        for one, other in ((concepts[seen], concepts[photos_of]) for seen, photos_of in pairs)
        if one in learned and other in learned and not correctable(one).exclusive and _share_gate(one, other)
    ]


def _negatives_from_photos(other: Concept, examples: Examples) -> Feedback:
    photos = examples.photos
    correction = CorrectedPicture.photos_of(other.identifier, other.spoken)
    rows = photos.reshape(-1, photos.shape[-1]).astype(np.float16)

    def learn(head: Correctable) -> Correctable:
        return head.refitted(head.known_examples().with_correction(correction, rows))

    def score(gate: Gate, place: int) -> float:
        assert isinstance(gate, FeatureGate)
        return float(gate.likely(list(photos))[:, place].max())

    return Feedback(correction.picture, correction.present, correction.digest, None, learn, score)


def _share_gate(one: Concept, other: Concept) -> bool:
    """Whether both heads share a gate, so that features of one can be scored by the other."""
    return type(one.head) is type(other.head) and one.head.gate_key == other.head.gate_key
