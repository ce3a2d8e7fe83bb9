"""A user says whether a picture shows a concept: its head learns that, says what changed, and can undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from time import perf_counter
from types import NoneType
from typing import Any, Protocol

import numpy as np

from myvlm.boxes import Box, check_box
from myvlm.concepts.concept import Concept
from myvlm.display.page import table
from myvlm.errors import InputError, UnknownConceptError, check_is
from myvlm.heads import Gate, Head
from myvlm.heads.detections import FloatArray
from myvlm.heads.examples import Correctable, Examples, RemembersPhotos
from myvlm.images import LoadedImage

NEIGHBOURS = 20
"""Other concepts whose kept photos are looked at for what a correction changes; of its category first."""


class GatedLibrary(Protocol):
    """A library as corrections use it: the gates that score its concepts, and how a head is replaced."""

    def gated(self) -> list[tuple[list[Concept], Gate]]: ...
    def set_head(self, concept: Concept, head: Head, *, instead_of: Head) -> bool: ...


@dataclass(frozen=True)
class Change:
    """A number before and after."""

    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.before:.2f} → {self.after:.2f}"


@dataclass(frozen=True, eq=False)
class Correction:
    """What a head has learned from one picture, or from the photos of another concept.

    Attributes:
        identifier: of the concept.
        picture: the picture's name, or whose photos they were.
        present: what was said: whether it shows the concept; None where that was taken back.
        held: whether the head says so now. It does not where the picture is too like a photo that it was
            taught, no photo being given up, or where it is said to show it and is too unlike all of them.
        score: the probability that the picture shows the concept, before and after.
        threshold: how far the score of a picture must go: the raw score from which on it counts as present.
        photos: of each photo that it was learned from the probability, before and after.
        others: concepts in whose photos it is seen more or less often now → in how many, before and after.
        corrections: how many pictures the head is corrected by now.
        seconds: how long it took, with what the encoder had not seen yet.
    """

    identifier: str
    picture: str
    present: bool | None
    held: bool
    score: Change
    threshold: Change
    photos: tuple[Change, ...]
    others: Mapping[str, Change]
    corrections: int
    seconds: float
    _undo: Callable[[], Correction] = field(repr=False)

    def undo(self) -> Correction:
        """Take back what was said here; corrections that were made since stay.

        Raises:
            UnknownConceptError: the concept is not in its library any more.
        """
        return self._undo()

    @property
    def kept(self) -> int:
        """Of the photos that were found before, how many still are: all of them."""
        return sum(one.before >= 0.5 and one.after >= 0.5 for one in self.photos)

    @property
    def lost(self) -> int:
        """Photos that were found before and are not now: none."""
        return sum(one.before >= 0.5 > one.after for one in self.photos)

    @property
    def _why_not(self) -> str:
        return "too unlike its photos" if self.present else "too like a photo of it"

    def document(self) -> dict[str, Any]:
        """All of it as plain JSON values."""

        def change(one: Change) -> dict[str, float]:
            return {"before": one.before, "after": one.after}

        return {
            "identifier": self.identifier,
            "picture": self.picture,
            "present": self.present,
            "held": self.held,
            "score": change(self.score),
            "threshold": change(self.threshold),
            "photos": [change(one) for one in self.photos],
            "others": {name: change(one) for name, one in self.others.items()},
            "corrections": self.corrections,
            "seconds": round(self.seconds, 3),
        }

    def __repr__(self) -> str:
        return f"Correction({self})"

    def __str__(self) -> str:
        verdict = {True: "is", False: "is not", None: "may again be"}[self.present]
        but = "" if self.held else f", not held: it is {self._why_not}"
        others = "".join(
            f", seen in {change.after:.0f} photos of {other} after {change.before:.0f}"
            for other, change in self.others.items()
        )
        return (
            f"{self.identifier} {verdict} in {self.picture}: {self.score}{but}, "
            f"{self.kept} of {self.kept + self.lost} photos kept{others}"
        )

    def _repr_html_(self) -> str:
        verdict = {True: "is there", False: "is not there", None: "was taken back"}[self.present]
        rows = [
            ("picture", f"{self.picture}: {self.identifier} {verdict}"),
            ("probability", f"{self.score}{'' if self.held else f', not held: {self._why_not}'}"),
            ("threshold", f"{self.threshold.before:.4g} → {self.threshold.after:.4g}"),
            ("its photos", "; ".join(map(str, self.photos)) or "not known"),
            *((f"seen in photos of {other}", f"{change.before:.0f} → {change.after:.0f}")
              for other, change in self.others.items()),
            ("corrections so far", str(self.corrections)),
        ]  # fmt: skip
        return table(rows, first="th")


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a user says of a picture, how a head learns it and how it is then scored.

    Attributes:
        name, present, digest, box: see `CorrectedPicture`; present is None for what is taken back.
        learn: makes the head that has learned it of the one that has not.
        score: the probability, by a gate and the concept's place in it, that the picture shows the concept.
    """

    name: str
    present: bool | None
    digest: str
    box: Box | None
    learn: Callable[[Correctable], Correctable]
    score: Callable[[Gate, int], float]


def correct(
    library: GatedLibrary, concept: Concept, photo: LoadedImage, present: bool | None, box: Box | None
) -> Correction:
    """Tell a concept's head whether a picture, or the part of it in the box, shows it; None takes that back.

    Raises:
        InputError: the head cannot be corrected, or cannot tell what is meant; nothing has changed.
    """
    check_is(present, (bool, NoneType), what="answer", expected="True, False, or None to take it back")
    box = None if box is None else check_box(box)
    name, digest = photo.file_name, photo.digest.hex()

    def learn(head: Correctable) -> Correctable:
        if present is not None:
            return head.corrected(photo, present, box)
        examples = head.known_examples()
        without = examples.without(digest, box)
        if len(without.corrections) == len(examples.corrections):
            known = "; ".join(one.summary for one in examples.corrections)
            raise InputError(
                f"Nothing was said of {name} and {concept.identifier!r} that could be taken back.",
                got=f"corrections: {known}" if known else "no correction yet",
                expected="a picture that it was corrected by",
                fix="pass that picture, pixel for pixel",
            )
        return head.refitted(without)

    def score(gate: Gate, place: int) -> float:
        return gate.score([photo]).at(0, place).probability

    return apply_feedback(library, concept, Feedback(name, present, digest, box, learn, score))


def apply_feedback(library: GatedLibrary, concept: Concept, feedback: Feedback) -> Correction:
    """Put the head that learned it in the place of the concept's, and say what that changes.

    Raises: as `correct`.
    """
    begun = perf_counter()
    beside = list(islice(with_examples(_beside(library, concept)), NEIGHBOURS))
    while True:
        head = correctable(concept)
        photos = [head.known_examples().photos, *(examples.photos for _, examples in beside)]
        before = _look(library, concept, feedback, photos)
        new = feedback.learn(head)
        if library.set_head(concept, new, instead_of=head):
            break  # or another thread has corrected it meanwhile
    after = _look(library, concept, feedback, photos)
    others = zip((one.identifier for one, _ in beside), before.others, after.others, strict=False)
    return Correction(
        concept.identifier,
        feedback.name,
        feedback.present,
        held=feedback.present is None or (after.score >= 0.5) == feedback.present,
        score=Change(before.score, after.score),
        threshold=Change(before.threshold, after.threshold),
        photos=tuple(map(Change, before.photos, after.photos)),
        others={name: Change(seen, now) for name, seen, now in others if seen != now},
        corrections=len(new.known_examples().corrections),
        seconds=perf_counter() - begun,
        _undo=partial(_undo, library, concept, feedback, head.known_examples()),
    )


def correctable(concept: Concept) -> Correctable:
    """The concept's head. Raises InputError where its kind cannot be corrected."""
    if not isinstance(concept.head, Correctable):
        raise InputError(
            f"{concept.identifier!r} cannot be corrected.",
            got=f"a head of kind {concept.kind!r}",
            expected="a head that keeps what it was learned from, such as an ObjectHead or a FaceHead",
            fix="learn it as an object or as a face, or keep `myvlm.heads.examples.Correctable` in your head",
        )
    return concept.head


def with_examples(concepts: Iterable[Concept]) -> Iterator[tuple[Concept, Examples]]:
    """Those that know what they were learned from, with that."""
    for one in concepts:
        if isinstance(one.head, Correctable):
            with suppress(InputError):  # of an older file, which does not hold it
                yield one, one.head.known_examples()


@dataclass(frozen=True)
class _Seen:
    """What a concept's head says at one time: of the picture, of its own photos, in how many of others'."""

    score: float
    threshold: float
    photos: list[float]
    others: list[int]


def _look(library: GatedLibrary, concept: Concept, feedback: Feedback, photos: Sequence[FloatArray]) -> _Seen:
    """As the library sees it, where a head may be stricter than alone.

    Args:
        photos: those of the concept, then of others, each N × R × D.
    """
    gate, place = _gate_of(library, concept)
    score, threshold = feedback.score(gate, place), concept.head.state()[0].threshold
    if not isinstance(gate, RemembersPhotos):
        return _Seen(score, threshold, [], [])
    likely = gate.likely([rows for own in photos for rows in own])[:, place]
    own, *others = np.split(likely, np.cumsum([len(own) for own in photos])[:-1])
    return _Seen(score, threshold, own.tolist(), [int((part >= 0.5).sum()) for part in others])


def _gate_of(library: GatedLibrary, concept: Concept) -> tuple[Gate, int]:
    """What scores the concept, and its place there. Raises UnknownConceptError if it is not here."""
    for members, gate in library.gated():
        for place, one in enumerate(members):
            if one is concept:
                return gate, place
    raise UnknownConceptError(
        f"The concept {concept.identifier!r} is not in this library any more.",
        got="one that was removed or replaced",
        expected="a concept of the library",
        fix="add it again",
    )


def _beside(library: GatedLibrary, concept: Concept) -> list[Concept]:
    """The others that are scored with it, those of its category first."""
    groups = (members for members, _ in library.gated() if any(one is concept for one in members))
    others = [one for one in next(groups, []) if one is not concept]
    return sorted(others, key=lambda one: one.category != concept.category)


def _undo(library: GatedLibrary, concept: Concept, feedback: Feedback, before: Examples) -> Correction:
    """Say of the picture again what was said before, or nothing."""
    others = before.without(feedback.digest, feedback.box).corrections
    earlier = before.only(
        number
        for number, one in enumerate(before.corrections)
        if one.digest == feedback.digest and one not in others
    )

    def learn(head: Correctable) -> Correctable:
        examples = head.known_examples().without(feedback.digest, feedback.box)
        for correction, rows in zip(earlier.corrections, earlier.rows, strict=True):
            examples = examples.with_correction(correction, rows)
        return head.refitted(examples)

    return apply_feedback(library, concept, replace(feedback, present=None, learn=learn))
