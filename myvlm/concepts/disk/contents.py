"""The content of a concept folder: packed in memory for writing, and read back with all checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.concepts.disk.atomic import read_with_retries
from myvlm.concepts.disk.card import card
from myvlm.concepts.disk.record import (
    ConceptRecord,
    EmbeddingRecord,
    ExamplesRecord,
    HeadRecord,
    plain_values,
)
from myvlm.concepts.disk.storage import (
    CARD,
    EXAMPLES_FILE,
    HEAD_FILE,
    check_not_saved_since,
    embedding_file,
    pack,
    read_record,
    read_tensors,
)
from myvlm.concepts.embedding import Embedding, StoredEmbedding
from myvlm.errors import ConceptFileError
from myvlm.heads import Head, head_class
from myvlm.heads.examples import Correctable, StoredExamples


@dataclass(frozen=True)
class Packed:
    """A concept packed for writing: the record for `concept.json`, and the other files as name → bytes."""

    record: ConceptRecord
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Contents:
    """A concept read from a folder: the record of `concept.json`, the head, and embeddings by backbone."""

    record: ConceptRecord
    head: Head
    embeddings: dict[str, Embedding]


def packed_contents(
    head: Head,
    embeddings: Mapping[str, Embedding],
    *,
    identifier: str,
    spoken: str,
    category: str,
    kind: str,
    recipe: Mapping[str, Any],
    photos: bool,
    url: str | None,
) -> Packed:
    """Pack the attributes of a concept for writing; `photos` and `url` are only for the card.

    Raises:
        NotFittedError: the head is not fitted.
        InputError: a setting, figure or recipe is not a plain JSON value.
    """
    files: dict[str, bytes] = {}
    meta, tensors = head.state()
    files[HEAD_FILE], head_digest = pack(tensors)
    examples = getattr(head, "examples_", None)
    kept = None
    if examples is not None:
        files[EXAMPLES_FILE], digest = pack(examples.tensors)
        kept = ExamplesRecord(meta=examples.meta, sha256=digest)
    records = {}
    for name, one in embeddings.items():
        file = embedding_file(name)
        files[file], digest = pack({"directions": one.directions})
        records[name] = _record_of(name, one, digest)
    record = ConceptRecord(
        identifier=identifier,
        spoken=spoken,
        category=category,
        kind=kind,
        head=HeadRecord(meta=meta, sha256=head_digest),
        examples=kept,
        embeddings=records,
        recipe=plain_values(recipe, "recipe"),
    )
    files[CARD] = card(record, head.privacy, photos=photos, url=url).encode()
    return Packed(record, files)


def read_contents(folder: Path, *, device: str, lazy: bool) -> Contents:
    """Read and check a concept folder; loads no encoder and no model.

    Args:
        folder: of one concept.
        device: where the head's encoder will run.
        lazy: read and check the embeddings and the head's training examples on first use.

    Raises:
        MissingFileError, ConceptFileError, UnknownHeadError: see `Concept.load`.
    """
    record = read_record(folder)
    tensors = read_tensors(folder, HEAD_FILE, record.head.sha256)
    head = head_class(record.kind).from_state(record.head.meta, tensors, device=device)
    if record.examples is not None and isinstance(head, Correctable):
        read = partial(read_tensors, folder, EXAMPLES_FILE, record.examples.sha256)
        head.examples_ = StoredExamples(record.examples.meta, read)
        if not lazy:
            _ = head.examples_.tensors
    embeddings: dict[str, Embedding] = {
        name: _stored(folder, name, one) for name, one in record.embeddings.items()
    }
    if not lazy:
        for one in embeddings.values():
            _ = one.directions
    return Contents(record, head, embeddings)


def _record_of(name: str, one: Embedding, digest: str) -> EmbeddingRecord:
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


def _stored(folder: Path, name: str, record: EmbeddingRecord) -> StoredEmbedding:
    return StoredEmbedding(
        partial(_read_directions, folder, name, record),
        norm=record.norm,
        prompt=record.prompt,
        fingerprint=record.fingerprint,
        settings=record.settings,
        figures=record.figures,
    )


def _read_directions(folder: Path, name: str, record: EmbeddingRecord) -> npt.NDArray[np.float32]:
    def read() -> npt.NDArray[np.float32]:
        try:
            return _read_directions_once(folder, name, record)
        except ConceptFileError:
            check_not_saved_since(folder, name, record)
            raise

    return read_with_retries(folder, read)


def _read_directions_once(folder: Path, name: str, record: EmbeddingRecord) -> npt.NDArray[np.float32]:
    file = embedding_file(name)
    directions = read_tensors(folder, file, record.sha256).get("directions")
    shape = (record.rows, record.dim)
    if directions is None:
        found = "no directions"
    elif directions.shape != shape:
        found = f"shape {directions.shape}"
    elif not np.isfinite(directions).all():
        found = "values that are not finite"
    else:
        return np.array(directions, dtype=np.float32)
    raise ConceptFileError(
        f"{folder / file} does not contain the expected embedding.",
        got=found,
        expected=f"shape {shape}, all finite",
        fix="use an unaltered copy of the concept folder, or learn the concept again",
    )
