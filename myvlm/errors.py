"""One tree of errors: every error of this library is a `MyVLMError` and also the builtin it resembles.

Each message says what went wrong, what was got, what was expected and what to do about it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any


class MyVLMError(Exception):
    """Base of every error raised on purpose by myvlm.

    Args:
        what: one sentence that names the thing that is wrong (a file, a caption, a concept).
        got: what was found.
        expected: what would have been right.
        fix: what the user can do.

    >>> print(InputError("Caption 2 lacks the name.", got="a mug", expected="sks in it", fix="write sks"))
    Caption 2 lacks the name.
      got:      a mug
      expected: sks in it
      fix:      write sks
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, fix: str | None = None
    ) -> None:
        lines = [what]
        for label, value in (("got", got), ("expected", expected), ("fix", fix)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__("\n".join(lines))

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.got, self.expected, self.fix))


def _rebuild(kind: type[MyVLMError], what: str, got: object, expected: object, fix: str | None) -> MyVLMError:
    return kind(what, got=got, expected=expected, fix=fix)


class InputError(MyVLMError, ValueError):
    """What the user passed cannot be used: captions, identifiers, options."""


class ImageError(InputError):
    """A picture is missing, unreadable, no picture, or of a shape that a model cannot take.

    Attributes:
        number: its place among the pictures of the call, where there are several.
        replies: what was made of the pictures before it in a call with many, some at a time: the first
            `len(replies)` are done.
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(what, got=got, expected=expected, fix=fix)
        self.number = number
        self.replies: Sequence[Any] = ()

    def __reduce__(self) -> tuple[object, ...]:
        rebuild, arguments, *_ = super().__reduce__()
        return rebuild, arguments, {"number": self.number, "replies": self.replies}


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named is not there."""


class ConceptExistsError(InputError):
    """The identifier, or the word that models were taught, is already taken in this library."""


class UnknownNameError(InputError, LookupError):
    """Nothing of that name is registered, or the package that brings it cannot be loaded."""


class MissingPackageError(InputError, ImportError):
    """What was asked for needs a package that is not installed."""


class NameTakenError(InputError):
    """Something else is registered under that name."""


class UnknownConceptError(MyVLMError, KeyError):
    """No concept of that identifier is in this library."""


class ConceptFileError(MyVLMError, ValueError):
    """A concept folder is cut, altered, newer than this release, or made for another model."""


class NotWritableError(MyVLMError, PermissionError):
    """The folder cannot be written; nothing was."""


class RemoteError(MyVLMError, ConnectionError):
    """A store elsewhere cannot be reached, or answers otherwise than it should."""


class NotFittedError(MyVLMError, ValueError, AttributeError):
    """A head was used before `fit`."""


class UnknownBackboneError(UnknownNameError):
    """No adapter is known for that model or name."""


class UnknownHeadError(UnknownNameError):
    """No head of that kind is registered."""


class BackboneError(MyVLMError, RuntimeError):
    """The frozen model did not behave as its adapter expects; nothing of it was changed."""


def import_extra(module: str, *, what: str, install: str) -> Any:
    """A module of a package that only some need.

    Args:
        module: as in `import`.
        what: needs it; the beginning of the message.
        install: what pip is told, such as `myvlm[app]`.

    Raises:
        MissingPackageError: it is not installed.

    >>> import_extra("no_such_package.pages", what="A page", install="myvlm[app]")
    Traceback (most recent call last):
    myvlm.errors.MissingPackageError: A page needs a package that is not here.
      got:      No module named 'no_such_package'
      expected: no_such_package
      fix:      pip install "myvlm[app]"
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs a package that is not here.",
            got=str(error),
            expected=module.split(".")[0],
            fix=f'pip install "{install}"',
        ) from error


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
