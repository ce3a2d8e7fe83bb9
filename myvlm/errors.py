"""Errors of this library: each is a `MyVLMError` and also a subclass of the builtin error it resembles.

Each message says what went wrong, what was found, what was expected and how to fix it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any


class MyVLMError(Exception):
    """Base class of all errors that myvlm raises deliberately.

    Args:
        what: one sentence that says what is wrong (with a file, a caption, a concept).
        got: the value or state that was found.
        expected: the value or state that would be valid.
        fix: how the user can fix it.

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

    @property
    def short(self) -> str:
        """The message without what was expected and how to fix it."""
        return f"{self.what} {self.got or ''}".strip()

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.got, self.expected, self.fix))


def _rebuild(kind: type[MyVLMError], what: str, got: object, expected: object, fix: str | None) -> MyVLMError:
    return kind(what, got=got, expected=expected, fix=fix)


class InputError(MyVLMError, ValueError):
    """An argument is invalid: a caption, an identifier, an option."""


class ImageError(InputError):
    """A picture is missing, unreadable, not a picture, or of a shape that a model cannot process.

    Attributes:
        number: index of the picture in the call, if there are several.
        replies: replies that were finished before the error, in a call with many pictures: those to the
            first `len(replies)` pictures.
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
    """A file or folder does not exist."""


class ConceptExistsError(InputError):
    """The identifier, or the word a concept was learned with, is already in use in this library."""


class UnknownNameError(InputError, LookupError):
    """Nothing is registered under that name, or the package that provides it cannot be loaded."""


class MissingPackageError(InputError, ImportError):
    """A feature needs a package that is not installed."""


class NameTakenError(InputError):
    """Another object is already registered under that name."""


class UnknownConceptError(MyVLMError, KeyError):
    """The library has no concept with that identifier."""


class ConceptFileError(MyVLMError, ValueError):
    """A concept folder is truncated, modified, newer than this release, or made for another model."""


class NotWritableError(MyVLMError, PermissionError):
    """The folder is not writable; nothing was written."""


class RemoteError(MyVLMError, ConnectionError):
    """A remote store cannot be reached, or sends an unexpected response."""


class NotFittedError(MyVLMError, ValueError, AttributeError):
    """A head was used before `fit`."""


class UnknownBackboneError(UnknownNameError):
    """There is no adapter for that model or name."""


class UnknownHeadError(UnknownNameError):
    """No head of that kind is registered."""


class BackboneError(MyVLMError, RuntimeError):
    """The frozen model does not behave as its adapter expects. The model was not changed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for the message of another; empty if it has none.

    >>> first_line(ValueError("no such file\\nsearched: 3 folders")), first_line(RuntimeError())
    ('no such file', '')
    """
    return str(error).strip().partition("\n")[0]


def import_extra(module: str, *, what: str, install: str) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: dotted name of the module.
        what: the feature that needs it, as the beginning of the message.
        install: the requirement for pip, such as `myvlm[app]`.

    Raises:
        MissingPackageError: the package is not installed.

    >>> import_extra("no_such_package.pages", what="A page", install="myvlm[app]")
    Traceback (most recent call last):
    myvlm.errors.MissingPackageError: A page needs a package that is not installed.
      got:      No module named 'no_such_package'
      expected: no_such_package
      fix:      pip install "myvlm[app]"
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs a package that is not installed.",
            got=str(error),
            expected=module.split(".")[0],
            fix=f'pip install "{install}"',
        ) from error


def check_is(value: object, kinds: type | tuple[type, ...], *, what: str, expected: str) -> None:
    """Raise InputError unless the value is an instance of one of these types.

    Args:
        what: what the value is, such as `number`, for the message.
        expected: what it should be, for the message.

    >>> check_is(3, int, what="number", expected="a number")
    >>> check_is("3", int, what="number", expected="a number")
    Traceback (most recent call last):
    myvlm.errors.InputError: Invalid number.
      got:      str
      expected: a number
      fix:      pass a number
    """
    if not isinstance(value, kinds):
        raise InputError(
            f"Invalid {what}.",
            got=type(value).__name__,
            expected=expected,
            fix=f"pass {expected}",
        )


MAX_ASPECT = 1000
"""Limit of a picture's longer side over its shorter one: models resize it by the shorter, which would make
gigabytes of a file of a hundred bytes."""


def unusable_shape(size: tuple[int, int], name: str) -> ImageError:
    """The error for a picture that is empty or too narrow.

    Args:
        size: width and height, in pixels.
        name: the picture's name in the message.
    """
    return ImageError(
        f"{name} is empty or too narrow.",
        got=f"{size[0]} by {size[1]} pixels",
        expected=f"at least 1 by 1, and no side more than {MAX_ASPECT} times as long as the other",
        fix="leave it out, or crop it",
    )


def check_path(value: Any, what: str) -> str:
    """The path as a string. Raises InputError unless it can be the path of a file or folder.

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
        f"Invalid {what}.", got=ascii(path)[:80], expected="a path", fix="check how the path was read"
    )
