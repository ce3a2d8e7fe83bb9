"""`myvlm relearn`: learn for one model a concept that was learned for another."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from myvlm.cli import inputs, opening, options
from myvlm.cli.commands.concepts import learn
from myvlm.cli.screen import screen
from myvlm.concepts import editing


def relearn(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the concept.")],
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PHOTOS...]", help="Photos, if the folder does not hold them."),
    ] = None,
    captions: options.CaptionsAgain = None,
    negatives: options.Negatives = None,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    keep_photos: options.KeepPhotos = False,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a concept again for this model, with the settings in the concept's folder.

    The folder's captions (unless you pass others), questions and recogniser are used; embeddings for other
    models stay in it. Ctrl-C leaves the folder unchanged.

    myvlm relearn concepts/sks-mug mug/*.jpg --backbone llava-hf/llava-1.5-7b-hf
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        from myvlm.concepts.concept import Concept
        from myvlm.learning.relearn import kept_photos

        files = inputs.picture_files(photos) if photos else None
        others = inputs.picture_files(negatives) if negatives else None
        known = Concept.load(folder)  # fails before the model is loaded if it cannot be read
        kept = files or inputs.picture_files([kept_photos(known)])
        written = inputs.captions_for(kept, captions)
        editing.check_writable(folder)
        vlm = opening.open_model(out, backbone, device, dtype)
        start = monotonic()
        # Pass the folder, not `known`: loaded again (in a millisecond), the head is on the model's device.
        concept = vlm.relearn(folder, files, captions=written, negatives=others, progress=not quiet)
        seconds = monotonic() - start
        beside = files if keep_photos else None
        learn.save_and_report(
            out, concept, folder, vlm.backbone.name, seconds, photos=beside, command="relearn"
        )
