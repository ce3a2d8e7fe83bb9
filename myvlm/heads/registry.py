"""Which kinds of head there are: the built-in ones, those registered in code, those of installed packages.

A package adds a kind without any change here, through the entry-point group `myvlm.heads`:
`[project.entry-points."myvlm.heads"]` with the line `gait = "my_package:GaitHead"`. A concept file names
only a kind, never a class.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from myvlm.errors import InputError, UnknownHeadError
from myvlm.heads.base import Head

ENTRY_POINTS = "myvlm.heads"

_BUILT_IN = {
    "object": "myvlm.heads.objects.head:ObjectHead",
    "face": "myvlm.heads.faces.head:FaceHead",
}
_registered: dict[str, type[Head]] = {}


def register_head(kind: str, head: type[Head]) -> None:
    """Make a kind of head known, so that concepts of that kind can be loaded.

    Registering the same class twice is harmless.

    Raises:
        InputError: the kind is taken by another class, is no plain word, or the class calls itself otherwise.
    """
    if not kind.isidentifier() or getattr(head, "kind", None) != kind:
        raise InputError(
            "A head is registered under the kind that it names itself.",
            got=f"{kind!r} for a class whose kind is {getattr(head, 'kind', None)!r}",
            expected="the same plain word twice",
            fix=f"set `kind = {kind!r}` on {head.__name__}",
        )
    taken = _registered.get(kind)
    outside = kind in _BUILT_IN and f"{head.__module__}:{head.__qualname__}" != _BUILT_IN[kind]
    if outside or taken not in (None, head):
        raise InputError(
            f"The kind {kind!r} is taken.",
            got=f"{head.__module__}.{head.__qualname__}",
            expected=f"a kind other than {', '.join(head_kinds())}",
            fix="choose another kind",
        )
    _registered[kind] = head


def head_class(kind: str) -> type[Head]:
    """The class registered for a kind; it is imported on first use.

    Raises:
        UnknownHeadError: no such kind is known; the message lists those that are.

    >>> head_class("object").__name__
    'ObjectHead'
    """
    if kind not in _registered:
        _registered[kind] = _find(kind)
    return _registered[kind]


def head_kinds() -> list[str]:
    """All known kinds, sorted.

    >>> "object" in head_kinds()
    True
    """
    outside = {point.name for point in entry_points(group=ENTRY_POINTS)}
    return sorted({*_BUILT_IN, *_registered, *outside})


def _find(kind: str) -> type[Head]:
    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind].split(":")
        built_in: type[Head] = getattr(import_module(module), name)
        return built_in
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        outside: type[Head] = point.load()
        if getattr(outside, "kind", None) == kind:
            return outside
    raise UnknownHeadError(
        f"No head of the kind {kind!r} is known.",
        got=kind,
        expected=f"one of {', '.join(head_kinds())}",
        fix="install the package that brings it, or call myvlm.heads.register_head",
    )
