"""What an argument must be before anything is done with it: said in our words, whatever was handed in."""

from __future__ import annotations

import os
from typing import Any

from myvlm.errors import InputError


def check_is(value: object, kinds: type | tuple[type, ...], *, what: str, expected: str) -> None:
    """Raise InputError unless the value is of one of the kinds.

    >>> check_is(3, int, what="number", expected="a number")
    >>> check_is("3", int, what="number", expected="a number")
    Traceback (most recent call last):
    myvlm.errors.InputError: That cannot be the number.
      got:      str
      expected: a number
      fix:      pass a number
    """
    if not isinstance(value, kinds):
        raise InputError(
            f"That cannot be the {what}.",
            got=type(value).__name__,
            expected=expected,
            fix=f"pass {expected}",
        )


def check_path(value: Any, what: str) -> str:
    """The path as text. Raises InputError unless a file or folder can have it.

    >>> check_path("concepts", "folder")
    'concepts'
    """
    check_is(value, (str, os.PathLike), what=what, expected="a path")
    path = os.fspath(value)
    try:
        if isinstance(path, str) and "\0" not in path and os.fsencode(path):
            return path
    except UnicodeEncodeError:
        pass
    raise InputError(
        f"That cannot be the {what}.", got=ascii(path)[:80], expected="a path", fix="check how it was read"
    )
