"""The schema of `concept.json`, and the digest that detects any change of its text."""

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
    """The head: its metadata, and the SHA-256 of its tensor file."""

    model_config = _STRICT

    meta: HeadMeta
    sha256: str


class ExamplesRecord(BaseModel):
    """The head's training examples and corrections: their metadata, and the SHA-256 of their tensor file."""

    model_config = _STRICT

    meta: ExamplesMeta
    sha256: str


class EmbeddingRecord(BaseModel):
    """One backbone's embedding: rows × dim, how it was learned, and the SHA-256 of its tensor file."""

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
    """All fields of `concept.json`. Any change of the fields needs a new `format_version`.

    Version 1 has no `sha256`; versions 1 and 2 have no `examples`.
    """

    model_config = _STRICT

    format_version: Literal[1, 2, 3] = 3
    identifier: Annotated[str, AfterValidator(composed)]  # older releases did not normalize it
    spoken: str
    category: str
    kind: str
    head: HeadRecord
    examples: ExamplesRecord | None = None
    embeddings: dict[str, EmbeddingRecord]
    recipe: dict[str, JsonValue]
    sha256: str | None = None


def plain_values(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a copy after a round trip through JSON. Raises InputError for values that JSON cannot hold."""
    try:
        text = json.dumps(dict(values), allow_nan=False, ensure_ascii=False)
        plain: dict[str, Any] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The {what} of a concept must be plain values.",
            got=str(error),
            expected="strings, numbers (not NaN), booleans, None, and lists and dicts of these",
            fix="convert arrays with .tolist() and paths with str()",
        ) from error
    return plain


def json_with_digest(content: Mapping[str, Any]) -> bytes:
    """Return `concept.json` of these fields; the last one, `sha256`, is the digest of the text without it."""
    text = json.dumps({**content, "sha256": ""}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, after = text[: -len(_AFTER_DIGEST)], text[-len(_AFTER_DIGEST) :]
    return f"{before}{_digest(before, after)}{after}".encode()


def to_json(record: ConceptRecord) -> bytes:
    """Return the text of `concept.json` for a record, in the format version of this release."""
    return json_with_digest(
        record.model_copy(update={"format_version": FORMAT_VERSION}).model_dump(mode="json")
    )


def digest_matches(record: ConceptRecord, data: bytes) -> bool:
    """Whether the text matches the digest in it; version 1 must have none, and is accepted unchecked."""
    if record.format_version == 1 or not record.sha256:
        return record.format_version == 1 and record.sha256 is None
    # Git may have converted the line endings to those of Windows.
    before, _, after = data.decode().replace("\r\n", "\n").rpartition(record.sha256)
    return _digest(before, after) == record.sha256


_AFTER_DIGEST = '"\n}\n'
"""The text of `concept.json` after its digest."""


def _digest(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
