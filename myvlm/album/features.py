"""Cache the encoder features of an album's photos on disk, so that a new concept encodes only new windows.

The cache is in the folder beside the page, with the thumbnails. It holds the features of the windows that
heads score, rounded to half precision, and no pixels. Face descriptors are never kept: they would be
biometric data of people that the user has not taught.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from myvlm.album.page import AlbumFiles
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError
from myvlm.files.writing import atomic_file
from myvlm.heads import ObjectHead
from myvlm.heads.encoders import ImageEncoder, get_encoder
from myvlm.heads.features import (
    PictureFeatures,
    cache_parts,
    cached_parts,
    check_encoder_fingerprint,
    encoder_fingerprint,
    windows,
)
from myvlm.images import LoadedImage

MAX_CACHE_BYTES = 1 << 30
"""Largest size of an album's cache in bytes; features of further photos are not kept."""
FILE_OVERHEAD_BYTES = 1024
"""Upper bound of a file's bytes besides its numbers."""
FINGERPRINT = "encoder.npy"


class FeatureCache:
    """The cached features of an album's photos, for the encoders of a library's object heads.

    Args:
        album: the album's files.
        concepts: the library; features made by other weights of one of its encoders are deleted.
    """

    def __init__(self, album: AlbumFiles, concepts: ConceptLibrary) -> None:
        self._album = album
        heads = (one.head for one in concepts.values())
        named = {(head.encoder, head.device) for head in heads if isinstance(head, ObjectHead)}
        self._encoders = [(get_encoder(name, device=device), self._folder(name)) for name, device in named]
        for encoder, folder in self._encoders:
            _prepare_folder(encoder, folder)
        self._bytes = sum(_bytes_of(one) for one in album.features.glob("*/*"))

    def load_into_encoders(self, file: Path, photo: LoadedImage) -> None:
        """Load a photo's features into the encoders' memory, if its pixels are those that were encoded."""
        for encoder, folder in self._encoders:
            seen = _read(self._file(folder, file), photo)
            if seen:
                cache_parts(encoder, photo, seen)

    def store(self, file: Path, photo: LoadedImage) -> None:
        """Store the features in the encoders' memory of a photo, if they are more than are stored already."""
        for encoder, folder in self._encoders:
            seen = cached_parts(encoder, photo, windows(*photo.image.size))
            known = _read(target := self._file(folder, file), photo)
            if not seen.boxes or (known and len(known.boxes) >= len(seen.boxes)):
                continue
            before = _bytes_of(target)
            size = len(seen.boxes) * (2 * seen.features.shape[1] + 8 * 4) + FILE_OVERHEAD_BYTES
            if self._bytes - before + size > MAX_CACHE_BYTES:
                continue
            _write(target, photo, seen)
            self._bytes += _bytes_of(target) - before

    def _folder(self, encoder: str | ImageEncoder) -> Path:
        name = encoder if isinstance(encoder, str) else encoder.id
        return self._album.features / hashlib.blake2b(name.encode(), digest_size=8).hexdigest()

    def _file(self, folder: Path, file: Path) -> Path:
        return folder / f"{self._album.thumb(file).stem}.npz"


def tidy_features(album: AlbumFiles, files: Iterable[Path]) -> None:
    """Delete the cached features of all photos except these."""
    there = {album.thumb(file).stem for file in files}
    for one in album.features.glob("*/*.npz"):
        if one.stem not in there:
            one.unlink(missing_ok=True)


def _prepare_folder(encoder: ImageEncoder, folder: Path) -> None:
    """Make the folder hold features of this encoder only: empty it if the encoder's weights differ."""
    try:
        check_encoder_fingerprint(encoder, [np.load(folder / FINGERPRINT)])
    except (OSError, ValueError, EOFError, ConceptFileError):
        for one in folder.glob("*"):
            one.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / FINGERPRINT, encoder_fingerprint(encoder))


def _bytes_of(file: Path) -> int:
    """Return a file's size, or 0 if it is gone: another process may work on the album."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read(file: Path, photo: LoadedImage) -> PictureFeatures | None:
    """Read a photo's features; None if there are none, they are of other pixels, or the file is damaged."""
    with (
        suppress(OSError, ValueError, KeyError, EOFError, BadZipFile),
        file.open("rb") as opened,
        np.load(opened) as kept,
    ):
        if kept["digest"].tobytes() == photo.digest:
            boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in kept["boxes"])
            rows = kept["features"].astype(np.float32)
            if len(rows) == len(boxes) and np.isfinite(rows).all():
                return PictureFeatures(boxes, rows)
    return None


def _write(file: Path, photo: LoadedImage, seen: PictureFeatures) -> None:
    """Write a photo's features atomically; on a full disk do nothing, since it is only a cache."""
    with suppress(OSError), atomic_file(file) as fresh, fresh.open("wb") as opened:
        np.savez(
            opened,
            digest=np.frombuffer(photo.digest, np.uint8),
            boxes=np.array(seen.boxes),
            features=seen.features.astype(np.float16),
        )
