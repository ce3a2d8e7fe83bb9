"""A library that several models speak from: whom it tells, one call at a time, no word of two concepts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import ref

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.errors import ConceptExistsError
from myvlm.runtime.locks import Locks
from myvlm.text import fold, folded

_log = logging.getLogger(__name__)

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


_LOCKS = Locks()


def one_at_a_time(method: Callable[Given, Made]) -> Callable[Given, Made]:
    """Of the methods of all libraries that look at them or change them one runs at a time."""

    @wraps(method)
    def in_turn(*given: Given.args, **options: Given.kwargs) -> Made:
        with _LOCKS.of(Listeners):  # one lock for all: a concept may be in several
            return method(*given, **options)

    return in_turn


def words_of(concept: Concept) -> set[str]:
    """What it is called and what it was learned with, folded; no other concept may have one of them."""
    return folded(concept.identifier, concept.spoken)


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
