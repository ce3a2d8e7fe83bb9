"""A library that several models speak from: whom it tells, one call at a time, no word of two concepts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import ref

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.storage import erase_folder
from myvlm.errors import ConceptExistsError, InputError, UnknownConceptError, check_is
from myvlm.runtime.locks import OneAtATime
from myvlm.text import fold, folded

_log = logging.getLogger(__name__)

FALSE_NAMES_PER_1000 = 50.0
"""As of faces alone (`myvlm.heads.faces.threshold.STRANGERS`). On real photos ten heads of three photos, or
of one, stay as they are; at 20 those of one find 5 % less (benchmarks/RESULTS.md)."""

Given = ParamSpec("Given")
Made = TypeVar("Made")
Callback: TypeAlias = Callable[..., None]


class Listeners:
    """Whom a library tells of new concepts.

    >>> heard, listeners = [], Listeners()
    >>> listeners.add(heard.append, None)
    >>> listeners(("sks",))
    >>> heard
    [('sks',)]
    """

    def __init__(self) -> None:
        self._all: list[tuple[Callback, ref[Any] | None]] = []

    def add(self, callback: Callback, of: object) -> None:
        self._all.append((callback, None if of is None else ref(of)))

    def __call__(self, concepts: Iterable[object]) -> None:
        self._all = [one for one in self._all if one[1] is None or one[1]() is not None]
        for callback, of in self._all:
            self.call(callback, of and of(), concepts)

    @staticmethod
    def call(callback: Callback, of: object, concepts: Iterable[object]) -> None:
        callback(concepts) if of is None else callback(of, concepts)

    def __reduce__(self) -> tuple[type[Listeners], tuple[()]]:
        return Listeners, ()  # a copy of a library is nobody's yet


LIBRARIES = OneAtATime()
"""Held by whoever looks at libraries or changes them: one lock for all, since a concept may be in several."""


def one_at_a_time(method: Callable[Given, Made]) -> Callable[Given, Made]:
    """Of the methods of all libraries that look at them or change them one runs at a time."""

    @wraps(method)
    def in_turn(*given: Given.args, **options: Given.kwargs) -> Made:
        with LIBRARIES:
            return method(*given, **options)

    return in_turn


def words_of(concept: Concept) -> set[str]:
    """What it is called and what it was learned with, folded; no other concept may have one of them."""
    return folded(concept.identifier, concept.spoken)


def word_taken(word: str, by: Concept) -> ConceptExistsError:
    """The error where a word belongs to a concept that is there already."""
    learned = f", which was learned as {by.spoken!r}" if by.spoken != by.identifier else ""
    return ConceptExistsError(
        f"The word {word!r} is taken.",
        got=repr(by.identifier) + learned,
        expected="a word that differs from those of the others in more than upper and lower case",
        fix="choose another identifier, or learn one of the two again with another word",
    )


def check_new(concept: Concept, taken: Mapping[str, Concept]) -> None:
    """Raise ConceptExistsError if one of the concepts that are added with it has a word of it."""
    for word in (concept.identifier, concept.spoken):
        twin = taken.get(fold(word))
        if twin is not None:
            raise ConceptExistsError(
                f"Two of the concepts have the word {word!r}.",
                got=" and ".join(str(one.folder or one.identifier) for one in (twin, concept)),
                expected="words of its own for each concept: what it is called, and what it was learned with",
                fix="learn one of the two again with another word, or leave it out",
            )


def unknown(identifier: str, known: Iterable[str]) -> UnknownConceptError:
    """What is raised of a concept that is not among those."""
    names = ", ".join(known)
    return UnknownConceptError(
        f"No concept {identifier!r} is in this library.",
        got=repr(identifier),
        expected=f"one of {names}" if names else "the library is empty",
        fix="add it first, or check the spelling",
    )


def erase_from_disk(concept: Concept) -> None:
    """Delete a concept's folder; log a warning where there is none, and where it is still elsewhere."""
    if concept.url is not None:
        _log.warning("%r is still at %s: delete it there", concept.identifier, concept.url)
    if concept.folder is None or not erase_folder(concept.folder, concept.spoken):
        why = f"nothing is at {concept.folder}" if concept.folder else "no folder of it is known"
        _log.warning("nothing on disk was erased of %r: %s", concept.identifier, why)
    concept.folder, concept.thumbnails = None, []


def check_false_names(per_1000: float | None) -> float | None:
    """The same a picture. Raises InputError unless it is a number above 0, or None."""
    if per_1000 is None:
        return None
    check_is(per_1000, Real, what="rate of false names", expected="a number above 0, or None")
    if not 0 < per_1000 < float("inf"):
        raise InputError(
            "That is no rate of false names.",
            got=f"false_names_per_1000={per_1000}",
            expected="a number above 0, or None for each head's own threshold",
            fix=f"leave it at {FALSE_NAMES_PER_1000:g}",
        )
    return per_1000 / 1000


def warn_learned_elsewhere(backbone: Backbone, concepts: Iterable[Concept]) -> None:
    """Log of concepts that were just added that this model has yet to learn them, and how that is done."""
    weights = backbone.fingerprint()
    if lacking := [concept for concept in concepts if concept.learned_elsewhere(weights)]:
        more = f", and {len(lacking) - 1} more" if lacking[1:] else ""
        _log.warning(
            "The concept %r was learned for another model than %s%s. %sLearn it again with this model, %s.",
            *(lacking[0].identifier, backbone.name, more),
            "Until then the model is told of it in words. " if lacking[0].description else "",
            lacking[0].how_again(backbone.name),
        )
