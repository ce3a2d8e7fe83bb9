"""Reading, writing and erasing a concept folder: `concept.json`, and tensor files with their digests.

Files hold plain data only: JSON and safetensors, never pickle, never a class name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from myvlm.concepts.disk.atomic import (
    folders_in,
    leftovers,
    move_aside,
    read_with_retries,
    recover,
    replacing,
)
from myvlm.concepts.disk.record import FORMAT_VERSION, ConceptRecord, EmbeddingRecord, digest_matches, to_json
from myvlm.errors import ConceptFileError, MissingFileError, MyVLMError, NotWritableError
from myvlm.files.claims import folder_lock, sync
from myvlm.files.photos import natural_key
from myvlm.files.reading import absolute
from myvlm.text import composed

RECORD = "concept.json"
HEAD_FILE = "head.safetensors"
EXAMPLES_FILE = "examples.safetensors"
CARD = "README.md"
EMBEDDINGS = "embeddings"
PHOTOS = "photos"


def embedding_file(backbone: str) -> str:
    """Return the path of a backbone's embedding file inside the folder; different names never share one.

    >>> embedding_file("llava-hf/llava-1.5-7b-hf")
    'embeddings/llava-hf--llava-1.5-7b-hf.safetensors'
    """
    readable = backbone.replace("/", "--")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", readable).lstrip(".")[:100]
    if safe != readable or "--" in backbone:
        safe += "-" + hashlib.sha256(backbone.encode()).hexdigest()[:8]
    return f"{EMBEDDINGS}/{safe}.safetensors"


def tensor_files(record: ConceptRecord) -> dict[str, str]:
    """Return the tensor files of a folder: name → SHA-256."""
    examples = {EXAMPLES_FILE: record.examples.sha256} if record.examples else {}
    embeddings = {embedding_file(name): one.sha256 for name, one in record.embeddings.items()}
    return {HEAD_FILE: record.head.sha256, **examples, **embeddings}


def pack(tensors: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, str]:
    """Return tensors as the bytes of a safetensors file, and the SHA-256 of these bytes."""
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    return data, hashlib.sha256(data).hexdigest()


def pack_photo(photo: Image.Image) -> bytes:
    """Return a photo as the bytes of a PNG file."""
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def is_concept_folder(path: Path) -> bool:
    """Whether a folder has a `concept.json` with a `format_version`, of whatever value."""
    try:
        return recover(absolute(path)) and "format_version" in _parse(path / RECORD)
    except (OSError, ConceptFileError):
        return False


def concept_folders(folder: str | PathLike[str]) -> list[Path]:
    """Return the concept folders in a folder, intact or not, in natural order; hidden ones are skipped.

    The list is empty if the folder does not exist.

    Raises:
        ConceptFileError: the folder cannot be read.
    """
    if not os.path.isdir(folder):
        return []
    try:
        names = sorted(folders_in(Path(folder)), key=natural_key)
    except OSError as error:
        raise _unreadable(Path(folder), error) from error
    inside = [os.path.join(folder, name) for name in names]
    return [Path(one) for one in inside if _has_record(one)]


def _has_record(folder: str) -> bool:
    """Whether a folder has a `concept.json`, also while the folder is being replaced."""
    record = os.path.join(folder, RECORD)
    if os.path.exists(record):
        return True
    try:
        return recover(Path(folder)) and read_with_retries(Path(folder), lambda: bool(os.stat(record)))
    except OSError:
        return False


def read_record(path: Path) -> ConceptRecord:
    """Read and check `concept.json`.

    Raises:
        MissingFileError: nothing is at that path.
        ConceptFileError: it is no concept folder, is newer than this release, or was altered.
    """
    try:
        # fast path: loading a library of thousands spends its time here
        with open(os.path.join(path, RECORD), "rb") as opened:  # pathlib would take half of the time
            data = opened.read()
        record = ConceptRecord.model_validate_json(data)
        if digest_matches(record, data):
            return record
    except (ValidationError, OSError):
        pass
    try:
        return _read_record_stepwise(path)  # find out what is wrong, for a message that helps the user
    except OSError as error:
        if isinstance(error, MyVLMError):
            raise
        raise _unreadable(path, error) from error


def _read_record_stepwise(path: Path) -> ConceptRecord:
    """Read `concept.json` step by step, with a specific error for each step. Raises as `read_record`."""
    if not recover(absolute(path)):
        raise MissingFileError(
            f"There is no concept folder {path}.",
            got="nothing at that path",
            expected=f"a folder with {RECORD}",
            fix="check the path, or save the concept there first",
        )
    if not (path / RECORD).is_file():
        raise ConceptFileError(
            f"{path} is not a concept folder.",
            got=", ".join(sorted(one.name for one in path.iterdir())[:5]) if path.is_dir() else "a file",
            expected=f"a folder with {RECORD}",
            fix="pass the folder that concept.save wrote",
        )
    data = (path / RECORD).read_bytes()
    parsed = _parsed(data, path / RECORD)
    version = parsed.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ConceptFileError(
            f"{path} was written by a newer release of myvlm.",
            got=f"format_version {version}",
            expected=f"format_version {FORMAT_VERSION} or older",
            fix="pip install --upgrade myvlm",
        )
    try:
        record = ConceptRecord.model_validate(parsed)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise ConceptFileError(
            f"{path / RECORD} is invalid.",
            got=wrong,
            expected=f"the fields of format_version {FORMAT_VERSION}, and no others",
            fix=_RESTORE,
        ) from error
    if not digest_matches(record, data):
        raise ConceptFileError(
            f"{path / RECORD} was modified.",
            got="content that does not match its sha256",
            expected=f"sha256 {record.sha256}" if record.sha256 else "its sha256 as the last field",
            fix=f"{_RESTORE}; to rename it, use `myvlm concepts rename` or vlm.concepts.rename",
        )
    return record


def _unreadable(path: Path, error: OSError) -> ConceptFileError:
    return ConceptFileError(
        f"{path} cannot be read.",
        got=f"{type(error).__name__}: {error.strerror or error}",
        expected="a folder and files that you may read",
        fix="check who owns it and its permissions",
    )


def check_not_saved_since(folder: Path, backbone: str, record: EmbeddingRecord) -> None:
    """Raise ConceptFileError if the folder's record of that embedding differs from the one loaded before.

    Raises: as `read_record`.
    """
    now = read_record(folder).embeddings.get(backbone)
    if now != record:
        raise ConceptFileError(
            f"{folder} was saved again after it was loaded.",
            got=f"sha256 {now.sha256[:12]}… for {backbone}" if now else f"no embedding for {backbone}",
            expected=f"sha256 {record.sha256[:12]}…, the embedding of the loaded version",
            fix="load the concept again",
        )


def read_tensors(folder: Path, name: str, sha256: str) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of one file. Raises ConceptFileError if it is missing, truncated or altered."""
    data = read_file(folder, name, sha256)
    try:
        tensors: dict[str, npt.NDArray[Any]] = load(data)
        return tensors
    except (SafetensorError, KeyError, ValueError) as error:
        raise _no_tensors(os.path.join(folder, name), error) from error


def read_file(folder: Path, name: str, sha256: str) -> bytes:
    """Read the bytes of one tensor file and check their digest. Raises as `read_tensors`."""
    file = os.path.join(folder, name)
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except FileNotFoundError as error:
        raise ConceptFileError(
            f"{file} is missing.", got="no such file", expected=name, fix=_RESTORE
        ) from error
    except OSError as error:
        raise _no_tensors(file, error) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ConceptFileError(
            f"{file} was truncated or modified.",
            got=f"{len(data):,} bytes, sha256 {digest[:12]}…",
            expected=f"sha256 {sha256[:12]}… as in {RECORD}",
            fix=_RESTORE,
        )
    return data


def _no_tensors(file: str, error: Exception) -> ConceptFileError:
    return ConceptFileError(
        f"{file} cannot be read.",
        got=f"{type(error).__name__}: {error}",
        expected="a safetensors file",
        fix=_RESTORE,
    )


def write_folder(path: Path, record: ConceptRecord, files: Mapping[str, bytes]) -> None:
    """Write the whole folder beside `path`, then rename it into place; a failure leaves nothing behind.

    An existing folder of this concept is replaced, but the user's own files in it (notes, photos) stay;
    photos are replaced if `files` has new ones. Any other folder that is not empty is refused.

    Args:
        path: the folder.
        record: the content of `concept.json`.
        files: name → bytes of all other files.

    Raises:
        NotWritableError: the place cannot be written, or holds something else, such as another concept.
    """
    text = to_json(record)
    target = absolute(path)
    if os.path.islink(target):
        raise NotWritableError(
            f"{path} is a broken link, so nothing was written.",
            got=f"a link to {os.readlink(target)}",
            expected="a folder, or a new path",
            fix="delete the link",
        )
    try:
        with replacing(target) as fresh:
            if is_concept_folder(target):
                data = (target / RECORD).read_bytes()
                check_same_concept(data, target / RECORD, record.identifier, record.spoken)
            _copy_user_files(target, fresh, any(name.startswith(f"{PHOTOS}/") for name in files))
            for name, data in {**files, RECORD: text}.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                (fresh / name).write_bytes(data)
    except NotWritableError:
        raise
    except OSError as error:
        raise NotWritableError(
            f"The concept cannot be written to {path}.",
            got=f"{type(error).__name__}: {error.strerror or error}",
            expected="a new folder, an empty one or a concept folder, where you may write",
            fix="save to another folder",
        ) from error


def check_same_concept(data: bytes, file: Path | str, identifier: str, spoken: str) -> None:
    """Raise NotWritableError if an existing `concept.json` belongs to another concept.

    Args:
        data: the existing `concept.json`.
        file: where it is, for messages.
        identifier, spoken: the words of the concept to be written; either one must be a word of the other.

    Raises:
        ConceptFileError: the data is no JSON object.
    """
    there = _parsed(data, file)
    words = [composed(str(there.get(name))) for name in ("identifier", "spoken")]
    if not {identifier, composed(spoken)} & set(words):
        place = str(file).removesuffix(RECORD).rstrip("/\\")
        raise NotWritableError(
            f"{place} contains another concept and was not overwritten.",
            got=repr(words[0]),
            expected=repr(identifier),
            fix="save to another folder, or delete that one first",
        )


def erase_folder(path: Path, spoken: str) -> bool:
    """Delete a concept folder with everything in it, check that it is gone, and return whether there was one.

    What interrupted writers left beside it is deleted too.

    Raises:
        NotWritableError: it is not (or no longer) the folder of that concept, or a part of it remains.
    """
    target = absolute(path)
    with folder_lock(target.parent):  # else a folder that is being written would remain, or fail
        left = leftovers(target)
        there = recover(target)
        if there and (not is_concept_folder(target) or _parse(target / RECORD).get("spoken") != spoken):
            raise NotWritableError(
                f"{path} no longer contains this concept and was not erased.",
                got="another concept, or none",
                expected=f"the folder of {spoken!r}",
                fix="inspect it, and delete it yourself",
            )
        if there:
            move_aside(target)
        doomed = [one for one in (target, *leftovers(target)) if one.exists()]
        for one in doomed:
            shutil.rmtree(one, ignore_errors=True)
        path.unlink(missing_ok=True) if path.is_symlink() else None
        if left or there:
            sync(target.parent)
    for one in doomed:
        if one.exists():
            raise NotWritableError(
                f"{one} could not be erased completely.",
                got=", ".join(sorted(inside.name for inside in one.rglob("*"))[:5]) or "an empty folder",
                expected="nothing",
                fix="delete it yourself; the concept is still in the library",
            )
    return bool(left or there)


def _parse(file: Path) -> dict[str, Any]:
    return _parsed(file.read_bytes(), file)


def _parsed(data: bytes, file: Path | str) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConceptFileError(
            f"{file} is not JSON.", got=str(error), expected="the JSON that concept.save wrote", fix=_RESTORE
        ) from error
    if not isinstance(parsed, dict):
        raise ConceptFileError(
            f"{file} is not a concept record.",
            got=type(parsed).__name__,
            expected="a JSON object",
            fix=_RESTORE,
        )
    return parsed


def _copy_user_files(target: Path, fresh: Path, new_photos: bool) -> None:
    if not recover(target):
        return
    if not target.is_dir() or (any(target.iterdir()) and not is_concept_folder(target)):
        raise NotWritableError(
            f"{target} is not a concept folder and was not overwritten.",
            got=", ".join(sorted(one.name for one in target.iterdir())[:5]) if target.is_dir() else "a file",
            expected="a new folder, an empty one or a concept folder",
            fix="save to another folder",
        )
    ours = {RECORD, HEAD_FILE, EXAMPLES_FILE, CARD, EMBEDDINGS} | ({PHOTOS} if new_photos else set())
    for one in target.iterdir():
        if one.name not in ours:
            if one.is_dir() and not one.is_symlink():
                shutil.copytree(one, fresh / one.name, symlinks=True)
            else:
                shutil.copy2(one, fresh / one.name, follow_symlinks=False)


_RESTORE = "use an unaltered copy of the concept folder, or learn the concept again"
