"""Loading, saving and erasing the concepts of a library, in a folder on disk or at a remote address."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from itertools import count
from os import PathLike

from myvlm.concepts import collection
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.record import ConceptRecord
from myvlm.concepts.disk.storage import concept_folders, erase_folder, is_concept_folder
from myvlm.concepts.remote.address import check_may_share_faces, is_biometric, path_or_url
from myvlm.concepts.remote.transfer import fetched_all, publish, records_at
from myvlm.errors import InputError, MissingFileError
from myvlm.files.reading import absolute
from myvlm.text import fold, folded

_log = logging.getLogger(__name__)

WHAT = "folder of concept folders"


def load_folders(folder: str | PathLike[str], *, device: str) -> list[Concept]:
    """Load all concepts in a folder or at an address, sorted by name. Raises as `ConceptLibrary.load`."""
    place = path_or_url(folder, WHAT)
    if isinstance(place, str):
        with fetched_all(place) as copies:
            return [Concept.from_copy(copy, url, device=device) for copy, url in copies]
    if not os.path.isdir(place):
        raise MissingFileError(
            f"There is no folder {folder}.",
            got="a file" if os.path.exists(place) else "nothing at that path",
            expected="a folder of concept folders",
            fix="check the path, or save concepts there first",
        )
    if is_concept_folder(place):
        raise InputError(
            f"{folder} is a single concept.",
            got="a folder with a concept.json",
            expected="a folder of concept folders",
            fix=f"load its parent folder, or add it: concepts.add({str(folder)!r})",
        )
    return [Concept.load(one, device=device, lazy=True) for one in concept_folders(absolute(place))]


def save_folders(concepts: Iterable[Concept], folder: str | PathLike[str], *, face_consent: bool) -> None:
    """Save each concept to its own folder, in `folder` or at an address. Raises as `ConceptLibrary.save`."""
    place, known = path_or_url(folder, WHAT), list(concepts)
    if isinstance(place, str):
        people = [one.identifier for one in known if is_biometric(one.head)]
        check_may_share_faces(people, place, face_consent=face_consent)
        names = _names(known, records_at(place))
        packed = {name: one.packed(url=f"{place}/{name}") for name, one in names.items()}
        publish(place, packed)
        for name, one in names.items():
            one.url = f"{place}/{name}"
        return
    there = {one.folder.name: one.record for one in collection.entries(place)}
    for name, one in _names(known, there).items():
        one.save(place / name)


def erase_from_disk(concept: Concept) -> None:
    """Delete a concept's folder. Log a warning if there is none, or if a copy remains at a remote address."""
    if concept.url is not None:
        _log.warning("%r still exists at %s; delete it there", concept.identifier, concept.url)
    if concept.folder is None or not erase_folder(concept.folder, concept.spoken):
        why = f"{concept.folder} does not exist" if concept.folder else "it has no folder"
        _log.warning("nothing of %r was erased from disk: %s", concept.identifier, why)
    concept.folder, concept.thumbnails = None, []


def _names(concepts: Iterable[Concept], there: Mapping[str, ConceptRecord]) -> dict[str, Concept]:
    """Assign each concept a folder name: the one it already has there, or else a free one."""
    known = {word: name for name, one in there.items() for word in folded(one.identifier, one.spoken)}
    names: dict[str, Concept] = {}
    for concept in concepts:
        own = known.get(fold(concept.spoken)) or known.get(fold(concept.identifier))
        own = None if own in names else own  # one that is there may have the words of two
        wanted = collection.default_folder(concept.identifier, concept.category).name
        free = (wanted if n == 1 else f"{wanted}-{n}" for n in count(1))
        names[own or next(name for name in free if name not in names and name not in there)] = concept
    return names
