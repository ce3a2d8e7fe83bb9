"""`myvlm locate`: the box of a concept in one or more pictures, in pixels."""

from __future__ import annotations

from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import Screen, as_document, screen
from myvlm.errors import ImageError, InputError, MissingFileError, MyVLMError

if TYPE_CHECKING:
    from myvlm.api import MyVLM
    from myvlm.speaking.locating import Location


def locate(
    pictures: options.Pictures,
    identifier: Annotated[str, typer.Argument(metavar="NAME", help="Identifier of the concept.")],
    concepts: options.ConceptFolders = None,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    false_names: options.FalseNames = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the box of a concept in each picture: left, top, right, bottom in pixels.

    myvlm locate desk.jpg sks
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        if isfile(identifier):
            raise InputError(
                "The last argument is a file, not a concept.",
                got=repr(identifier),
                expected="myvlm locate PICTURE... NAME",
                fix="put the concept's identifier last",
            )
        files, folders = inputs.picture_files(pictures), opening.chosen_folders(out, concepts)
        vlm = opening.open_model(out, backbone, device, dtype, false_names)
        with out.busy("loading concepts"):
            opening.add_concepts(out, vlm, folders)
        call = {"command": "locate", "identifier": identifier, "backbone": vlm.backbone.name}
        found = ((file, _locate(out, vlm, file, identifier, alone=len(files) == 1)) for file in files)
        made = ((_document(*one), _cells(*one)) for one in found)
        out.show_each(call, ("picture", "left", "top", "right", "bottom", "source"), made, len(files))


def _locate(out: Screen, vlm: MyVLM, file: Path, identifier: str, *, alone: bool) -> Location | MyVLMError:
    """Locate a concept; for an unreadable picture, return the error, or raise it if `alone`."""
    try:
        return vlm.locate(file, identifier)
    except (ImageError, MissingFileError) as error:
        if alone:
            raise
        out.fail(error)
        return error


def _document(file: Path, found: Location | MyVLMError) -> dict[str, Any]:
    if isinstance(found, MyVLMError):
        return {"picture": str(file), "error": as_document(found)}
    box = [round(edge, 1) for edge in found.box] if found.box else None
    return {"picture": str(file), "box": box, "by": found.by, "said": found.said}


def _cells(file: Path, found: Location | MyVLMError) -> list[Text]:
    if isinstance(found, MyVLMError):
        edges, by = [""] * 4, Text(f"error: {found.what}", style="red")
    else:
        edges = [f"{edge:.0f}" for edge in found.box] if found.box else ["–"] * 4
        by = Text(found.by or "no box")
    return [Text(str(file)), *map(Text, edges), by]
