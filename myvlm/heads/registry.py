"""Which kinds of head there are: the built-in ones, those registered in code, those of installed packages.

A package adds a kind without any change here, through the entry-point group `myvlm.heads`:
`[project.entry-points."myvlm.heads"]` with the line `gait = "my_package:GaitHead"`. A concept file names
only a kind, never a class.
"""

from __future__ import annotations

from typing import Any

from myvlm.errors import InputError, UnknownHeadError
from myvlm.heads.base import Head
from myvlm.plugins.registry import Registry

ENTRY_POINTS = "myvlm.heads"


def _check(head: Any) -> None:
    kind = getattr(head, "kind", None)
    if not isinstance(kind, str) or not kind.isidentifier():
        raise InputError(
            "The kind of a head is one plain word.",
            got=repr(kind),
            expected="letters, digits and _",
            fix=f"set another `kind` on {getattr(head, '__name__', head)}",
        )


heads = Registry[type[Head]](
    "head",
    add="install the package that brings it, or call myvlm.heads.register_head",
    built_in=("myvlm.heads.objects.head", "myvlm.heads.faces.head", "myvlm.heads.people.head"),
    group=ENTRY_POINTS,
    name_of=lambda head: getattr(head, "kind", None),
    check=_check,
    unknown=UnknownHeadError,
    replaceable=True,
)


def register_head(kind: str, head: type[Head], *, replace: bool = False) -> None:
    """Make a kind of head known, so that concepts of that kind can be loaded.

    Registering the same class twice is harmless.

    Args:
        kind: the word that concept files name it by, which is the class's `kind` too.
        head: the class.
        replace: whether it takes the place of another class of that kind.

    Raises:
        InputError: the kind is no plain word, or the class calls itself otherwise.
        NameTakenError: the kind is another class's, and `replace` is not set.
    """
    heads.register(kind, head, replace=replace)


def head_class(kind: str) -> type[Head]:
    """The class registered for a kind; it is imported on first use.

    Raises:
        UnknownHeadError: no such kind is known, or its package is broken; the message lists those that are.

    >>> head_class("object").__name__
    'ObjectHead'
    """
    return heads.get(kind)


def head_kinds() -> list[str]:
    """All known kinds, sorted.

    >>> "object" in head_kinds()
    True
    """
    return sorted(heads.names())
