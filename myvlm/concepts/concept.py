"""A concept: an object or person of one user, what recognises it and what makes each backbone name it."""

from __future__ import annotations

import dataclasses
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from os.path import isdir
from pathlib import Path
from typing import Any, Self

from myvlm.concepts.card import card
from myvlm.concepts.disk.atomic import read_steadily
from myvlm.concepts.disk.record import ConceptRecord, ExamplesRecord, HeadRecord
from myvlm.concepts.disk.storage import (
    CARD,
    EXAMPLES_FILE,
    HEAD_FILE,
    PHOTOS,
    embedding_file,
    pack,
    read_record,
    read_tensors,
    write_folder,
)
from myvlm.concepts.embedding import Embedding, StoredEmbedding, plain_values, record_of
from myvlm.concepts.notebook import Thumbnail, concept_html
from myvlm.errors import ConceptFileError, InputError, check_is, check_path
from myvlm.files.reading import absolute
from myvlm.heads import Head, head_class
from myvlm.heads.examples import Correctable, StoredExamples
from myvlm.images import ImageSources, load_images
from myvlm.text import check_category, check_identifier

OTHER_WEIGHTS = "@"
"""Between a backbone's name and a fingerprint, in the name of an embedding for other weights of that name."""


@dataclass(eq=False, repr=False)
class Concept:
    """One object or person: an identifier, a head, and one embedding per backbone.

    Attributes:
        identifier: the word that the user calls it by, composed (NFC) however it is given.
        category: what it is in general, such as "mug".
        head: recognises it.
        embeddings: backbone name → its embedding; `name@fingerprint` for other weights of that name.
        recipe: captions, prompts and settings it was learned with, as plain JSON values; no photos.
        kind: the head's kind; filled in from the head.
        spoken: the word that the embeddings make a backbone say; the identifier, until it is renamed.
        folder: where it was last loaded from or saved to, if anywhere.
        thumbnails: small copies of the photos it was just learned from, with where its head found it, for
            notebooks; in memory alone: they are never saved.

    Raises:
        InputError: the identifier or category cannot be one, or the kind is not the head's.
    """

    identifier: str
    category: str
    head: Head
    embeddings: dict[str, Embedding] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    spoken: str = ""
    folder: Path | None = None
    thumbnails: list[Thumbnail] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_is(self.head, Head, what="head of a concept", expected="a fitted head, such as an ObjectHead")
        check_is(self.kind, str, what="kind of a concept", expected="the head's, or nothing")
        check_is(self.spoken, str, what="spoken word of a concept", expected="a word, or nothing")
        check_is(
            self.embeddings, Mapping, what="embeddings of a concept", expected="a dict of Embedding by name"
        )
        for one in self.embeddings.values():
            check_is(one, Embedding, what="embedding of a concept", expected="an Embedding")
        self.kind = self.kind or self.head.kind
        self.identifier = check_identifier(self.identifier)
        self.spoken = self.spoken or self.identifier
        check_identifier(self.spoken)
        check_category(self.category)
        if self.kind != self.head.kind:
            raise InputError(
                f"{self.identifier!r} is of another kind than its head.",
                got=self.kind, expected=self.head.kind, fix="leave kind out: it is the head's",
            )  # fmt: skip

    def __repr__(self) -> str:
        known = ", ".join(self.embeddings) or "no model yet"
        return f"Concept({self.identifier!r}, {self.category!r}, kind={self.kind!r}, learned for {known})"

    def _repr_html_(self) -> str:
        return concept_html(self)

    @property
    def description(self) -> str | None:
        """What it is called in words, such as `the dotted purple mug`; None where nobody has said."""
        words = self.recipe.get("description")
        return words if isinstance(words, str) and words else None

    def embedding_for(self, backbone: str, fingerprint: str, dim: int) -> Embedding:
        """The embedding that was learned on this frozen model, under this name or as another copy of it.

        Raises:
            ConceptFileError: there is none for it; the message says for which models there are.
        """
        named = self.embeddings.get(backbone)
        copies = [one for one in self.embeddings.values() if one.fingerprint == fingerprint]
        for one in [named, *copies] if named else copies:
            if one.fingerprint == fingerprint and one.directions.shape[1] == dim:
                return one
        known = [
            f"{name} ({one.directions.shape[1]} dimensions, weights {one.fingerprint[:12]})"
            for name, one in self.embeddings.items()
        ]
        raise ConceptFileError(
            f"The concept {self.identifier!r} was learned for another model than {backbone}.",
            got="; ".join(known) or "no embedding at all",
            expected=f"{backbone} ({dim} dimensions, weights {fingerprint[:12]})",
            fix=f"learn {self.identifier!r} again with this model, {self.how_again(backbone)}; "
            "or load the model it was learned for, or leave the concept out",
        )

    def with_embedding(self, backbone: str, embedding: Embedding) -> Self:
        """The concept with one more embedding, first of all; what it had for other weights stays.

        Where the name stands for other weights already, as when a model of that name was trained further,
        the older embedding goes on as `name@fingerprint`: it is found by its fingerprint.

        >>> import numpy as np
        >>> from myvlm.heads import ObjectHead
        >>> old, new = (Embedding(np.ones((1, 2)), "none", "", print) for print in ("a1", "b2"))
        >>> list(Concept("sks", "mug", ObjectHead(), {"llava": old}).with_embedding("llava", new).embeddings)
        ['llava', 'llava@a1']
        """
        others = {n: one for n, one in self.embeddings.items() if one.fingerprint != embedding.fingerprint}
        older = others.pop(backbone, None)
        if older is not None:
            others[f"{backbone}{OTHER_WEIGHTS}{older.fingerprint}"] = older
        return dataclasses.replace(self, embeddings={backbone: embedding, **others})

    def learned_elsewhere(self, fingerprint: str) -> bool:
        """Whether it was learned, but for other models than that one alone. No embedding is read for it."""
        return bool(self.embeddings) and all(
            one.fingerprint != fingerprint for one in self.embeddings.values()
        )

    def how_again(self, backbone: str) -> str:
        """How it is learned again, with the model of that name: the call and the command."""
        if self.folder is None:
            return f"by vlm.relearn(vlm.concepts[{self.identifier!r}], images=[...])"
        photos = "" if (self.folder / PHOTOS).is_dir() else ", images=[...]"
        words = shlex.quote(str(self.folder)) + (" PHOTOS" if photos else "")
        command = f"myvlm relearn {words} --backbone {shlex.quote(backbone)}"
        return f'by vlm.relearn("{self.folder}"{photos}), or `{command}`'

    def save(self, path: str | PathLike[str], include_photos: ImageSources | None = None) -> Path:
        """Write the concept as a folder of some kilobytes; all of it or nothing.

        Args:
            path: a new folder, an empty one, or one of this concept, which is replaced.
            include_photos: photos to put beside it, as bare pixels: what a camera notes in a file (place,
                time) is left out. None, the default, writes no photo.

        Raises:
            NotFittedError: the head has learned nothing.
            InputError: a setting, figure or recipe is no plain JSON value.
            NotWritableError: the folder cannot be written, or is something else; it is as it was.
        """
        target = Path(check_path(path, "folder of a concept"))
        files: dict[str, bytes] = {}
        meta, tensors = self.head.state()
        files[HEAD_FILE], head_digest = pack(tensors)
        examples = getattr(self.head, "examples_", None)
        kept = None
        if examples is not None:
            files[EXAMPLES_FILE], digest = pack(examples.tensors)
            kept = ExamplesRecord(meta=examples.meta, sha256=digest)
        records = {}
        for name, one in self.embeddings.items():
            file = embedding_file(name)
            files[file], digest = pack({"directions": one.directions})
            records[name] = record_of(name, one, digest)
        record = ConceptRecord(
            identifier=self.identifier,
            spoken=self.spoken,
            category=self.category,
            kind=self.kind,
            head=HeadRecord(meta=meta, sha256=head_digest),
            examples=kept,
            embeddings=records,
            recipe=plain_values(self.recipe, "recipe"),
        )
        if include_photos is not None:
            for number, photo in enumerate(load_images(include_photos), start=1):
                files[f"{PHOTOS}/{number}.png"] = _png(photo.image)
        photos = include_photos is not None or isdir(target / PHOTOS)  # those that are there stay there
        files[CARD] = card(record, self.head.privacy, photos=photos).encode()
        write_folder(target, record, files)
        self.folder = absolute(target)
        return target

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu", lazy: bool = False) -> Self:
        """Read a concept folder and check all of it; loads no encoder and no model.

        Args:
            path: the folder.
            device: where the head's encoder will run.
            lazy: read each embedding when it is first used, and check it then; for libraries of thousands.

        Raises:
            MissingFileError: nothing is at that path.
            ConceptFileError: it is no concept folder, or newer than this release, cut or altered.
            UnknownHeadError: its kind of head is not installed.
        """
        folder = Path(check_path(path, "folder of a concept"))
        check_is(device, str, what="device of a head", expected='a name, such as "cpu"')
        return read_steadily(folder, lambda: cls._load(folder, device, lazy))

    @classmethod
    def _load(cls, folder: Path, device: str, lazy: bool) -> Self:
        record = read_record(folder)
        tensors = read_tensors(folder, HEAD_FILE, record.head.sha256)
        head = head_class(record.kind).from_state(record.head.meta, tensors, device=device)
        if record.examples is not None and isinstance(head, Correctable):
            read = partial(read_tensors, folder, EXAMPLES_FILE, record.examples.sha256)
            head.examples_ = StoredExamples(record.examples.meta, read)
            if not lazy:
                _ = head.examples_.tensors
        stored = {name: StoredEmbedding(folder, name, one) for name, one in record.embeddings.items()}
        if not lazy:
            for one in stored.values():
                _ = one.directions
        try:
            return cls(
                identifier=record.identifier,
                category=record.category,
                head=head,
                embeddings=dict(stored),
                recipe=dict(record.recipe),
                kind=record.head.meta.kind,
                spoken=record.spoken,
                folder=folder if lazy and folder.is_absolute() else absolute(folder),
            )
        except InputError as error:
            raise ConceptFileError(
                f"{folder} holds an impossible concept.",
                got=error.got,
                expected=error.expected,
                fix=error.fix,
            ) from error


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
