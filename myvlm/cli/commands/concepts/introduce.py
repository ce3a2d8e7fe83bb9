"""`myvlm introduce`: make a concept with a head and a description but no embedding, usable by any model."""

from __future__ import annotations

import shlex
from time import monotonic
from typing import Annotated, Any

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options, saving
from myvlm.cli.screen import screen
from myvlm.text import check_category, check_identifier


def introduce(
    identifier: options.Identifier,
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTOS...", help="1 to 5 photos: files, a folder or patterns.")
    ],
    category: options.Category,
    description: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='Such as "the dotted purple mug". Default: written by the model.'),
    ] = None,
    negatives: options.Negatives = None,
    kind: options.Kind = "object",
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help=options.ENCODER_HELP)] = None,
    out_folder: options.OutFolder = None,
    face_consent: options.FaceConsent = False,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    keep_photos: options.KeepPhotos = False,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Introduce a concept at once, with a recogniser and a description; no embedding is learned.

    It works with every model: replies are in the model's own words, with the name inserted. `myvlm relearn`
    and `myvlm learn` replace it with a learned concept. It never replaces a learned concept.

    myvlm introduce sks mug/*.jpg --category mug
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        identifier = check_identifier(identifier)
        check_category(category)
        files = inputs.picture_files(photos)
        others: list[Any] | None = inputs.picture_files(negatives) if negatives else None
        place = saving.check_destination(
            out, out_folder, identifier, category, kind, photos=keep_photos, face_consent=face_consent
        )
        existing = saving.existing_record(place)
        saving.check_not_learned(existing, place, identifier)
        replaced = saving.note_replaced(out, existing, place)
        vlm = opening.open_model(out, backbone, device, dtype)
        start = monotonic()
        concept = vlm.introduce(
            identifier, files, category=category, description=description, negatives=others, kind=kind,
            head_options={"encoder": encoder} if encoder else None,
        )  # fmt: skip
        seconds = monotonic() - start
        kept = files if keep_photos else None
        saving.save_concept(out, concept, place, photos=kept, face_consent=face_consent, replaced=replaced)
        document = {
            "command": "introduce",
            "identifier": concept.identifier,
            "category": concept.category,
            "kind": concept.kind,
            "description": concept.description,
            "folder": str(place),
            "backbone": vlm.backbone.name,
            "seconds": round(seconds, 2),
        }
        use = shlex.join(["--concepts", str(place), *options.backbone_option(vlm.backbone.name)])
        summary = Text.assemble(
            "Introduced ", (concept.identifier, "bold magenta"),
            f" as {concept.description} in {seconds:.0f} s: {place}\n",
            (f"Next: myvlm caption PICTURE {use}", "dim"),
        )  # fmt: skip
        out.show(document, summary)
