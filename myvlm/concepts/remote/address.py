"""Telling local paths from remote addresses, and checking whether face descriptors may be sent to one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from myvlm.errors import InputError, check_is, check_path
from myvlm.heads import Head

SHARE_FACES = "MYVLM_SHARE_FACES"
"""The environment variable with the addresses under which face descriptors may be stored."""

# A scheme has at least two characters: `C:` is a drive.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)")
_ADDRESS_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def path_or_url(given: str | os.PathLike[str], what: str) -> Path | str:
    """Return a local place as a `Path`, and a remote address as text without a trailing slash.

    Args:
        given: a path or an address; `file://` is a local path.
        what: its name in error messages.

    Raises:
        InputError: it is not a valid path, or is a `Path` made of an address (which loses a slash).

    >>> path_or_url("s3://bucket/sks-mug/", "folder"), path_or_url("file:///home/me/sks", "folder").as_posix()
    ('s3://bucket/sks-mug', '/home/me/sks')
    """
    text = check_path(given, what)
    found = _ADDRESS.match(text)
    if found and found[1].lower() in ("file", "local") and found[0].endswith("://"):
        return Path(unquote(urlsplit(text).path))
    if found:
        return text.rstrip("/")
    first = Path(text).parts[:1]
    if first and _ADDRESS_AS_PATH.fullmatch(first[0]) and not Path(first[0]).exists():
        raise InputError(
            f"The address {text} was converted to a path, which is not supported.",
            got=type(given).__name__,
            expected=f"a string, such as {re.sub(':/+', '://', text, count=1)!r}",
            fix="pass the address as a string",
        )
    return Path(text)


def local_path(given: str | os.PathLike[str], what: str) -> Path:
    """Return a local path. Raises InputError for a remote address, for operations that need local files."""
    place = path_or_url(given, what)
    if isinstance(place, str):
        raise InputError(
            f"The {what} must be on this machine.",
            got=place,
            expected="a path",
            fix=f"download it first: myvlm concepts add {place}",
        )
    return place


def check_may_share_faces(people: Sequence[str], url: str, *, face_consent: bool) -> None:
    """Raise InputError unless face descriptors, if there are any, may be sent to that address.

    Two statements are required: `face_consent` in the call, that the person agrees; and the environment
    variable `MYVLM_SHARE_FACES`, which lists the permitted addresses, separated by spaces.

    Args:
        people: identifiers of the concepts that hold face descriptors; see `is_biometric`.
        url: the address.
        face_consent: whether the person agrees.
    """
    check_is(face_consent, bool, what="face_consent", expected="True or False")
    allowed = os.environ.get(SHARE_FACES, "").split()
    lacking = [
        *(["face_consent=True in the call (--face-consent)"] if not face_consent else []),
        *([f"{url} under one of the addresses in {SHARE_FACES}"] if not _under(url, allowed) else []),
    ]
    if people and lacking:
        raise InputError(
            f"The face of {people[0]!r} may not be uploaded.",
            got=f"missing: {' and '.join(lacking)}; {SHARE_FACES} is {' '.join(allowed) or 'not set'}",
            expected="both the person's consent, in the call, and the address, in the environment variable",
            fix=f"ask the person; then set {SHARE_FACES}={_base(url)} and pass face_consent=True",
        )


def is_biometric(head: Head | type[Head]) -> bool:
    """Whether the head stores biometric data of a person, such as face descriptors.

    Heads of kind `face` do; a head of another kind declares it by `biometric = True`.
    """
    biometric: Any = getattr(head, "biometric", head.kind == "face")
    return bool(biometric)


def _under(url: str, allowed: Iterable[str]) -> bool:
    """Whether an address equals one of the allowed ones, or lies under one.

    >>> _under("s3://family/anna", ["s3://family"]), _under("s3://family-album/anna", ["s3://family"])
    (True, False)
    """
    return any(f"{url}/".startswith(f"{one.rstrip('/')}/") for one in allowed if _ADDRESS.match(one))


def _base(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('/')[0]}"
