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
            f"{url} is read-only.",
            got=message,
            expected="a writable address, such as s3://bucket/name or hf://user/repository",
            fix="save to such an address, or to a folder",
        )
    return RemoteError(
        f"{url} cannot be reached, or sent an unexpected response."
        + (" Nothing there was changed." if writing else ""),
        got=message,
        expected="a valid response of the store",
        fix="check the network and the address, and HF_HUB_OFFLINE for the hub; then try again",
    )


def _message_with_causes(error: BaseException) -> str:
    """Return an error's message with those of its causes: some clients wrap the store's own message."""
    cause = f"; {_message_with_causes(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"


def _no_package(url: str, message: str) -> MissingPackageError:
    scheme = url.split(":")[0].lower()
    return MissingPackageError(
        f"{scheme}:// needs a package that is not installed.",
        got=message,
        expected=f"the package that supports {scheme}://",
        fix=f'pip install "{PACKAGES[scheme]}"' if scheme in PACKAGES else "install the package named above",
    )


def _no_address(url: str, message: str) -> InputError:
    known = import_module("fsspec.registry").known_implementations
    return InputError(
        f"{url} is not a supported address.",
        got=message,
        expected="a path, hf://user/repository, s3://bucket/name; or another of "
        + ", ".join(sorted(name for name in known if name.isalnum())),
        fix="check the spelling",
    )


def _refused(url: str, message: str, *, writing: bool) -> MyVLMError:
    kind = NotWritableError if writing else ConceptFileError
    return kind(
        f"You may not {'write to' if writing else 'read'} {url}.",
        got=message,
        expected="an account with permission",
        fix="log in: `hf auth login` for the hub, otherwise the store's own settings (such as AWS_PROFILE)",
    )


def _missing(url: str, message: str, *, writing: bool) -> MyVLMError:
    if writing:
        return NotWritableError(
            f"{url} cannot be written: the bucket, repository or branch does not exist.",
            got=message,
            expected="one that exists and that you may access",
            fix="check its name, or create it first",
        )
    return MissingFileError(
        f"There is no concept at {url}.",
        got=message,
        expected="a concept, or a folder of concepts, that you may access",
        fix="check the spelling; if it is private, log in first",
    )
