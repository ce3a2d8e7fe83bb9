"""`Concept`: one user-specific object or person, with its head and one embedding per backbone."""

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
from myvlm.concepts.disk.atomic import read_with_retries
from myvlm.concepts.disk.contents import Packed, packed_contents, read_contents
from myvlm.concepts.disk.storage import PHOTOS, pack_photo, write_folder
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.notebook import HoldingLibrary, Thumbnail, concept_html
from myvlm.concepts.remote.address import check_may_share_faces, is_biometric, path_or_url
from myvlm.concepts.remote.transfer import fetched, publish
from myvlm.errors import ConceptFileError, InputError, check_is, check_path
from myvlm.files.reading import absolute
from myvlm.heads import Head
from myvlm.images import ImageSources, LoadedImage, load_images
from myvlm.text import check_category, check_identifier, folded

if TYPE_CHECKING:
    from myvlm.backbones import Backbone

_log = logging.getLogger(__name__)

FINGERPRINT_SEPARATOR = "@"
"""Separates backbone name and fingerprint in the key of an embedding for other weights of the same name."""
THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""

live_libraries: WeakValueDictionary[int, HoldingLibrary] = WeakValueDictionary()
"""All libraries alive in this process, by `id`; a concept may be in several of them, or in none."""


@dataclass(eq=False, repr=False)
class Concept:
    """One object or person: an identifier, a head, and one embedding per backbone.

    Attributes:
        identifier: the word that the user uses for it; normalized to NFC.
        category: what it is in general, such as "mug".
        head: detects it in pictures.
        embeddings: backbone name → embedding; the key is `name@fingerprint` for other weights of that name.
        recipe: captions, prompts and settings it was learned with, as plain JSON values; no photos.
        kind: the head's kind; taken from the head if not given.
        spoken: the word that the embeddings make a backbone generate; the identifier, until it is renamed.
        folder: the local folder it was last loaded from or saved to, if any.
        url: the remote address it was last loaded from or saved to, if any.
        thumbnails: small copies of the photos it was just learned from, with the box in which its head
            found it, for display in notebooks; kept in memory only, never saved.

    Raises:
        InputError: the identifier or category is not valid, or the kind differs from the head's.
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
        check_is(self.kind, str, what="kind of a concept", expected="the kind of its head, or none")
        check_is(self.spoken, str, what="spoken word of a concept", expected="a word, or none")
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
                f"The kind of {self.identifier!r} differs from that of its head.",
                got=self.kind, expected=self.head.kind, fix="omit kind: it is that of the head",
            )  # fmt: skip

    def __repr__(self) -> str:
        known = ", ".join(self.embeddings) or "no model yet"
        return f"Concept({self.identifier!r}, {self.category!r}, kind={self.kind!r}, learned for {known})"

    def _repr_html_(self) -> str:
        held = libraries_holding(self)
        return concept_html(self, held[-1] if held else None)

    @property
    def words(self) -> set[str]:
        """Its identifier and its spoken word, case-folded; no other concept of a library may have either."""
        return folded(self.identifier, self.spoken)

    @property
    def description(self) -> str | None:
        """A description in words, such as `the dotted purple mug`; None if the recipe has none."""
        words = self.recipe.get("description")
        return words if isinstance(words, str) and words else None

    def embedding_for(self, backbone: str, fingerprint: str, dim: int) -> Embedding:
        """Return the embedding learned on these frozen weights, stored under this backbone name or another.

        Args:
            backbone: name of the backbone.
            fingerprint: of its weights.
            dim: dimension of its embedding rows.

        Raises:
            ConceptFileError: there is none; the message lists the models for which there is one.
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
            got="; ".join(known) or "no embeddings",
            expected=f"{backbone} ({dim} dimensions, weights {fingerprint[:12]})",
            fix=f"learn {self.identifier!r} again with this model, {self.how_again(backbone)}; "
            "or load the model it was learned for, or remove the concept",
        )

    def with_embedding(self, backbone: str, embedding: Embedding) -> Self:
        """Return a copy with one more embedding, in first place; embeddings for other weights are kept.

        If the backbone name already has an embedding for other weights, for example because the model was
        trained further, that one is kept as `name@fingerprint` and found by its fingerprint.

        >>> import numpy as np
        >>> from myvlm.heads import ObjectHead
        >>> old, new = (Embedding(np.ones((1, 2)), "none", "", print) for print in ("a1", "b2"))
        >>> list(Concept("sks", "mug", ObjectHead(), {"llava": old}).with_embedding("llava", new).embeddings)
        ['llava', 'llava@a1']
        """
        others = {n: one for n, one in self.embeddings.items() if one.fingerprint != embedding.fingerprint}
        older = others.pop(backbone, None)
        if older is not None:
            others[f"{backbone}{FINGERPRINT_SEPARATOR}{older.fingerprint}"] = older
        return dataclasses.replace(self, embeddings={backbone: embedding, **others})

    def learned_elsewhere(self, fingerprint: str) -> bool:
        """Whether it has embeddings, but none for weights of this fingerprint. Reads no embedding file."""
        learned_on = {one.fingerprint for one in self.embeddings.values()}
        return bool(learned_on) and fingerprint not in learned_on

    def how_again(self, backbone: str) -> str:
        """Text for messages: the call and the command that learn the concept again for that backbone."""
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
        """Write the concept to a folder of a few kilobytes, completely or not at all.

        Args:
            path: a new folder, an empty one, or a folder of this concept, which is replaced; or a remote
                address: `hf://user/repository`, `s3://bucket/sks-mug` or any other that fsspec supports.
                The previous concept at an address stays readable until the new one is complete.
            include_photos: photos to store in the folder as bare pixels, without camera metadata (place,
                time). By default no photo is written. Photos are never sent to a remote address.
            face_consent: the person agrees that descriptors of their face are sent to that address. They
                are sent only if this is True and the environment variable `MYVLM_SHARE_FACES` also names
                the address or a parent of it.

        Returns:
            The folder as a `Path`, or the address as text.

        Raises:
            NotFittedError: the head is not fitted.
            InputError: a setting, figure or recipe is not a plain JSON value; or face descriptors or photos
                may not be sent to the address.
            NotWritableError: the place cannot be written or holds something else; it is unchanged.
            MissingPackageError, RemoteError: the address is not supported here, or cannot be reached.
        """
        target = path_or_url(path, "folder of a concept")
        if isinstance(target, str):
            self._publish(target, include_photos, face_consent=face_consent, private=True)
            return target
        pictures = None if include_photos is None else load_images(include_photos)
        packed = self.packed(photos=pictures is not None or isdir(target / PHOTOS))  # existing photos stay
        photos = {f"{PHOTOS}/{n}.png": pack_photo(one.image) for n, one in enumerate(pictures or (), start=1)}
        write_folder(target, packed.record, {**packed.files, **photos})
        self.folder = absolute(target)
        return target

    def push_to_hub(self, repo_id: str, *, private: bool = True, face_consent: bool = False) -> str:
        """Upload the concept to the Hugging Face hub in one commit, with its card as README.

        Args:
            repo_id: `user/repository`, created if it does not exist; `user/repository/folder` uploads into a
                folder of it.
            private: create a private repository, and refuse an existing public one.
            face_consent: see `save`.

        Returns:
            The address, which starts with `hf://`.

        Raises: as `save`.
        """
        check_is(private, bool, what="private", expected="True or False")
        url = f"hf://{check_path(repo_id, 'repository').removeprefix('hf://').rstrip('/')}"
        self._publish(url, None, face_consent=face_consent, private=private)
        return url

    def _publish(self, url: str, photos: ImageSources | None, *, face_consent: bool, private: bool) -> None:
        people = [self.identifier] if is_biometric(self.head) else []
        check_may_share_faces(people, url, face_consent=face_consent)
        if photos is not None:
            raise InputError(
                "Photos cannot be uploaded.",
                got=f"include_photos, to {url}",
                expected="no photos",
                fix="omit include_photos; copy them there yourself if you want them there",
            )
        publish(url, {"": self.packed(url=url)}, private=private)
        self.url = url

    def packed(self, *, photos: bool = False, url: str | None = None) -> Packed:
        """Return what `save` writes: the record for `concept.json`, and the bytes of the other files.

        Args:
            photos: whether the folder also holds photos; stated on the card.
            url: the remote address it is published at; used on the card.

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
        """Read and check a whole concept folder; loads no encoder and no model.

        Args:
            path: the folder, or an address (see `save`), which is read into memory; no local copy is kept.
            device: where the head's encoder will run.
            lazy: read and check each embedding when it is first used; for libraries of thousands. It has no
                effect at an address.

        Raises:
            MissingFileError: nothing is at that path.
            ConceptFileError: it is no concept folder, or newer than this release, truncated or altered.
            UnknownHeadError: its kind of head is not installed.
            InputError, MissingPackageError, RemoteError: the address is not supported here, or cannot be
                reached.
        """
        check_is(device, str, what="device of a head", expected='a name, such as "cpu"')
        folder = path_or_url(path, "folder of a concept")
        if isinstance(folder, str):
            with fetched(folder) as copy:
                return cls.from_copy(copy, folder, device=device)
        return read_with_retries(folder, lambda: cls._load(folder, device, lazy))

    @classmethod
    def from_copy(cls, folder: Path, url: str, *, device: str) -> Self:
        """Load a concept from a temporary local copy of a remote address. Raises as `load`."""
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
                f"{folder} contains an invalid concept.",
                got=error.got,
                expected=error.expected,
                fix=error.fix,
            ) from error


def libraries_holding(concept: Concept) -> list[HoldingLibrary]:
    """Return the libraries that hold this very object, not a copy of it."""
    known = (one() for one in live_libraries.valuerefs())  # a snapshot: other threads may add some
    return [one for one in known if one is not None and one.get(concept.identifier) is concept]


def warn_learned_elsewhere(backbone: Backbone, concepts: Iterable[Concept]) -> None:
    """Warn that added concepts have embeddings, but none for this model, and how to learn them again."""
    weights = backbone.fingerprint()
    if lacking := [concept for concept in concepts if concept.learned_elsewhere(weights)]:
        more = f", and {len(lacking) - 1} more" if lacking[1:] else ""
        _log.warning(
            "The concept %r was learned for another model than %s%s. %sLearn it again with this model, %s.",
            *(lacking[0].identifier, backbone.name, more),
            "Until then its description is used instead. " if lacking[0].description else "",
            lacking[0].how_again(backbone.name),
        )


def thumbnails_of(photos: Sequence[LoadedImage], head: Head) -> list[Thumbnail]:
    """Return small copies of the photos that a head was just fitted to, with the box it found in each."""
    boxes = getattr(head, "boxes_", None) or [None] * len(photos)  # third-party heads may have no boxes
    return [_thumbnail(photo, box) for photo, box in zip(photos, boxes, strict=True)]


def _thumbnail(photo: LoadedImage, box: Box | None) -> Thumbnail:
    """Return a small copy of a photo, with the box scaled to it.

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
