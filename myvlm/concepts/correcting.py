"""Corrections: a head learns whether a given picture shows its concept, reports what changed, can undo it."""

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
from myvlm.heads.examples import Correctable, Examples, FeatureGate
from myvlm.images import LoadedImage

NEIGHBOURS = 20
"""How many other concepts' stored photos are scored to report the effect of a correction; those of the same
category come first."""


class GatedLibrary(Protocol):
    """The part of a library that corrections use: its gates with their concepts, and replacing a head."""

    def gated(self) -> list[tuple[list[Concept], Gate]]: ...
    def set_head(self, concept: Concept, head: Head, *, instead_of: Head) -> bool: ...


@dataclass(frozen=True)
class Change:
    """A number before and after a correction."""

    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.before:.2f} → {self.after:.2f}"


@dataclass(frozen=True, eq=False)
class Correction:
    """The effect on a head of one corrected picture, or of the photos of another concept.

    Attributes:
        identifier: of the concept.
        picture: the picture's name, or the concept whose photos were learned.
        present: whether the picture was said to show the concept; None if that was taken back.
        held: whether the head now agrees. It does not if the picture is said not to show the concept but is
            too similar to a training photo, since no training photo is given up, or if it is said to show
            the concept but is too unlike all training photos.
        score: the probability that the picture shows the concept, before and after.
        threshold: the raw score from which a picture counts as showing the concept, before and after.
        photos: for each training photo the probability that it shows the concept, before and after.
        others: identifier of another concept → in how many of its photos this concept is detected, before
            and after; only where that changed.
        corrections: the number of pictures by which the head is corrected now.
        seconds: the duration, including encoding of pictures that the encoder had not seen before.
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
        """Undo this correction; later corrections stay.

        Raises:
            UnknownConceptError: the concept is no longer in its library.
        """
        return self._undo()

    @property
    def kept(self) -> int:
        """The number of training photos that were recognized before and still are: all of them."""
        return sum(one.before >= 0.5 and one.after >= 0.5 for one in self.photos)

    @property
    def lost(self) -> int:
        """The number of training photos that were recognized before and no longer are: none."""
        return sum(one.before >= 0.5 > one.after for one in self.photos)

    @property
    def _reason_not_held(self) -> str:
        return "too different from its photos" if self.present else "too similar to a photo of it"

    def document(self) -> dict[str, Any]:
        """Return the correction as plain JSON values."""

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
        but = "" if self.held else f", not achieved: it is {self._reason_not_held}"
        count = sum(one.before < 0.5 > one.after for one in self.photos)
        missed = f" ({count} more not recognized, as before)" if count else ""
        others = "".join(
            f", detected in {change.after:.0f} photos of {other} instead of {change.before:.0f}"
            for other, change in self.others.items()
        )
        return (
            f"{self.identifier} {verdict} in {self.picture}: {self.score}{but}, "
            f"{self.kept} of {self.kept + self.lost} photos kept{missed}{others}"
        )

    def _repr_html_(self) -> str:
        named = self.identifier
        said = {
            True: f"{named} is there",
            False: f"{named} is not there",
            None: f"correction of {named} undone",
        }
        rows = [
            ("picture", f"{self.picture}: {said[self.present]}"),
            ("probability", f"{self.score}{'' if self.held else f', not achieved: {self._reason_not_held}'}"),
            ("threshold", f"{self.threshold.before:.4g} → {self.threshold.after:.4g}"),
            ("its photos", "; ".join(map(str, self.photos)) or "not known"),
            *((f"detected in photos of {other}", f"{change.before:.0f} → {change.after:.0f}")
              for other, change in self.others.items()),
            ("corrections so far", str(self.corrections)),
        ]  # fmt: skip
        return table(rows, first="th")


@dataclass(frozen=True, eq=False)
class Feedback:
    """A user's statement whether a picture shows a concept, with how a head learns it and scores the picture.

    Attributes:
        name, present, digest, box: see `CorrectedPicture`; present is None if a statement is taken back.
        learn: takes a head and returns a new one that has learned the statement.
        score: takes a gate and the concept's position in it, and returns the probability that the picture
            shows the concept.
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
    """Correct a concept's head: does the picture, or the part of it in the box, show the concept?

    With `present=None` an earlier correction by the same picture is taken back.

    Raises:
        InputError: the head cannot be corrected, or cannot learn from this picture; nothing has changed.
    """
    check_is(present, (bool, NoneType), what="answer", expected="True, False, or None to undo it")
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
                f"{concept.identifier!r} has no correction by {name} to undo.",
                got=f"corrections: {known}" if known else "no corrections",
                expected="a picture that it was corrected by",
                fix="pass exactly that picture, with the same pixels",
            )
        return head.refitted(without)

    def score(gate: Gate, place: int) -> float:
        return gate.score([photo]).at(0, place).probability

    return apply_feedback(library, concept, Feedback(name, present, digest, box, learn, score))


def apply_feedback(library: GatedLibrary, concept: Concept, feedback: Feedback) -> Correction:
    """Replace the concept's head by one that has learned the feedback, and report what that changes.

    Raises: as `correct`.
    """
    begun = perf_counter()
    neighbours = list(islice(with_examples(_others_of_gate(library, concept)), NEIGHBOURS))
    while True:
        head = correctable(concept)
        photos = [head.known_examples().photos, *(examples.photos for _, examples in neighbours)]
        before = _score_all(library, concept, feedback, photos)
        new = feedback.learn(head)
        if library.set_head(concept, new, instead_of=head):
            break  # otherwise another thread has corrected it meanwhile: start again from its head
    after = _score_all(library, concept, feedback, photos)
    others = zip((one.identifier for one, _ in neighbours), before.others, after.others, strict=False)
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
    """Return the concept's head. Raises InputError if heads of its kind cannot be corrected."""
    if not isinstance(concept.head, Correctable):
        raise InputError(
            f"{concept.identifier!r} cannot be corrected.",
            got=f"a head of kind {concept.kind!r}",
            expected="a head that keeps its training examples, such as an ObjectHead or a FaceHead",
            fix="learn it as an object or a face, or implement myvlm.heads.examples.Correctable in your head",
        )
    return concept.head


def with_examples(concepts: Iterable[Concept]) -> Iterator[tuple[Concept, Examples]]:
    """Yield the concepts whose head keeps its training examples, with these examples."""
    for one in concepts:
        if isinstance(one.head, Correctable):
            with suppress(InputError):  # files of older releases do not hold the examples
                yield one, one.head.known_examples()


@dataclass(frozen=True)
class _Scores:
    """A concept's scores at one moment: for the picture, for its own photos, and for photos of others.

    Attributes:
        score: the probability for the corrected picture.
        threshold: the head's raw threshold.
        photos: the probability for each of its own photos.
        others: for each other concept the number of its photos in which this one is detected.
    """

    score: float
    threshold: float
    photos: list[float]
    others: list[int]


def _score_all(
    library: GatedLibrary, concept: Concept, feedback: Feedback, photos: Sequence[FloatArray]
) -> _Scores:
    """Score the picture and all photos by the library's gate, in which a head may be stricter than alone.

    Args:
        photos: features of the concept's photos, then of those of each other concept, each N × R × D.
    """
    gate, place = _find_gate(library, concept)
    score, threshold = feedback.score(gate, place), concept.head.state()[0].threshold
    if not isinstance(gate, FeatureGate):
        return _Scores(score, threshold, [], [])
    likely = gate.likely([rows for own in photos for rows in own])[:, place]
    own, *others = np.split(likely, np.cumsum([len(own) for own in photos])[:-1])
    return _Scores(score, threshold, own.tolist(), [int((part >= 0.5).sum()) for part in others])


def _find_gate(library: GatedLibrary, concept: Concept) -> tuple[Gate, int]:
    """Return the gate that scores the concept, and its position there. Raises UnknownConceptError."""
    for members, gate in library.gated():
        for place, one in enumerate(members):
            if one is concept:
                return gate, place
    raise UnknownConceptError(
        f"The concept {concept.identifier!r} is no longer in this library.",
        got="a concept that was removed or replaced",
        expected="a concept of the library",
        fix="add it again",
    )


def _others_of_gate(library: GatedLibrary, concept: Concept) -> list[Concept]:
    """Return the other concepts of the same gate, those of the same category first."""
    groups = (members for members, _ in library.gated() if any(one is concept for one in members))
    others = [one for one in next(groups, []) if one is not concept]
    return sorted(others, key=lambda one: one.category != concept.category)


def _undo(library: GatedLibrary, concept: Concept, feedback: Feedback, before: Examples) -> Correction:
    """Restore the corrections by this picture that were in force before the feedback, if there were any."""
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
