"""Where a concept that a command makes is put: a folder, or an address; what can be wrong is said before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.cli.screen import Screen
from myvlm.concepts import collection
from myvlm.concepts.remote.address import check_may_leave, is_biometric, place_of
from myvlm.concepts.remote.transfer import check_room, is_concept
from myvlm.errors import InputError, MyVLMError

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept


def place_to_be(
    out: Screen,
    given: str | None,
    identifier: str,
    category: str,
    kind: str,
    *,
    photos: bool,
    face_consent: bool,
) -> Path | str:
    """The place of a concept that is still to be made.

    Args:
        out: where damaged neighbours are mentioned.
        given: what the user named; a folder in `concepts` where they named none.
        identifier, category, kind: of the concept.
        photos: whether they are to be put beside it.
        face_consent: see `Concept.save`.

    Raises:
        InputError: a face or photos would leave this machine.
        NotWritableError, ConceptExistsError, RemoteError: it cannot be put there.
    """
    place = (
        collection.place_for(identifier, category) if given is None else place_of(given, "place of a concept")
    )
    if isinstance(place, Path):
        collection.check_place(place, identifier)
        collection.mention_damaged(place.parent, out.note)
        return place
    from myvlm.heads import head_class

    check_may_leave([identifier] if is_biometric(head_class(kind)) else [], place, face_consent=face_consent)
    if photos:
        raise InputError(
            "Photos stay on this machine.",
            got=f"--keep-photos, with --out {place}",
            expected="no --keep-photos",
            fix="leave it out, and copy them there yourself where that is wanted",
        )
    check_room(place, identifier)
    return place


def is_taken(place: Path | str) -> bool:
    """Whether a concept is there, which one that was stopped half way does not replace."""
    from myvlm.concepts.disk.storage import is_concept_folder

    return is_concept_folder(place) if isinstance(place, Path) else is_concept(place)


def put(
    out: Screen, concept: Concept, place: Path | str, *, photos: Sequence[Path] | None, face_consent: bool
) -> int:
    """Save it there; how many bytes that is. Where an address fails, it is kept in a folder here.

    Raises:
        MyVLMError: see `Concept.save`.
    """
    try:
        concept.save(place, include_photos=photos, face_consent=face_consent)
    except MyVLMError:
        if isinstance(place, str):
            here = collection.place_for(concept.identifier, concept.category)
            with suppress(MyVLMError):
                collection.check_place(here, concept.identifier)
                concept.save(here)
                out.written.append(here)
                again = f"myvlm concepts push {concept.identifier} {place}"
                out.note(f"What was made is kept in {here}; once that is mended: {again}")
        raise
    out.written.append(place)
    if isinstance(place, Path):
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return sum(len(data) for data in concept.packed(url=place).files.values())
