"""Pictures in, RGB pictures out: everything a user may hand over becomes a list of named RGB images.

One door for the whole library, so that a rotated phone photo, a 16-bit scan or a broken file is met here
and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from myvlm.errors import ImageError, InputError, MissingFileError

_SUFFIXES = "jpg jpeg jpe jfif png apng webp gif bmp tif tiff avif heic heif jp2 ppm pgm pnm tga mpo qoi ico"
PHOTO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """One RGB picture and where it came from.

    Attributes:
        image: the picture, mode RGB, turned as its EXIF tag says.
        name: how to name it in a message: its path, or `images[2]` for one that was in memory.
        path: the file it was read from, None for one that was in memory.
    """

    image: Image.Image
    name: str
    path: Path | None = None

    @cached_property
    def digest(self) -> bytes:
        """Of its size and pixels; made once, for at 12 megapixels it takes 50 ms."""
        digest = hashlib.blake2b(repr(self.image.size).encode(), digest_size=16)
        digest.update(self.image.tobytes())
        return digest.digest()


ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | LoadedImage"
ImageSources: TypeAlias = "ImageSource | Sequence[ImageSource]"


def load_images(source: ImageSources) -> list[LoadedImage]:
    """Load one picture or many as RGB, in natural order (`2.jpg` before `10.jpg`) within a folder or pattern.

    Args:
        source: a path, a glob pattern, a folder, a PIL image or an `H × W × 3` uint8 array, or a list of
            these. In a folder (not in its subfolders) files that are no pictures by name are passed over.
            Of an animated file the first frame is taken, and what is transparent becomes white.

    Raises:
        MissingFileError: a file or folder is not there, or a pattern matches nothing.
        ImageError: a file is no picture, cut short, or too large to be an honest photo.
        InputError: there is no picture at all, or something is of no kind that can be one.

    >>> [picture] = load_images(np.zeros((4, 6, 3), np.uint8))
    >>> picture.image.size, picture.name
    ((6, 4), 'images[0]')
    """
    return [_loaded(one) for one in listed(source)[0]]


def load_image(source: ImageSource) -> LoadedImage:
    """The one picture that is meant.

    Raises: as `load_images`; InputError also where there are several.
    """
    sources, _ = listed(source)
    if len(sources) > 1:
        raise InputError(
            "A concept is looked for in one picture at a time.",
            got=f"{len(sources)} pictures",
            expected="one picture",
            fix="call it for each of them",
        )
    return _loaded(sources[0])


def listed(one_or_many: ImageSources) -> tuple[list[Path | LoadedImage], bool]:
    """The files and pictures that are meant, none of the files read yet.

    The flag says whether one single picture was meant (a reply, not a list). A folder, a pattern and a list
    stand for many, even where they hold one.

    Raises: as `load_images`, but for what only reading a file can tell.

    >>> listed([Image.new("RGB", (2, 2))])[1], listed(Image.new("RGB", (2, 2)))[1]
    (False, True)
    """
    is_list = isinstance(one_or_many, Sequence) and not isinstance(one_or_many, str | bytes)
    sources: Sequence[Any] = one_or_many if is_list else [one_or_many]  # type: ignore[assignment]
    was_single = not is_list
    found: list[Path | LoadedImage] = []
    for position, one in enumerate(sources):
        if isinstance(one, str | os.PathLike):
            try:
                files = list(picture_files(one))
            except PermissionError as error:
                raise _unreadable(Path(one), error) from error
            was_single = was_single and files == [Path(one)]
            found += files
        else:
            found.append(_from_memory(one, f"images[{position}]"))
    if not found:
        raise InputError(
            "There are no photos.",
            got="an empty list",
            expected="one picture or more",
            fix="pass some photos",
        )
    return found, was_single


def a_few_at_once(sources: Sequence[Path | LoadedImage], count: int) -> Iterator[list[LoadedImage]]:
    """Load pictures some at a time, so that a whole album needs no more memory than a few.

    Of more than `count` every file is read once before the first are handed out, and none is kept: long work
    does not find a broken one in its midst.

    Raises:
        ImageError: a file is no picture, cut short, or too large to be an honest photo.
    """
    for one in sources if len(sources) > count else ():
        _loaded(one)
    for start in range(0, len(sources), count):
        yield [_loaded(one) for one in sources[start : start + count]]


def _loaded(one: Path | LoadedImage) -> LoadedImage:
    return one if isinstance(one, LoadedImage) else LoadedImage(_read(one), str(one), one)


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """A sort key under which numbers in a name count as numbers.

    >>> sorted([Path("10.jpg"), Path("2.jpg")], key=natural_key)[0].name
    '2.jpg'
    """
    pieces = re.split(r"([0-9]+)", str(path).casefold())
    keys = [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]
    return [*keys, (2, 0, str(path))]


def picture_files(source: str | os.PathLike[str]) -> Iterator[Path]:
    """The picture files that a path, folder or pattern stands for; none is opened.

    Raises:
        InputError: it is no path at all.
        MissingFileError: it stands for no file.
    """
    text = os.fspath(source)
    path = Path(text)
    if not text:
        raise InputError(
            "The path of a photo is empty.", got=repr(text), expected="a path", fix='pass "." for this folder'
        )
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise InputError(
            "A web address is not a photo yet.",
            got=text,
            expected="a file",
            fix="download it, then pass the file",
        )
    if path.is_dir():
        yield from _photos_among(path.iterdir(), f"The folder {path}")
    elif path.exists():
        yield path
    elif has_magic(text):
        found = [Path(match) for match in glob(text, recursive=True)]
        yield from _photos_among(found, f"The pattern {text}")
    else:
        raise MissingFileError(
            f"There is no file {path}.",
            got=f"working folder {Path.cwd()}",
            expected="a picture, a folder of pictures, or a pattern such as photos/*.jpg",
            fix="check the spelling, or pass the full path",
        )


def _photos_among(paths: Iterator[Path] | list[Path], what: str) -> list[Path]:
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    photos = sorted((file for file in files if file.suffix.lower() in PHOTO_SUFFIXES), key=natural_key)
    if not photos:
        raise MissingFileError(
            f"{what} holds no pictures.",
            got=", ".join(sorted(file.name for file in files)[:5]) or "no files",
            expected="files such as .jpg, .png or .webp",
            fix="name the folder or pattern that holds the photos",
        )
    return photos


def _read(path: Path) -> Image.Image:
    """The first frame of a picture file as RGB. Raises ImageError, whatever the decoder died of."""
    try:
        with Image.open(path) as opened:
            opened.seek(0)
            opened.load()
            return _to_rgb(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{path} is too large to be opened safely.",
            got=str(error),
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels",
            fix="make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
        ) from error
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except (Warning, MemoryError):
        raise  # a warning that the caller made an error says its own text; no memory is no fault of the file
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError … on broken files
        size = path.stat().st_size if path.exists() else 0
        kind = path.suffix.lower()
        heif = ", or `pip install pillow-heif` and register it" if kind in (".heic", ".heif") else ""
        raise ImageError(
            f"{path} cannot be read as a picture.",
            got=f"{size:,} bytes; {type(error).__name__}: {error}",
            expected="a whole JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF file",
            fix=f"open it in a picture viewer and save it again as JPEG{heif}",
        ) from error


def _unreadable(path: Path, error: PermissionError) -> ImageError:
    return ImageError(
        f"You may not read {path}.",
        got=str(error),
        expected="a file or folder that you may read",
        fix="check who owns it and its permissions",
    )


def _from_memory(one: object, name: str) -> LoadedImage:
    if isinstance(one, LoadedImage):
        return one
    if isinstance(one, np.ndarray):
        return LoadedImage(_from_array(one, name), name)
    if not isinstance(one, Image.Image):
        raise InputError(
            f"{name} is of no kind that can be a picture.",
            got=type(one).__name__,
            expected="a path, a folder, a pattern, a PIL image or a uint8 array (height, width, 3)",
            fix="convert it, for example with PIL.Image.fromarray",
        )
    if 0 in one.size:
        raise ImageError(
            f"{name} is empty.",
            got=f"{one.width} by {one.height} pixels",
            expected="at least 1 by 1",
            fix="drop it",
        )
    try:
        one.load()
        return LoadedImage(_to_rgb(one), name)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(
            f"{name} cannot be read as a picture.",
            got=f"{type(error).__name__}: {error}",
            expected="an open, whole PIL image",
            fix="pass the file's path instead, or load() the image before its file is closed",
        ) from error


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        batch = array.ndim == 4 and array.shape[-1] == 3
        raise ImageError(
            f"{name} is an array that is no picture.",
            got=f"shape {array.shape}, {array.dtype}",
            expected="shape (height, width, 3), uint8, values 0 to 255",
            fix="pass list(array) for a batch" if batch else "convert it to uint8 RGB, channels last",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image → a new RGB image, turned as its EXIF tag says."""
    turned = _turned(image)
    if turned.mode.startswith("I") or turned.mode == "F":
        return _from_deep_grey(turned)
    if turned.has_transparency_data:
        clear = turned.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    plain = turned.convert("RGB")  # a copy in every case: the caller's image is never written to
    plain.info = {}
    return plain


def _turned(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of a damaged EXIF block; the pixels are whole, and there is nothing to turn by
            warnings.filterwarnings("ignore", message=".*EXIF", category=UserWarning)
            return ImageOps.exif_transpose(image)
    except Exception:  # a damaged block makes Pillow raise almost anything; the photo itself is fine
        return image


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey → RGB over the full range; Pillow's own `convert` clips it to white."""
    values = np.asarray(image).astype(np.float64)
    highest = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    if image.mode.startswith("I;16"):
        scale = 65535.0
    else:
        # a float or 32-bit file does not say its range: the smallest usual one that holds it
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        scale = next((top for top in usual if highest <= top), highest)
    grey = np.nan_to_num(values / scale).clip(0, 1) * 255
    return Image.fromarray(grey.round().astype(np.uint8), "L").convert("RGB")
