"""A concept embedding: what is appended to one backbone's visual tokens, in memory and on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.concepts.disk.atomic import read_steadily
from myvlm.concepts.disk.record import EmbeddingRecord
from myvlm.concepts.disk.storage import check_not_saved_since, embedding_file, read_tensors
from myvlm.errors import ConceptFileError, InputError, check_is
from myvlm.text import holds_half_of_a_character


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """What is appended to one backbone's visual tokens.

    Attributes:
        directions: rows × dim float32, finite, at least one row.
        norm: the rule by which the backbone scales each row.
        prompt: the instruction it was learned with.
        fingerprint: of the frozen weights it was learned against.
        settings: how it was learned; plain JSON values.
        figures: what was measured on the way; plain JSON values.

    Raises:
        InputError: the directions are not such an array.
    """

    directions: npt.NDArray[np.float32]
    norm: str
    prompt: str
    fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("norm", "prompt", "fingerprint"):
            check_storable(getattr(self, part), f"{part} of an embedding")
        directions = np.asarray(self.directions)
        finite = directions.dtype.kind == "f" and bool(np.isfinite(directions).all())
        if directions.ndim != 2 or 0 in directions.shape or not finite:
            raise InputError(
                "That is no concept embedding.",
                got=f"shape {directions.shape}, {directions.dtype}" + ("" if finite else ", not all finite"),
                expected="rows by dim floats, at least one row, all finite",
                fix="learn with a smaller learning rate if it holds NaN",
            )
        # a copy of its own: the optimiser's buffer would go on changing
        object.__setattr__(self, "directions", np.array(directions, dtype=np.float32))

    def __repr__(self) -> str:
        rows, dim = self.directions.shape
        return f"Embedding({rows} × {dim}, norm={self.norm!r}, weights {self.fingerprint[:12]})"


class StoredEmbedding(Embedding):
    """An embedding in a concept folder; its directions are read and checked when they are first asked for.

    Args:
        folder: of the concept.
        name: of the backbone.
        record: what `concept.json` says of it.
    """

    _read: Callable[[], npt.NDArray[np.float32]]

    def __init__(self, folder: Path, name: str, record: EmbeddingRecord) -> None:
        for one in dataclasses.fields(Embedding):
            if one.name != "directions":
                object.__setattr__(self, one.name, getattr(record, one.name))  # it is frozen
        object.__setattr__(self, "_read", partial(_stored_directions, folder, name, record))

    @cached_property
    def directions(self) -> npt.NDArray[np.float32]:
        """Raises ConceptFileError if the file is not as it was written."""
        return self._read()


def record_of(name: str, one: Embedding, digest: str) -> EmbeddingRecord:
    return EmbeddingRecord(
        rows=one.directions.shape[0],
        dim=one.directions.shape[1],
        norm=one.norm,
        prompt=one.prompt,
        fingerprint=one.fingerprint,
        settings=plain_values(one.settings, f"settings for {name}"),
        figures=plain_values(one.figures, f"figures for {name}"),
        sha256=digest,
    )


def _stored_directions(folder: Path, name: str, record: EmbeddingRecord) -> npt.NDArray[np.float32]:
    def read() -> npt.NDArray[np.float32]:
        try:
            return _directions_of(folder, name, record)
        except ConceptFileError:
            check_not_saved_since(folder, name, record)
            raise

    return read_steadily(folder, read)


def _directions_of(folder: Path, name: str, record: EmbeddingRecord) -> npt.NDArray[np.float32]:
    file = embedding_file(name)
    directions = read_tensors(folder, file, record.sha256).get("directions")
    found = None if directions is None else directions.shape
    if directions is None or found != (record.rows, record.dim) or not np.isfinite(directions).all():
        raise ConceptFileError(
            f"{folder / file} does not hold the embedding it should.",
            got="no directions" if found is None else f"shape {found}, or values that are not finite",
            expected=f"rows {record.rows} by dim {record.dim}, all finite",
            fix="use an unaltered copy of the concept folder, or learn the concept again",
        )
    return np.array(directions, dtype=np.float32)


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


def check_storable(text: object, what: str) -> None:
    """Raise InputError unless it is a text that a file can hold; it may be empty."""
    check_is(text, str, what=what, expected="a text")
    if isinstance(text, str) and holds_half_of_a_character(text):
        raise InputError(
            f"The {what} holds half of a character.",
            got=ascii(text)[:80],
            expected="a text that can be written",
            fix="decode it with errors='replace'",
        )
