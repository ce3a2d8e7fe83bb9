"""What goes wrong at an address, as errors of this library: who is refused, what is missing, what is down."""

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
"""What is installed for a scheme; fsspec's own words name it for the others."""


@contextmanager
def reaching(url: str, *, writing: bool = False) -> Iterator[None]:
    """Whatever a store raises within it becomes an error of ours, that names the address.

    Raises:
        MissingPackageError: the package that knows the scheme is not installed.
        InputError: nothing knows the scheme, or the address is not one of it.
        MissingFileError: nothing is there.
        NotWritableError: it may not be written; for want of a right, a bucket or a way to write.
        ConceptFileError: it may not be read.
        RemoteError: it cannot be reached, or answers otherwise than it should.
    """
    try:
        yield
    except MyVLMError:
        raise
    except Exception as error:  # every store has errors of its own, which may not be imported here
        raise _explained(url, error, writing=writing) from error


def _explained(url: str, error: Exception, *, writing: bool) -> MyVLMError:
    message = " ".join(_chain(error).split())[:400]
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


def _chain(error: BaseException) -> str:
    """An error with what it came of: some clients wrap what a store said in words of their own."""
    cause = f"; {_chain(error.__cause__)}" if error.__cause__ else ""
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
