"""What several hold: a library that several models speak from, a concept that is in several libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar
from weakref import WeakValueDictionary, ref

from myvlm.runtime.locks import Locks

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept
    from myvlm.concepts.library import ConceptLibrary

Given = ParamSpec("Given")
Made = TypeVar("Made")
Callback: TypeAlias = Callable[..., None]

libraries: WeakValueDictionary[int, ConceptLibrary] = WeakValueDictionary()
"""All libraries that are in use, by `id`: a concept that one of them renames may be in others."""


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

    def __call__(self, concepts: Iterable[Concept]) -> None:
        self._all = [one for one in self._all if one[1] is None or one[1]() is not None]
        for callback, of in self._all:
            self.call(callback, of and of(), concepts)

    @staticmethod
    def call(callback: Callback, of: object, concepts: Iterable[Concept]) -> None:
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


def holders(identifier: str, concept: Concept) -> list[ConceptLibrary]:
    """The libraries in which the concept itself, not a copy of it, is called that."""
    return [one for one in list(libraries.values()) if one.get(identifier) is concept]
