"""A concept: an object or person of one user, what recognises it and what makes each backbone name it."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from os.path import isdir
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload
from weakref import WeakValueDictionary

from myvlm.boxes import Box
from myvlm.concepts.disk.atomic import read_steadily
from myvlm.concepts.disk.contents import Packed, packed_contents, read_contents
from myvlm.concepts.disk.storage import PHOTOS, pack_photo, write_folder
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.notebook import HoldingLibrary, Thumbnail, concept_html
from myvlm.concepts.remote.address import check_may_leave, is_biometric, place_of
from myvlm.concepts.remote.transfer import fetched, publish
from myvlm.errors import ConceptFileError, InputError, check_is, check_path
from myvlm.files.reading import absolute
from myvlm.heads import Head
from myvlm.images import ImageSources, LoadedImage, load_images
from myvlm.text import check_category, check_identifier, folded

if TYPE_CHECKING:
    from myvlm.backbones import Backbone

_log = logging.getLogger(__name__)

OTHER_WEIGHTS = "@"
"""Between a backbone's name and a fingerprint, in the name of an embedding for other weights of that name."""
THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""

libraries: WeakValueDictionary[int, HoldingLibrary] = WeakValueDictionary()
"""All that are in use, by `id`: a concept may be in several, or in none."""


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
        folder: where on this machine it was last loaded from or saved to, if anywhere.
        url: the address elsewhere that it was last loaded from or saved to, if any.
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
    url: str | None = None
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
        held = holders(self)
        return concept_html(self, held[-1] if held else None)

    @property
    def words(self) -> set[str]:
        """What it is called and what it was learned with, folded; no other concept may have one of them."""
        return folded(self.identifier, self.spoken)

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
        learned_on = {one.fingerprint for one in self.embeddings.values()}
        return bool(learned_on) and fingerprint not in learned_on

    def how_again(self, backbone: str) -> str:
        """How it is learned again, with the model of that name: the call and the command."""
        if self.folder is None:
            return f"by vlm.relearn(vlm.concepts[{self.identifier!r}], images=[...])"
        photos = "" if (self.folder / PHOTOS).is_dir() else ", images=[...]"
        words = shlex.quote(str(self.folder)) + (" PHOTOS" if photos else "")
        command = f"myvlm relearn {words} --backbone {shlex.quote(backbone)}"
        return f'by vlm.relearn("{self.folder}"{photos}), or `{command}`'

    @overload
    def save(
        self, path: PathLike[str], include_photos: ImageSources | None = None, *, face_consent: bool = False
    ) -> Path: ...

    @overload
    def save(
        self, path: str, include_photos: ImageSources | None = None, *, face_consent: bool = False
    ) -> Path | str: ...

    def save(
        self,
        path: str | PathLike[str],
        include_photos: ImageSources | None = None,
        *,
        face_consent: bool = False,
    ) -> Path | str:
        """Write the concept as a folder of some kilobytes; all of it or nothing.

        Args:
            path: a new folder, an empty one, or one of this concept, which is replaced; or an address:
                `hf://user/repository`, `s3://bucket/sks-mug` or another that fsspec knows. What was at an
                address can be read until all of the new is there.
            include_photos: photos to put beside it, as bare pixels: what a camera notes in a file (place,
                time) is left out. None, the default, writes no photo. None go to an address.
            face_consent: the person agrees that the descriptors of their face go to that address; they stay
                on this machine unless that is said here and the environment variable `MYVLM_SHARE_FACES`
                names the address, or what it lies under.

        Returns:
            The place, as it was given.

        Raises:
            NotFittedError: the head has learned nothing.
            InputError: a setting, figure or recipe is no plain JSON value; a face or photos may not leave.
            NotWritableError: the place cannot be written, or holds something else; it is as it was.
            MissingPackageError, RemoteError: an address that nothing here knows, or cannot be reached.
        """
        target = place_of(path, "folder of a concept")
        if isinstance(target, str):
            self._publish(target, include_photos, face_consent=face_consent, private=True)
            return target
        pictures = None if include_photos is None else load_images(include_photos)
        packed = self.packed(photos=pictures is not None or isdir(target / PHOTOS))  # those there stay there
        photos = {f"{PHOTOS}/{n}.png": pack_photo(one.image) for n, one in enumerate(pictures or (), start=1)}
        write_folder(target, packed.record, {**packed.files, **photos})
        self.folder = absolute(target)
        return target

    def push_to_hub(self, repo_id: str, *, private: bool = True, face_consent: bool = False) -> str:
        """Put the concept on the Hugging Face hub in one commit, its card as README; the address.

        Args:
            repo_id: `user/repository`, which is made where there is none; `user/repository/folder` puts it
                into a folder.
            private: make a private repository, and refuse one that everybody can see.
            face_consent: see `save`.

        Raises: as `save`.
        """
        check_is(private, bool, what="private", expected="True or False")
        url = f"hf://{check_path(repo_id, 'repository').removeprefix('hf://').rstrip('/')}"
        self._publish(url, None, face_consent=face_consent, private=private)
        return url

    def _publish(self, url: str, photos: ImageSources | None, *, face_consent: bool, private: bool) -> None:
        people = [self.identifier] if is_biometric(self.head) else []
        check_may_leave(people, url, face_consent=face_consent)
        if photos is not None:
            raise InputError(
                "Photos stay on this machine.",
                got=f"include_photos, to {url}",
                expected="no photos",
                fix="leave them out, and copy them there yourself where that is wanted",
            )
        publish(url, {"": self.packed(url=url)}, private=private)
        self.url = url

    def packed(self, *, photos: bool = False, url: str | None = None) -> Packed:
        """What is written of it: `concept.json`, and the bytes of the other files.

        Args:
            photos: whether photos lie beside it.
            url: the address that it is put at, for its card.

        Raises:
            NotFittedError, InputError: see `save`.
        """
        return packed_contents(
            self.head, self.embeddings,
            identifier=self.identifier, spoken=self.spoken, category=self.category, kind=self.kind,
            recipe=self.recipe, photos=photos, url=url,
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu", lazy: bool = False) -> Self:
        """Read a concept folder and check all of it; loads no encoder and no model.

        Args:
            path: the folder; or an address, see `save`. What is there is read into memory: no copy is kept.
            device: where the head's encoder will run.
            lazy: read each embedding when it is first used, and check it then; for libraries of thousands.

        Raises:
            MissingFileError: nothing is at that path.
            ConceptFileError: it is no concept folder, or newer than this release, cut or altered.
            UnknownHeadError: its kind of head is not installed.
            InputError, MissingPackageError, RemoteError: an address that nothing here knows, or that cannot
                be reached.
        """
        check_is(device, str, what="device of a head", expected='a name, such as "cpu"')
        folder = place_of(path, "folder of a concept")
        if isinstance(folder, str):
            with fetched(folder) as copy:
                return cls.from_copy(copy, folder, device=device)
        return read_steadily(folder, lambda: cls._load(folder, device, lazy))

    @classmethod
    def from_copy(cls, folder: Path, url: str, *, device: str) -> Self:
        """The concept of an address, of which the folder is a copy that will be gone. Raises as `load`."""
        concept = cls._load(folder, device, lazy=False)
        concept.folder, concept.url = None, url
        return concept

    @classmethod
    def _load(cls, folder: Path, device: str, lazy: bool) -> Self:
        found = read_contents(folder, device=device, lazy=lazy)
        record = found.record
        try:
            return cls(
                identifier=record.identifier,
                category=record.category,
                head=found.head,
                embeddings=found.embeddings,
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


def holders(concept: Concept) -> list[HoldingLibrary]:
    """The libraries that hold the concept itself, not a copy of it."""
    known = (one() for one in libraries.valuerefs())  # all at once: others are made meanwhile
    return [one for one in known if one is not None and one.get(concept.identifier) is concept]


def warn_learned_elsewhere(backbone: Backbone, concepts: Iterable[Concept]) -> None:
    """Log of concepts that were just added that this model has yet to learn them, and how that is done."""
    weights = backbone.fingerprint()
    if lacking := [concept for concept in concepts if concept.learned_elsewhere(weights)]:
        more = f", and {len(lacking) - 1} more" if lacking[1:] else ""
        _log.warning(
            "The concept %r was learned for another model than %s%s. %sLearn it again with this model, %s.",
            *(lacking[0].identifier, backbone.name, more),
            "Until then the model is told of it in words. " if lacking[0].description else "",
            lacking[0].how_again(backbone.name),
        )


def thumbnails_of(photos: Sequence[LoadedImage], head: Head) -> list[Thumbnail]:
    """Small copies of the photos that a head was just fitted to, with where it found the thing."""
    boxes = getattr(head, "boxes_", None) or [None] * len(photos)  # a head of others may not say where
    return [_thumbnail(photo, box) for photo, box in zip(photos, boxes, strict=True)]


def _thumbnail(photo: LoadedImage, box: Box | None) -> Thumbnail:
    """A small copy of a photo with a box in it.

    >>> from PIL import Image
    >>> _thumbnail(LoadedImage(Image.new("RGB", (640, 480)), "a"), (20.0, 40.0, 60.0, 80.0))[1]
    (10.0, 20.0, 30.0, 40.0)
    """
    width, height = photo.image.size
    small = photo.reduced(max(width, height) / (2 * THUMBNAIL)).copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    if box is None:
        return small, None
    across, down = small.width / width, small.height / height
    left, top, right, bottom = box
    return small, (left * across, top * down, right * across, bottom * down)
