"""What `concept.json` says, and the digest by which a changed word or number of it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

from myvlm.errors import InputError
from myvlm.heads.base import HeadMeta
from myvlm.heads.examples import ExamplesMeta
from myvlm.text import composed

FORMAT_VERSION = 3

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class HeadRecord(BaseModel):
    """The head: its numbers, and the digest of its tensor file."""

    model_config = _STRICT

    meta: HeadMeta
    sha256: str


class ExamplesRecord(BaseModel):
    """What the head was learned from and corrected by: its numbers, and the digest of its tensor file."""

    model_config = _STRICT

    meta: ExamplesMeta
    sha256: str


class EmbeddingRecord(BaseModel):
    """One backbone's embedding: rows × dim, how it was learned, and the digest of its tensor file."""

    model_config = _STRICT

    rows: int
    dim: int
    norm: str
    prompt: str
    fingerprint: str
    settings: dict[str, JsonValue]
    figures: dict[str, JsonValue]
    sha256: str


class ConceptRecord(BaseModel):
    """All of `concept.json`. A change of these fields is a new `format_version`.

    1 has no `sha256`, 1 and 2 have no `examples`.
    """

    model_config = _STRICT

    format_version: Literal[1, 2, 3] = 3
    identifier: Annotated[str, AfterValidator(composed)]  # older releases kept it as it was written
    spoken: str
    category: str
    kind: str
    head: HeadRecord
    examples: ExamplesRecord | None = None
    embeddings: dict[str, EmbeddingRecord]
    recipe: dict[str, JsonValue]
    sha256: str | None = None


def plain_values(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy as JSON will give it back. Raises InputError for what JSON cannot hold."""
    try:
        text = json.dumps(dict(values), allow_nan=False, ensure_ascii=False)
        plain: dict[str, Any] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The {what} of a concept must be plain values.",
            got=str(error),
            expected="text, numbers (not NaN), true or false, None, and lists and dicts of these",
            fix="convert arrays with .tolist() and paths with str()",
        ) from error
    return plain


def sealed(content: Mapping[str, Any]) -> bytes:
    """`concept.json` of these fields; `sha256`, the last of them, is the digest of the text without it."""
    text = json.dumps({**content, "sha256": ""}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, after = text[: -len(_BEHIND)], text[-len(_BEHIND) :]
    return f"{before}{_digest(before, after)}{after}".encode()


def text_of(record: ConceptRecord) -> bytes:
    """`concept.json` of a record, in the format of this release."""
    return sealed(record.model_copy(update={"format_version": FORMAT_VERSION}).model_dump(mode="json"))


def as_sealed(record: ConceptRecord, data: bytes) -> bool:
    """Whether it says what it said when it was written, as far as its version can tell."""
    if record.format_version == 1 or not record.sha256:
        return record.format_version == 1 and record.sha256 is None
    # Git may have given it the line ends of Windows.
    before, _, after = data.decode().replace("\r\n", "\n").rpartition(record.sha256)
    return _digest(before, after) == record.sha256


_BEHIND = '"\n}\n'
"""What a record's text ends with behind its digest."""


def _digest(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
