"""Save a concept that a command made, to a folder or an address, and check the place before work begins."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.cli import options
from myvlm.cli.screen import Screen
from myvlm.concepts import collection, editing
from myvlm.concepts.remote.address import check_may_share_faces, is_biometric, path_or_url
from myvlm.concepts.remote.transfer import check_can_publish, fetched, is_concept
from myvlm.errors import ConceptExistsError, ConceptFileError, InputError, MissingFileError, MyVLMError

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept
    from myvlm.concepts.disk.record import ConceptRecord


def check_destination(
    out: Screen,
    given: str | None,
    identifier: str,
    category: str,
    kind: str,
    *,
    photos: bool,
    face_consent: bool,
) -> Path | str:
    """Return the folder or address that a new concept will be saved to, once it is checked.

    Args:
        out: shows notes about damaged concepts in the same collection.
        given: the user's `--out`; None for a folder in `concepts`.
        identifier, category, kind: of the concept.
        photos: whether the photos are saved with it.
        face_consent: see `Concept.save`.

    Raises:
        InputError: data about a face, or photos, would leave this machine.
        NotWritableError, ConceptExistsError, RemoteError: the concept cannot be saved there.
    """
    place = (
        collection.default_folder(identifier, category)
        if given is None
        else path_or_url(given, "destination")
    )
    if isinstance(place, Path):
        editing.check_can_write(place, identifier)
        collection.notify_of_damaged(place.parent, out.note)
        return place
    from myvlm.heads import head_class

    check_may_share_faces(
        [identifier] if is_biometric(head_class(kind)) else [], place, face_consent=face_consent
    )
    if photos:
        raise InputError(
            "Photos cannot be uploaded.",
            got=f"--keep-photos, with --out {place}",
            expected="no --keep-photos",
            fix="omit --keep-photos; copy them there yourself if you want them there",
        )
    check_can_publish(place, identifier)
    return place


def check_not_learned(existing: ConceptRecord | None, place: Path | str, identifier: str) -> None:
    """Raise ConceptExistsError if an introduced concept would replace a learned one."""
    if existing is None or not existing.embeddings:
        return
    away = collection.command("remove", identifier, place.parent) if isinstance(place, Path) else "delete it"
    raise ConceptExistsError(
        f"{place} already holds {identifier} as a learned concept.",
        got=f"learned for {', '.join(existing.embeddings)}",
        expected="an empty place, or an introduced concept",
        fix=f"{away} first; or save this one to another collection with --out",
    )


def note_replaced(
    out: Screen,
    existing: ConceptRecord | None,
    place: Path | str,
    backbone: str = "",
    given: Collection[str] = ("captions", "questions"),
) -> str:
    """Say before the work begins what an existing concept has that its replacement will lack.

    Args:
        out: shows the note.
        existing, place: see `existing_record`.
        backbone: that the concept is learned for; the embedding for it is replaced in any case.
        given: which of captions and questions the user gives for the replacement.

    Returns:
        What would be lost, in words: embeddings for other models, corrections, texts that the user wrote and
        does not give again. Mostly empty.
    """
    others = [name for name in existing.embeddings if name != backbone] if existing else []
    lost = [f"the embedding for {name}" for name in others]
    if existing and existing.examples and (count := len(existing.examples.meta.corrections)):
        lost.append(f"{count} correction{'s' * (count > 1)}")
    recipe = existing.recipe if existing else {}
    if recipe.get("captions_by") == "user" and "captions" not in given:
        lost.append("the captions that you wrote")
    questions = recipe.get("questions")
    if isinstance(questions, list) and any(questions) and "questions" not in given:
        lost.append("the questions and answers that you wrote")
    if not lost:
        return ""
    lost_text = " and ".join([", ".join(lost[:-1]), lost[-1]] if lost[1:] else lost)
    kept = ""
    if isinstance(place, Path):
        kept = f" A copy goes to {place.parent / collection.REMOVED}."
        if backbone:
            again = ["myvlm", "relearn", str(place), "PHOTOS", *options.backbone_option(backbone)]
            kept += f" To keep it, run instead: {shlex.join(again)}"
    out.note(f"{place} has {lost_text}, which will be lost.{kept}")
    return lost_text


def has_concept(place: Path | str) -> bool:
    """Return whether a concept is there; a concept whose learning was interrupted must not replace it."""
    from myvlm.concepts.disk.storage import is_concept_folder

    return is_concept_folder(place) if isinstance(place, Path) else is_concept(place)


def save_concept(
    out: Screen,
    concept: Concept,
    place: Path | str,
    *,
    photos: Sequence[Path] | None,
    face_consent: bool,
    replaced: str = "",
) -> int:
    """Save a concept to a folder or an address. If an address fails, save it to a local folder as well.

    Args:
        replaced: what `note_replaced` returned; if not empty, the old folder is first copied to `.removed`.

    Returns:
        The size of the saved concept in bytes.

    Raises:
        MyVLMError: see `Concept.save`.
    """
    aside = editing.copy_to_removed(place) if replaced and isinstance(place, Path) else None
    try:
        if isinstance(place, Path):
            editing.save_new(concept, place, photos=photos)
        else:
            concept.save(place, include_photos=photos, face_consent=face_consent)
    except MyVLMError:
        if isinstance(place, str):
            fallback = collection.default_folder(concept.identifier, concept.category)
            with suppress(MyVLMError):
                editing.check_can_write(fallback, concept.identifier)
                concept.save(fallback)
                out.written.append(fallback)
                retry = f"myvlm concepts push {concept.identifier} {place}"
                out.note(
                    f"The concept was saved to {fallback} instead. Once the error is fixed, run: {retry}"
                )
        raise
    out.written.append(place)
    if replaced:
        out.note(f"{place} no longer has {replaced}" + (f"; a copy is in {aside}." if aside else "."))
    if isinstance(place, Path):
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return sum(len(data) for data in concept.packed(url=place).files.values())


def existing_record(place: Path | str) -> ConceptRecord | None:
    """Return the record of the concept at a place; None if there is none, or, at an address, a broken one."""
    from myvlm.concepts.disk.storage import is_concept_folder, read_record

    if isinstance(place, Path):
        return read_record(place) if is_concept_folder(place) else None
    with suppress(MissingFileError, ConceptFileError), fetched(place) as copy:
        return read_record(copy)
    return None
