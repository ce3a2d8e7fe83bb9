"""Where a concept that a command makes is put: a folder, or an address; what can be wrong is said before."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.cli import options
from myvlm.cli.screen import Screen
from myvlm.concepts import collection
from myvlm.concepts.remote.address import check_may_share_faces, is_biometric, path_or_url
from myvlm.concepts.remote.transfer import check_can_publish, fetched, is_concept
from myvlm.errors import ConceptExistsError, ConceptFileError, InputError, MissingFileError, MyVLMError

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept
    from myvlm.concepts.disk.record import ConceptRecord


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
        collection.default_folder(identifier, category)
        if given is None
        else path_or_url(given, "place of a concept")
    )
    if isinstance(place, Path):
        collection.check_can_write(place, identifier)
        collection.notify_of_damaged(place.parent, out.note)
        return place
    from myvlm.heads import head_class

    check_may_share_faces(
        [identifier] if is_biometric(head_class(kind)) else [], place, face_consent=face_consent
    )
    if photos:
        raise InputError(
            "Photos stay on this machine.",
            got=f"--keep-photos, with --out {place}",
            expected="no --keep-photos",
            fix="leave it out, and copy them there yourself where that is wanted",
        )
    check_can_publish(place, identifier)
    return place


def check_not_learned(there: ConceptRecord | None, place: Path | str, identifier: str) -> None:
    """Raise ConceptExistsError where a learned concept would give way to one that is known in words alone."""
    if there is None or not there.embeddings:
        return
    away = collection.command("remove", identifier, place.parent) if isinstance(place, Path) else "delete it"
    raise ConceptExistsError(
        f"{place} holds {identifier} as it was learned.",
        got=f"learned for {', '.join(there.embeddings)}",
        expected="nothing there, or a concept that is known in words alone",
        fix=f"{away} first; or put this one into another collection with --out",
    )


def note_replaced(out: Screen, there: ConceptRecord | None, place: Path | str, backbone: str = "") -> str:
    """What a concept there has that one made anew has not, told before the work begins; mostly nothing.

    Args:
        out: where it is told.
        there, place: see `record_there`.
        backbone: that it is learned for; what was learned for that one is to be replaced.
    """
    others = [name for name in there.embeddings if name != backbone] if there else []
    lost = [f"what was learned for {name}" for name in others]
    if there and there.examples and (count := len(there.examples.meta.corrections)):
        lost.append(f"{count} correction{'s' * (count > 1)}")
    if not lost:
        return ""
    told = " and ".join(lost)
    kept = ""
    if isinstance(place, Path):
        kept = f" A copy goes to {place.parent / collection.REMOVED}."
        if backbone:
            again = ["myvlm", "relearn", str(place), "PHOTOS", *options.naming(backbone)]
            kept += f" To keep it: {shlex.join(again)}"
    out.note(f"{place} has {told}, which this replaces.{kept}")
    return told


def is_taken(place: Path | str) -> bool:
    """Whether a concept is there, which one that was stopped half way does not replace."""
    from myvlm.concepts.disk.storage import is_concept_folder

    return is_concept_folder(place) if isinstance(place, Path) else is_concept(place)


def put(
    out: Screen,
    concept: Concept,
    place: Path | str,
    *,
    photos: Sequence[Path] | None,
    face_consent: bool,
    replaced: str = "",
) -> int:
    """Save it there; how many bytes that is. Where an address fails, it is kept in a folder here.

    Args:
        replaced: see `note_replaced`; a folder that has such a thing is copied to `.removed` before.

    Raises:
        MyVLMError: see `Concept.save`.
    """
    aside = collection.copy_to_removed(place) if replaced and isinstance(place, Path) else None
    try:
        concept.save(place, include_photos=photos, face_consent=face_consent)
    except MyVLMError:
        if isinstance(place, str):
            here = collection.default_folder(concept.identifier, concept.category)
            with suppress(MyVLMError):
                collection.check_can_write(here, concept.identifier)
                concept.save(here)
                out.written.append(here)
                again = f"myvlm concepts push {concept.identifier} {place}"
                out.note(f"What was made is kept in {here}; once that is mended: {again}")
        raise
    out.written.append(place)
    if replaced:
        out.note(f"{place} no longer has {replaced}" + (f": that is in {aside}." if aside else "."))
    if isinstance(place, Path):
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return sum(len(data) for data in concept.packed(url=place).files.values())


def record_there(place: Path | str) -> ConceptRecord | None:
    """What the concept in a place says; None where there is none, or at an address none that is whole."""
    from myvlm.concepts.disk.storage import is_concept_folder, read_record

    if isinstance(place, Path):
        return read_record(place) if is_concept_folder(place) else None
    with suppress(MissingFileError, ConceptFileError), fetched(place) as copy:
        return read_record(copy)
    return None
