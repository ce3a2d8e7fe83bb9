"""`myvlm correct`: fit a concept's head to one more picture, which shows the concept or does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import screen
from myvlm.concepts import editing
from myvlm.concepts.remote.address import local_path
from myvlm.errors import InputError

if TYPE_CHECKING:
    from myvlm.boxes import Box


def correct(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="Picture file.")],
    identifier: Annotated[str, typer.Argument(metavar="NAME", help="Identifier of the concept.")],
    there: Annotated[
        bool | None, typer.Option("--there/--not-there", help="Whether the picture shows the concept.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the correction by this picture.")] = False,
    box: Annotated[
        str | None,
        typer.Option(metavar="L,T,R,B", help="Correct only this part of the picture, in pixels."),
    ] = None,
    concepts: options.ConceptFolders = None,
    device: options.DeviceOfHeads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell a concept's recogniser that the concept is, or is not, in a picture.

    The training photos are not needed, and the concept is still recognised in all of them. The output lists
    what changes, also for other concepts.

    myvlm correct desk.jpg sks --not-there
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        if (there is None) != undo:
            raise InputError(
                "The command does not say how to correct the concept.",
                got="--undo and --there or --not-there" if undo else "none of them",
                expected="one of --there, --not-there and --undo",
                fix="see myvlm correct --help",
            )
        [file] = _check_single(inputs.picture_files([picture]))
        part = _parse_box(box)
        from myvlm.concepts.concept import Concept
        from myvlm.concepts.library import ConceptLibrary

        with out.busy("loading concepts"):
            folders = [folder for folder, _ in opening.chosen_folders(out, _local_folders(concepts))]
            library = ConceptLibrary(
                (Concept.load(one, device=device or "cpu", lazy=True) for one in folders),
                device=device or "cpu",
            )
        concept = library[identifier]
        folder = concept.folder
        assert folder is not None, "it was loaded from there"
        editing.check_writable(folder)
        with out.busy("correcting"):
            correction = library.correct(file, identifier, present=None if undo else there, box=part)
        concept.save(folder)
        out.written.append(folder)
        document = {"command": "correct", **correction.document(), "folder": str(folder)}
        out.show(document, Text(str(correction)))


def _local_folders(places: list[str] | None) -> list[Path] | None:
    """Return the folders; raises for an address, to which a corrected concept could not be saved."""
    return None if places is None else [local_path(one, "folder of concepts") for one in places]


def _check_single(files: list[Path]) -> list[Path]:
    if len(files) > 1:
        raise InputError(
            "A correction takes one picture at a time.",
            got=f"{len(files)} pictures",
            expected="one picture",
            fix="run the command once for each picture",
        )
    return files


def _parse_box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(edge) for edge in text.replace(",", " ").split())
    except ValueError:
        raise InputError(
            "The value of --box is not a box.",
            got=repr(text),
            expected="four numbers, left,top,right,bottom, in pixels",
            fix="write it as in --box 10,20,110,120",
        ) from None
    return left, top, right, bottom
