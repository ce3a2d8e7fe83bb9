"""`myvlm concepts`: list, show, add, push, rename and remove the concepts of a collection on disk."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from myvlm.cli import opening
from myvlm.cli.options import AsJson, Collection, FaceConsent, Quiet
from myvlm.cli.screen import Screen, screen
from myvlm.concepts import collection as disk
from myvlm.concepts import editing
from myvlm.concepts.remote.address import path_or_url
from myvlm.errors import InputError

app = typer.Typer(
    no_args_is_help=True, help="Manage the concepts on disk: list, show, add, push, rename, remove."
)

Identifier = Annotated[str, typer.Argument(help="Identifier of the concept.")]


@app.command("list")
def show_all(collection: Collection = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the concepts of a collection."""
    with screen(as_json=as_json, quiet=quiet) as out:
        place, display_name = _collection_to_read(out, collection)
        known, damaged = disk.read(place)
        if display_name == str(place):  # a copy cannot be repaired
            disk.notify_of_damaged(place, out.note, damaged)
        table = Table("identifier", "category", "kind", "learned for", "folder", box=None, pad_edge=False)
        for entry in known:
            record = entry.record
            models = ", ".join(record.embeddings) or "no model"
            table.add_row(
                *map(
                    Text,
                    (
                        record.identifier,
                        record.category,
                        record.kind,
                        models,
                        _displayed(entry.folder, place, display_name),
                    ),
                )
            )
        for folder in damaged:
            table.add_row(
                "–", "–", Text("damaged", style="red"), "–", Text(_displayed(folder, place, display_name))
            )
        document = {
            "collection": display_name,
            "concepts": [_summary(entry, place, display_name) for entry in known],
            "damaged": [
                {
                    "folder": _displayed(folder, place, display_name),
                    "what": _displayed(wrong, place, display_name),
                }
                for folder, wrong in damaged.items()
            ],
        }
        out.show(document, table if known or damaged else Text(f"There are no concepts in {display_name}."))


@app.command("show")
def show_one(
    identifier: Identifier, collection: Collection = None, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Show everything a concept's folder records, and check that the folder is complete."""
    with screen(as_json=as_json, quiet=quiet) as out:
        place, display_name = _collection_to_read(out, collection)
        if display_name == str(place):
            disk.notify_of_damaged(place, out.note)
        entry = disk.find(place, identifier)
        editing.load_checked(entry.folder)
        record = entry.record
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_row("identifier", Text(record.identifier, style="bold magenta"))
        if record.spoken != record.identifier:
            table.add_row("learned as", Text(record.spoken))
        table.add_row("category", Text(record.category))
        table.add_row("folder", Text(_displayed(entry.folder, place, display_name)))
        table.add_row("head", Text(f"{record.kind}, {record.head.meta.encoder}"))
        for name, one in record.embeddings.items():
            table.add_row("learned for", Text(f"{name}: {one.rows} × {one.dim}, norm {one.norm}"))
            table.add_row("figures", Text(_format_figures(one.figures)))
        table.add_row("head figures", Text(_format_figures(record.head.meta.figures)))
        out.show({**_summary(entry, place, display_name), "record": record.model_dump(mode="json")}, table)


@app.command()
def add(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDERS...", help="Concept folders, or addresses such as hf://….")
    ],
    collection: Collection = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy concept folders into a collection, which is created if it does not exist."""
    with screen(as_json=as_json, quiet=quiet) as out:
        place = opening.local_collection(collection) or disk.DEFAULT
        disk.notify_of_damaged(place, out.note)
        added = []
        for folder in folders:
            found = path_or_url(folder, "folder of a concept")
            for one in (
                [found] if isinstance(found, Path) else [copy for copy, _ in opening.fetch_copies(out, found)]
            ):
                added.append(editing.add(place, one))
                out.written.append(added[-1].folder)
        summary = Text("\n").join(Text(f"Added {one.identifier}: {one.folder}") for one in added)
        out.show({"added": [_summary(one) for one in added]}, summary)


@app.command()
def push(
    identifier: Identifier,
    address: Annotated[str, typer.Argument(help="hf://USER/REPOSITORY, s3://BUCKET/NAME …")],
    collection: Collection = None,
    face_consent: FaceConsent = False,
    public: Annotated[bool, typer.Option("--public", help="Make the hub repository public.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a concept to an address: the Hugging Face Hub, S3, or another that fsspec knows."""
    with screen(as_json=as_json, quiet=quiet) as out:
        place = path_or_url(address, "address")
        if isinstance(place, Path):
            raise InputError(
                "The destination is not an address.",
                got=address,
                expected="hf://user/repository, s3://bucket/name or another that fsspec knows",
                fix="to copy it to a folder, run: myvlm concepts add FOLDER --concepts DIR",
            )
        concept = editing.load_checked(disk.find(_collection_to_change(out, collection), identifier).folder)
        with out.busy(f"uploading to {place}"):
            if place.startswith("hf://"):
                concept.push_to_hub(place, private=not public, face_consent=face_consent)
            else:
                concept.save(place, face_consent=face_consent)
        out.written.append(place)
        out.show(
            {"pushed": concept.identifier, "address": place},
            Text(f"{concept.identifier} was uploaded to {place}."),
        )


@app.command()
def rename(
    identifier: Identifier,
    new: Annotated[str, typer.Argument(help="New identifier.")],
    collection: Collection = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change a concept's identifier; nothing is learned again, and its folder keeps its name."""
    with screen(as_json=as_json, quiet=quiet) as out:
        entry = editing.rename(_collection_to_change(out, collection), identifier, new)
        out.written.append(entry.folder)
        out.show({"renamed": identifier, **_summary(entry)}, Text(f"{identifier} is now called {new}."))


@app.command()
def remove(
    identifier: Identifier,
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete it permanently and verify that it is gone.")
    ] = False,
    collection: Collection = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove a concept from a collection: move it to the .removed folder, or erase it permanently."""
    with screen(as_json=as_json, quiet=quiet) as out:
        place = _collection_to_change(out, collection)
        if erase:
            gone = editing.erase(place, identifier)
            summary = f"Erased {identifier}: {', '.join(map(str, gone))}"
            out.show({"erased": identifier, "folders": [str(one) for one in gone]}, Text(summary))
        else:
            aside = editing.remove(place, identifier)
            back = disk.command("add", str(aside), place)
            summary = f"Removed {identifier}; it is in {aside}. To restore it: {back}"
            out.show({"removed": identifier, "folder": str(aside)}, Text(summary))


def _collection_to_read(out: Screen, collection: str | None) -> tuple[Path, str]:
    """Return the folder of a collection to read, a copy if it is at an address, and its displayed name."""
    place = disk.DEFAULT if collection is None else path_or_url(collection, "folder of concepts")
    if isinstance(place, Path):
        return _existing(None if collection is None else place), str(place)
    return opening.fetch_copies(out, place)[0][0].parent, place


def _displayed(what: Path | str, place: Path, display_name: str) -> str:
    """Return a path or message as text in which a copy's folder is replaced by its address."""
    return str(what).replace(str(place), display_name, 1) if display_name != str(place) else str(what)


def _collection_to_change(out: Screen, collection: str | None) -> Path:
    """Return the chosen collection, with a note about each damaged concept in it."""
    place = _existing(opening.local_collection(collection))
    disk.notify_of_damaged(place, out.note)
    return place


def _existing(collection: Path | None) -> Path:
    """Return the folder of a collection. Raises MissingFileError or InputError if it is not one."""
    from myvlm.concepts.disk.storage import is_concept_folder

    place = disk.existing_or_default(collection)
    if is_concept_folder(place):
        raise InputError(
            f"{place} is a single concept.",
            got="a folder with a concept.json",
            expected="a folder of concept folders",
            fix=f"pass its parent folder: --concepts {shlex.quote(str(place.absolute().parent))}",
        )
    return place


def _summary(entry: disk.Entry, place: Path | None = None, display_name: str = "") -> dict[str, Any]:
    record = entry.record
    return {
        "identifier": record.identifier,
        "spoken": record.spoken,
        "category": record.category,
        "kind": record.kind,
        "backbones": list(record.embeddings),
        "folder": str(entry.folder) if place is None else _displayed(entry.folder, place, display_name),
    }


def _format_figures(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )
