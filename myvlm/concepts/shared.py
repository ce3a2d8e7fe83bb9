"""A library that several models speak from: whom it tells, and one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import ref

from myvlm.runtime.locks import Locks

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
