"""`myvlm learn`: learn a concept from a few photos and save it to a folder or an address."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options, saving
from myvlm.cli.screen import STOPPED, Screen, screen
from myvlm.concepts.disk.storage import CARD
from myvlm.text import check_category, check_identifier

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept


def _check_steps(given: str | None) -> str | None:
    if given is not None and given != "auto" and not (given.isdecimal() and int(given)):
        raise typer.BadParameter(f"{given!r} is neither a number of at least 1 nor auto.")
    return given


def learn(
    identifier: options.Identifier,
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTOS...", help="3 to 5 photos: files, a folder or patterns.")
    ],
    category: options.Category,
    captions: options.Captions = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Question/answer pairs, per photo or one list for all."),
    ] = None,
    negatives: options.Negatives = None,
    kind: options.Kind = "object",
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=options.ENCODER_HELP),
    ] = None,
    out_folder: options.OutFolder = None,
    face_consent: options.FaceConsent = False,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            callback=_check_steps,
            help="Optimizer steps; auto: until captions of unseen views contain the name.",
        ),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, max=64, help="Number of embedding vectors.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    keep_photos: options.KeepPhotos = False,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a concept from a few photos and write it to a folder of a few kilobytes.

    Ctrl-C during learning saves the best embedding so far and exits with 130. Before learning starts, and if
    a concept would be replaced, nothing is saved. If the new concept replaces one that has corrections, was
    learned for other models or has texts that you wrote and do not give again, the old one is copied to
    `.removed`; `myvlm relearn` keeps it in place.

    myvlm learn sks mug/*.jpg --category mug --captions mug/captions.json

    myvlm learn Anna photos-of-anna/ --category woman --kind face
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        identifier = check_identifier(identifier)
        check_category(category)
        files = inputs.picture_files(photos)
        written = inputs.captions_for(files, captions)
        pairs = inputs.questions_for(files, questions)
        others: list[Any] | None = inputs.picture_files(negatives) if negatives else None
        place = saving.check_destination(
            out, out_folder, identifier, category, kind, photos=keep_photos, face_consent=face_consent
        )
        texts = {"captions": written, "questions": pairs}
        given_texts = [name for name, text in texts.items() if text is not None]
        replaced = saving.note_replaced(out, saving.existing_record(place), place, backbone, given_texts)
        vlm = opening.open_model(out, backbone, device, dtype)
        given = {"steps": steps, "rows": rows, "seed": seed}
        start = monotonic()
        concept = vlm.learn(
            identifier,
            files,
            category=category,
            captions=written,
            questions=pairs,
            negatives=others,
            kind=kind,
            head_options={"encoder": encoder} if encoder else None,
            settings={name: value for name, value in given.items() if value is not None},
            progress=not quiet,
        )
        seconds = monotonic() - start
        kept = files if keep_photos else None
        save_and_report(
            out, concept, place, vlm.backbone.name, seconds,
            photos=kept, command="learn", face_consent=face_consent, replaced=replaced,
        )  # fmt: skip


def save_and_report(
    out: Screen,
    concept: Concept,
    place: Path | str,
    backbone: str,
    seconds: float,
    *,
    photos: Sequence[Path] | None,
    command: str,
    face_consent: bool = False,
    replaced: str = "",
) -> None:
    """Save a learned concept, with these photos beside it, and show the result.

    Args:
        replaced: see `saving.put`.

    Raises:
        KeyboardInterrupt: learning was stopped and the place has a concept already, which is kept.
        typer.Exit: learning was stopped; the best embedding so far is saved.
    """
    stopped = concept.embeddings[backbone].figures.get("interrupted", False)
    if stopped and saving.has_concept(place):
        raise KeyboardInterrupt(f"The concept in {place} is unchanged; the new one was not saved.")
    size = saving.save_concept(
        out, concept, place, photos=photos, face_consent=face_consent, replaced=replaced
    )
    out.show(*_report(concept, place, size, backbone, seconds, command))
    if stopped:
        raise typer.Exit(STOPPED)


def _report(
    concept: Concept, place: Path | str, size: int, backbone: str, seconds: float, command: str
) -> tuple[dict[str, Any], Text]:
    """Return the report on a learned and saved concept: as a JSON document, and as text."""
    figures = concept.embeddings[backbone].figures
    stopped = figures.get("interrupted", False)
    use = shlex.join(["--concepts", str(place), *options.backbone_option(backbone)])
    head_figures = concept.head.state()[0].figures
    document = {
        "command": command,
        "identifier": concept.identifier,
        "category": concept.category,
        "kind": concept.kind,
        "folder": str(place),
        "backbone": backbone,
        "seconds": round(seconds, 2),
        "bytes": size,
        "captions": concept.recipe.get("captions"),
        "captions_by": concept.recipe.get("captions_by"),
        "interrupted": stopped,
        "figures": figures,
        "head_figures": head_figures,
    }
    summary = Text.assemble(
        (
            f"Stopped after {figures['steps']} steps; the best embedding so far was saved.\n"
            if stopped
            else "",
            "yellow",
        ),
        ("Learned ", ""),
        (concept.identifier, "bold magenta"),
        f" in {seconds:.0f} s: {place} ({size / 1024:.0f} KiB)\n",
        _left_out_note(head_figures),
        _review_captions_note(concept, place),
        (f"Next: myvlm caption PICTURE {use}", "dim"),
    )
    return document, summary


def _left_out_note(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Say in how many photos the head finds the object if it is learned from the others; with the style."""
    count = int(figures.get("photos", 0))
    if count < 2 or "left_out_found" not in figures:
        return "", ""
    found = round(figures["left_out_found"] * count)
    more = "" if found == count else ", so new photos may be missed too: give more of them, or clearer ones"
    style = "" if found == count else "yellow"
    return f"Left out in turn, {found} of {count} photos are recognized by the others{more}.\n", style


def _review_captions_note(concept: Concept, place: Path | str) -> str:
    """Return a hint to review the captions if the model wrote them itself."""
    if concept.recipe["captions_by"] != "model":
        return ""
    return (
        f"The model wrote the captions itself: read them in {place}/{CARD}, or pass your own (--captions).\n"
    )
