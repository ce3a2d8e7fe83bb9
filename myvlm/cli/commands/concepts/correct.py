"""`myvlm correct`: tell a concept's head that the concept is, or is not, in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import screen
from myvlm.concepts import collection
from myvlm.concepts.remote.address import local_path
from myvlm.errors import InputError

if TYPE_CHECKING:
    from myvlm.boxes import Box


def correct(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="The picture.")],
    identifier: Annotated[str, typer.Argument(metavar="NAME", help="Identifier of the concept.")],
    there: Annotated[
        bool | None, typer.Option("--there/--not-there", help="Whether the picture shows it.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take back what was said of the picture.")] = False,
    box: Annotated[
        str | None,
        typer.Option(metavar="L,T,R,B", help="In pixels: say it of this part of the picture alone."),
    ] = None,
    concepts: options.ConceptFolders = None,
    device: options.Device = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell a concept's recogniser that the concept is, or is not, in a picture.

    Its training photos are not needed, and it is still recognised in all of them. The output says what
    changes, for other concepts too.

    myvlm correct desk.jpg sks --not-there
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        if (there is None) != undo:
            raise InputError(
                "What is to be said of the picture?",
                got="--undo and --there or --not-there" if undo else "none of them",
                expected="one of --there, --not-there and --undo",
                fix="myvlm correct --help",
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
        collection.check_writable(folder)
        with out.busy("looking"):
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
            "A concept is corrected by one picture at a time.",
            got=f"{len(files)} pictures",
            expected="one picture",
            fix="call the command for each of them",
        )
    return files


def _parse_box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(edge) for edge in text.replace(",", " ").split())
    except ValueError:
        raise InputError(
            "That is no box.",
            got=repr(text),
            expected="four numbers, left,top,right,bottom, in pixels",
            fix="such as --box 10,20,110,120",
        ) from None
    return left, top, right, bottom
