"""Translates errors of remote stores, such as denied access or a missing package, into `MyVLMError`s."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from myvlm.errors import (
    ConceptFileError,
    InputError,
    MissingFileError,
    MissingPackageError,
    MyVLMError,
    NotWritableError,
    RemoteError,
)

PACKAGES = {
    "s3": "myvlm[share]",
    "s3a": "myvlm[share]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
"""Scheme → the package to install; for other schemes fsspec's own message names it."""


@contextmanager
def translated_errors(url: str, *, writing: bool = False) -> Iterator[None]:
    """Translate any error that a store raises in the block into one of this library that names the address.

    Args:
        url: the address.
        writing: whether the block writes; decides which error is raised.

    Raises:
        MissingPackageError: the package for the scheme is not installed.
        InputError: the scheme is unknown, or the address is not valid for it.
        MissingFileError: nothing is there to read.
        NotWritableError: no permission to write, no such bucket or repository, or a read-only store.
        ConceptFileError: no permission to read.
        RemoteError: the store cannot be reached, or answers unexpectedly.
    """
    try:
        yield
    except MyVLMError:
        raise
    except Exception as error:  # each store has its own error classes, in packages that may not be installed
        raise _explained(url, error, writing=writing) from error


def _explained(url: str, error: Exception, *, writing: bool) -> MyVLMError:
    message = " ".join(_message_with_causes(error).split())[:400]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ImportError):
        return _no_package(url, message)
    if isinstance(error, ValueError) and status is None:
        return _no_address(url, message)
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in message:
        return _refused(url, message, writing=writing)
    if isinstance(error, FileNotFoundError) or status == 404:
        return _missing(url, message, writing=writing)
    if isinstance(error, NotImplementedError):
        return NotWritableError(
            f"{url} can only be read.",
            got=message,
            expected="an address that takes files, such as s3://bucket/name or hf://user/repository",
            fix="save to such an address, or to a folder",
        )
    return RemoteError(
        f"{url} cannot be reached, or answers otherwise than it should"
        + ("; what was there is as it was." if writing else "."),
        got=message,
        expected="an answer of the store",
        fix="check the network and the address, and HF_HUB_OFFLINE for the hub; then the same call again",
    )


def _message_with_causes(error: BaseException) -> str:
    """Return an error's message with those of its causes: some clients wrap the store's own message."""
    cause = f"; {_message_with_causes(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"


def _no_package(url: str, message: str) -> MissingPackageError:
    scheme = url.split(":")[0].lower()
    return MissingPackageError(
        f"{scheme}:// needs a package that is not here.",
        got=message,
        expected=f"the package that knows {scheme}://",
        fix=f'pip install "{PACKAGES[scheme]}"' if scheme in PACKAGES else "pip install what is named above",
    )


def _no_address(url: str, message: str) -> InputError:
    known = import_module("fsspec.registry").known_implementations
    return InputError(
        f"{url} is no address that is known here.",
        got=message,
        expected="a path, hf://user/repository, s3://bucket/name; or another of "
        + ", ".join(sorted(name for name in known if name.isalnum())),
        fix="check the spelling",
    )


def _refused(url: str, message: str, *, writing: bool) -> MyVLMError:
    kind = NotWritableError if writing else ConceptFileError
    return kind(
        f"{url} may not be {'written' if writing else 'read'} by you.",
        got=message,
        expected="an account with the right to do so",
        fix="log in: `hf auth login` for the hub, the store's own settings (such as AWS_PROFILE) elsewhere",
    )


def _missing(url: str, message: str, *, writing: bool) -> MyVLMError:
    if writing:
        return NotWritableError(
            f"{url} cannot be written: the bucket, repository or branch is not there.",
            got=message,
            expected="one that exists, and that you may see",
            fix="check its name, or make it first",
        )
    return MissingFileError(
        f"There is no concept at {url}.",
        got=message,
        expected="a concept, or a folder of concepts, that you may see",
        fix="check the spelling; where it is private, log in first",
    )
