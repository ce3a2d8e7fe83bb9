"""Lists the picture files of a path, a folder or a glob pattern, without opening them."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from glob import escape, glob, has_magic
from pathlib import Path

from myvlm.errors import ImageError, InputError, MissingFileError
from myvlm.files.reading import as_on_disk, working_folder

_log = logging.getLogger(__name__)

_SUFFIXES = "jpg jpeg jpe jfif png apng webp gif bmp tif tiff avif heic heif jp2 ppm pgm pnm tga mpo qoi ico"
PHOTO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """A sort key that compares numbers in a name as numbers.

    >>> sorted([Path("10.jpg"), Path("2.jpg")], key=natural_key)[0].name
    '2.jpg'
    """
    pieces = re.split(r"([0-9]+)", str(path).casefold())
    keys = [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]
    return [*keys, (2, 0, str(path))]


def picture_files(source: str | os.PathLike[str]) -> list[Path]:
    """List the picture files of a path, folder or glob pattern, without opening them.

    Raises:
        MissingFileError: there are none.
        ImageError: a folder is not readable, or the text is not a path, for instance because it is too long.
        InputError: the path is empty or a web address.
    """
    try:
        return list(_files(source))
    except PermissionError as error:
        raise unreadable(Path(os.fsdecode(source)), error) from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: "~nobody" has no home folder
        if isinstance(error, InputError):
            raise
        text = os.fsdecode(source)
        raise ImageError(
            "This text is not the path of a picture.",
            got=f"{text[:40]!r}{'…' * (len(text) > 40)}, {len(text):,} characters; {error.args[-1]}",
            expected="a path, or data:image/png;base64,… with the bytes of a picture",
            fix="decode base64 and pass the picture: PIL.Image.open(io.BytesIO(base64.b64decode(text)))",
        ) from error


NO_ALBUM_FILE = ".nomedia"
"""A file of this name keeps the pictures of its folder and subfolders out of albums, as on phones."""


def album_files(source: str | os.PathLike[str]) -> list[Path]:
    """As `picture_files`, but including the pictures in subfolders, except hidden ones.

    Subfolders that contain a file `.nomedia` are skipped. Links to folders are not followed, since they may
    form a loop; a warning is logged about these and about pictures that are links to missing files.

    Raises: as `picture_files`.
    """
    folder = path_meant(source) if os.fsdecode(source) else Path()
    if not folder.is_dir() or not os.fsdecode(source):
        return picture_files(source)
    try:
        inside = list(_walk(folder))
    except PermissionError as error:
        raise unreadable(folder, error) from error
    if skipped := [one for one in inside if _is_skipped_link(one)]:
        more = f", and {len(skipped) - 1:,} more" if skipped[1:] else ""
        what = "a link to a folder (pass that to include it)" if skipped[0].is_dir() else "a dead link"
        _log.warning("Skipping %s, %s%s", skipped[0], what, more)
    return _photos_among(inside, f"The folder {folder}")


def _is_skipped_link(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_symlink() or path.is_file():
        return False
    return path.is_dir() or path.suffix.lower() in PHOTO_SUFFIXES


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, and the links in them to folders."""
    os.listdir(folder)  # raises if the folder is not readable; unreadable subfolders are skipped
    for place, folders, names in os.walk(folder):
        if NO_ALBUM_FILE in names and Path(place) != folder:
            folders.clear()
            continue
        folders[:] = [one for one in folders if not one.startswith(".")]
        yield from (one for name in folders if (one := Path(place, name)).is_symlink())
        yield from (Path(place, name) for name in names)


def path_meant(source: str | os.PathLike[str]) -> Path:
    """The path in its spelling on the disk; if it does not exist, `~` is expanded to the home folder."""
    path = as_on_disk(Path(os.fsdecode(source)))
    return path if path.exists() else path.expanduser()


def _files(source: str | os.PathLike[str]) -> Iterator[Path]:
    text = os.fsdecode(source)
    if not text:
        raise InputError(
            "The path of a photo is empty.", got=repr(text), expected="a path", fix='pass "." for this folder'
        )
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise InputError(
            "Photos cannot be read from web addresses.",
            got=text,
            expected="a file",
            fix="download it, then pass the file",
        )
    path = path_meant(source)
    if path.is_dir():
        yield from _photos_among(path.iterdir(), f"The folder {path}")
    elif path.is_file():
        yield path
    elif path.exists():
        raise ImageError(
            f"{path} is not a regular file.",
            got="a pipe or a device",
            expected="a file with a picture",
            fix="save its content to a file, and pass that",
        )
    elif has_magic(text):
        yield from _photos_among(_matches(path), f"The pattern {text}")
    else:
        raise MissingFileError(
            f"There is no file {path}.",
            got=working_folder(),
            expected="a picture, a folder of pictures, or a pattern such as photos/*.jpg",
            fix="check the spelling, or pass the full path",
        )


def _matches(pattern: Path) -> list[Path]:
    """The matches of a glob pattern, whose leading folders are taken literally if they exist.

    Brackets are special in patterns, but folder names such as "photos [2024]" are common.
    """
    folder, rest = Path(), list(pattern.parts)
    while rest and (inside := as_on_disk(folder / rest[0])).exists():
        folder, rest = inside, rest[1:]
    wanted = os.path.join(*rest)
    spellings = [unicodedata.normalize(form, wanted) for form in ("NFC", "NFD")]
    for spelling in dict.fromkeys([wanted, *spellings, wanted.replace("[", "[[]")]):
        if found := glob(os.path.join(escape(str(folder)), spelling), recursive=True):
            return [Path(match) for match in found]
    return []


def _photos_among(paths: Iterator[Path] | list[Path], what: str) -> list[Path]:
    shown = [path for path in paths if not path.name.startswith(".")]
    files = [path for path in shown if path.is_file()]
    photos = sorted((file for file in files if file.suffix.lower() in PHOTO_SUFFIXES), key=natural_key)
    if not photos:
        folders = sorted((path for path in shown if path.is_dir()), key=natural_key)
        names = [*sorted(file.name for file in files)[:5], *(f"{folder.name}/" for folder in folders[:5])]
        fix = "pass a folder or pattern that contains photos"
        raise MissingFileError(
            f"{what} contains no pictures.",
            got=", ".join(names) or "no files",
            expected="files such as .jpg, .png or .webp",
            fix=f"{fix}, such as {folders[0]} if they are in there" if folders else fix,
        )
    return photos


def unreadable(path: Path, error: PermissionError) -> ImageError:
    """The error for a file or folder that the user has no permission to read."""
    return ImageError(
        f"There is no permission to read {path}.",
        got=str(error),
        expected="a readable file or folder",
        fix="check its owner and permissions",
    )
