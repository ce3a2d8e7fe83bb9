"""Loading pictures: every kind of input that users pass becomes a list of named RGB images.

All pictures are loaded here, so rotated phone photos, 16-bit scans and broken files are handled in one place.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeAlias, overload

import numpy as np
from PIL import ExifTags, Image, ImageOps

from myvlm.errors import MAX_ASPECT, ImageError, InputError, MissingFileError, MyVLMError, unusable_shape
from myvlm.files.photos import path_meant, picture_files, unreadable

ORDINARY = (224, 224)
"""A picture size that every model accepts: if a picture of this size fails too, the model is at fault."""
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Modes with premultiplied alpha, each with the only mode to which Pillow converts it."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An RGB picture and its origin.

    Attributes:
        image: the picture, mode RGB, rotated according to its EXIF tag.
        name: its name in messages: the path, or `images[2]` for a picture passed in memory.
        path: the file it was read from; None for a picture passed in memory.
    """

    image: Image.Image
    name: str
    path: Path | None = None

    @property
    def file_name(self) -> str:
        """The file's name without folders, or `name` if the picture was passed in memory."""
        return self.path.name if self.path else self.name

    @cached_property
    def digest(self) -> bytes:
        """Hash of its size and pixels. Cached: at 12 megapixels it takes 100 ms."""
        return self._digest_of(self.image)

    def digest_reduced(self, factor: float) -> bytes:
        """Hash of its size and of the pixels of `reduced(factor)`, the only ones the caller uses; cached."""
        if factor <= 1:
            return self.digest
        if factor not in self._digests:
            self._digests[factor] = self._digest_of(self.reduced(factor))
        return self._digests[factor]

    def reduced(self, factor: float) -> Image.Image:
        """The picture with each side divided by `factor`; cached for each factor above 1.

        Whole factors average pixels, in a fifth of the time of other factors. A cached copy with at least
        twice as many pixels a side is reduced instead of the original: no difference can be seen.
        """
        if factor <= 1:
            return self.image
        if factor not in self._reduced:
            enough = {known: made for known, made in list(self._reduced.items()) if known <= factor / 2}
            nearest = max(enough, default=1.0)
            source, left = enough.get(nearest, self.image), factor / nearest
            size = (max(round(self.image.width / factor), 1), max(round(self.image.height / factor), 1))
            self._reduced[factor] = (
                source.reduce(int(left)) if left == int(left)
                else source.resize(size, reducing_gap=1.3)  # for large pictures half the time of a gap of 2
            )  # fmt: skip
        return self._reduced[factor]

    def _digest_of(self, image: Image.Image) -> bytes:
        digest = hashlib.blake2b(repr(self.image.size).encode(), digest_size=16)
        digest.update(image.tobytes())
        return digest.digest()

    @cached_property
    def _reduced(self) -> dict[float, Image.Image]:
        return {}

    @cached_property
    def _digests(self) -> dict[float, bytes]:
        return {}


ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | LoadedImage"
ImageSources: TypeAlias = "ImageSource | Sequence[ImageSource]"


@dataclass(frozen=True, eq=False)
class Unusable:
    """A picture that cannot be used, as is known before any file is read: the error, and its path if any."""

    error: ImageError | MissingFileError
    path: Path | None


Source: TypeAlias = Path | LoadedImage | Unusable
"""A file that is not loaded yet, a loaded picture, or a picture that cannot be used."""


def load_images(source: ImageSources) -> list[LoadedImage]:
    """Load pictures as RGB; those of a folder or pattern in natural order (`2.jpg` before `10.jpg`).

    Args:
        source: a path, a glob pattern, a folder, a `data:` URL, a file's bytes, a PIL image or an
            `H × W × 3` uint8 array, or a list of these. In a folder, subfolders and files without a picture's
            suffix are skipped. Animated files give their first frame; transparent pixels become white.

    Raises:
        MissingFileError: a file or folder does not exist, or a pattern matches nothing.
        ImageError: a file is not a picture, is truncated, or is too large to be an honest photo.
        InputError: there is no picture at all, or an item has a type that cannot be a picture.

    >>> [picture] = load_images(np.zeros((4, 6, 3), np.uint8))
    >>> picture.image.size, picture.name
    ((6, 4), 'images[0]')
    """
    return [loaded(one) for one in listed(source)[0]]


def load_image(source: ImageSource) -> LoadedImage:
    """Load a single picture.

    Raises: as `load_images`; InputError also if there are several pictures.
    """
    sources, _ = listed(source)
    if len(sources) > 1:
        raise InputError(
            "This call takes one picture at a time.",
            got=f"{len(sources)} pictures",
            expected="one picture",
            fix="call it once per picture",
        )
    return loaded(sources[0])


@overload
def listed(one_or_many: ImageSources) -> tuple[list[Path | LoadedImage], bool]: ...
@overload
def listed(one_or_many: ImageSources, *, keep_errors: bool) -> tuple[list[Source], bool]: ...
def listed(one_or_many: ImageSources, *, keep_errors: bool = False) -> tuple[list[Any], bool]:
    """List the files and pictures that the argument stands for, without reading any file.

    Returns them with a flag: whether the argument is one single picture, so that the caller returns one reply
    and not a list. A folder, a pattern and a list count as several pictures even if they hold one.

    Args:
        one_or_many: see `load_images`.
        keep_errors: list an `Unusable` for a picture that cannot be used, instead of raising.

    Raises: as `load_images`, except for errors that only reading a file can reveal.

    >>> listed([Image.new("RGB", (2, 2))])[1], listed(Image.new("RGB", (2, 2)))[1]
    (False, True)
    """
    is_list = isinstance(one_or_many, Sequence) and not isinstance(
        one_or_many, str | bytes | bytearray | memoryview
    )
    sources: Sequence[Any] = one_or_many if is_list else [one_or_many]  # type: ignore[assignment]
    was_single = not is_list
    found: list[Source] = []
    for position, one in enumerate(sources):
        named = isinstance(one, str | os.PathLike) and not _is_address(one)
        try:
            if named:
                files = picture_files(one)
                was_single = was_single and files == [path_meant(one)]
                found += files
            else:
                found.append(_in_memory(one, f"images[{position}]"))
        except (ImageError, MissingFileError) as error:
            if not keep_errors:
                raise
            found.append(Unusable(error, Path(os.fsdecode(one)) if named else None))
    if not found:
        raise InputError(
            "There are no photos.",
            got="an empty list",
            expected="one picture or more",
            fix="pass some photos",
        )
    return found, was_single


def loaded(source: Source) -> LoadedImage:
    """Load the picture if it is a file. Raises ImageError or MissingFileError if it cannot be used."""
    if isinstance(source, Unusable):
        raise source.error
    return source if isinstance(source, LoadedImage) else LoadedImage(_read(source), str(source), source)


@contextmanager
def naming(
    photos: Sequence[LoadedImage], encode: Callable[[Sequence[Image.Image]], object]
) -> Iterator[None]:
    """Context manager that turns an error caused by one picture into an `ImageError` that names the picture.

    Processors and vision towers raise all kinds of errors on pictures of unexpected sizes, without saying
    which picture. After an error, each picture is therefore encoded alone. Other errors are passed on.

    Args:
        photos: the pictures in use inside the `with` block.
        encode: the model's function that encodes pictures.

    Raises:
        ImageError: its `number` is the index of the picture in `photos`.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # processors and models raise almost anything
        if isinstance(error, MyVLMError) and error.__cause__ is None:
            raise  # not caused by a processor or a model
        for number, photo in enumerate(photos):
            fault = _error_from(encode, photo.image)
            if fault is not None and _error_from(encode, Image.new("RGB", ORDINARY)) is None:
                size = f"{photo.image.width} by {photo.image.height} pixels"
                raise ImageError(
                    f"The model cannot process {photo.name}.",
                    got=f"{size}; {type(fault).__name__}: {fault}",
                    expected="a picture of a size and shape that the model's processor supports",
                    fix="crop or enlarge it, or leave it out",
                    number=number,
                ) from fault
        raise


def averaged(image: Image.Image, side: int) -> Image.Image:
    """Shrink a picture of over four times an encoder's input, `side`, to about twice of it by averaging.

    Resampling the result is a tenth of the work and looks the same (like Pillow's `reducing_gap`)."""
    factor = min(image.size) // (2 * side)
    return image.reduce(factor) if factor > 1 else image


def _error_from(encode: Callable[[Sequence[Image.Image]], object], image: Image.Image) -> Exception | None:
    try:
        encode([image])
    except Exception as error:
        return error
    return None


def _read(path: Path) -> Image.Image:
    return _decoded(path, str(path), path.stat().st_size if path.exists() else 0)


def _from_address(address: str, name: str) -> LoadedImage:
    """Decode the picture in a `data:` URL."""
    about, comma, data = address.partition(",")
    try:
        if not comma or not about.casefold().endswith(";base64"):
            raise ValueError("no ';base64,' before the bytes")
        content = base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        raise ImageError(
            f"{name} is not a valid data address of a picture.",
            got=f"{address[:40]!r}{'…' * (len(address) > 40)}; {error}",
            expected="data:image/png;base64,… with the bytes of a picture in base64",
            fix="pass the file's path, or a PIL image",
        ) from error
    return LoadedImage(_decoded(io.BytesIO(content), name, len(content)), name)


def _decoded(source: Path | IO[bytes], name: str, size: int) -> Image.Image:
    """The first frame of a picture of `size` bytes, as RGB. Errors of the decoder become an ImageError."""
    try:
        with Image.open(source) as opened:
            _check_shape(opened.size, name)
            opened.seek(0)
            opened.load()
            return _to_rgb(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is too large to be opened safely.",
            got=str(error),
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels",
            fix="make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
        ) from error
    except PermissionError as error:
        raise unreadable(Path(name), error) from error
    except (Warning, MemoryError, ImageError):
        raise  # warnings that the caller turned into errors keep their text; lack of memory is not the file's
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError … on broken files
        kind = Path(name).suffix.lower()
        heif = ", or `pip install pillow-heif` and register it" if kind in (".heic", ".heif") else ""
        raise ImageError(
            f"{name} cannot be read as a picture.",
            got=f"{size:,} bytes; {type(error).__name__}: {error}",
            expected="a complete JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF file",
            fix=f"open it in a picture viewer and save it again as JPEG{heif}",
        ) from error


def _is_address(one: object) -> bool:
    return isinstance(one, str) and one[:5].casefold() == "data:"


def _in_memory(one: object, name: str) -> LoadedImage:
    if isinstance(one, LoadedImage):
        return one
    if isinstance(one, str) and _is_address(one):
        return _from_address(one, name)
    if isinstance(one, np.ndarray):
        return LoadedImage(_from_array(one, name), name)
    if isinstance(one, bytes | bytearray | memoryview):
        return LoadedImage(_decoded(io.BytesIO(one), name, len(one)), name)
    if not isinstance(one, Image.Image):
        raise InputError(
            f"{name} is not a picture.",
            got=type(one).__name__,
            expected="a path, a folder, a pattern, a file's bytes, a PIL image or a uint8 array (h, w, 3)",
            fix="pass file.read(), list(generator) or torchvision.transforms.functional.to_pil_image(tensor)",
        )
    _check_shape(one.size, name)
    try:
        one.load()
        return LoadedImage(_to_rgb(one), name)
    except (Warning, MemoryError):
        raise
    except Exception as error:  # for a closed image Pillow raises AssertionError, ValueError …
        raise ImageError(
            f"{name} cannot be read as a picture.",
            got=f"{type(error).__name__}: {error}",
            expected="an open, complete PIL image",
            fix="pass the file's path instead, or load() the image before its file is closed",
        ) from error


def _check_shape(size: tuple[int, int], name: str) -> None:
    if not 0 < max(size) <= MAX_ASPECT * min(size):
        raise unusable_shape(size, name)


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        batch = array.ndim == 4 and array.shape[-1] == 3
        raise ImageError(
            f"{name} is an array but not a picture.",
            got=f"shape {array.shape}, {array.dtype}",
            expected="shape (height, width, 3), uint8, values 0 to 255",
            fix="pass list(array) for a batch" if batch else "convert it to uint8 RGB, channels last",
        )
    _check_shape((array.shape[1], array.shape[0]), name)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to a new RGB image, rotated according to its EXIF tag."""
    turned = _turned(image)
    if turned.mode in PREMULTIPLIED:
        turned = turned.convert(PREMULTIPLIED[turned.mode])
    if turned.mode.startswith("I") or turned.mode == "F":
        return _from_deep_grey(turned)
    if turned.has_transparency_data:
        clear = turned.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    plain = turned.convert("RGB")  # always a copy, so the caller's image is never modified
    plain.info = {}
    return plain


def _turned(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns about a damaged EXIF block; the pixels are intact, and no rotation is known
            warnings.filterwarnings("ignore", message=".*EXIF", category=UserWarning)
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return image if upright else ImageOps.exif_transpose(image)  # a copy, if rotated or not
    except Exception:  # Pillow raises almost anything on a damaged EXIF block; the photo itself is fine
        return image


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit or float grey to RGB, over its full range; Pillow's own `convert` clips it."""
    values = np.asarray(image).astype(np.float64)
    highest = float(values[np.isfinite(values)].max(initial=0.0))
    if image.mode.startswith("I;16"):
        scale = 65535.0
    else:
        # a float or 32-bit file does not state its range: take the smallest common one that fits
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        scale = next((top for top in usual if highest <= top), highest)
    grey = np.nan_to_num(values / scale).clip(0, 1) * 255
    return Image.fromarray(grey.round().astype(np.uint8), "L").convert("RGB")
