"""`myvlm album`: show an album in one page; write, erase or import the names in its photos' metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from myvlm.cli import importing, inputs, opening, options, tables
from myvlm.cli.screen import Screen, screen
from myvlm.concepts import collection
from myvlm.concepts.remote.address import local_path
from myvlm.errors import InputError
from myvlm.files.writing import check_place
from myvlm.speaking.batches import AT_ONCE

if TYPE_CHECKING:
    from myvlm.album.journal import Journal, Row
    from myvlm.album.names import NameResult
    from myvlm.album.page import AlbumFiles, ShownConcept
    from myvlm.api import MyVLM


class Into(StrEnum):
    """Where names are written: into sidecar files or into the photos."""

    sidecars = "sidecars"
    files = "files"


def album(
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTOS...", help="Folders (with subfolders), files or patterns."),
    ],
    concepts: options.ConceptFolders = None,
    report: Annotated[
        Path,
        typer.Option(metavar="FILE.html", help="HTML page to write; thumbnails go into a folder beside it."),
    ] = Path("album.html"),
    write_names: Annotated[
        bool,
        typer.Option("--write-names", help="Write detected names into the photos' metadata, with exiftool."),
    ] = False,
    into: Annotated[
        Into,
        typer.Option(help="Where to write names: sidecars (IMG.jpg.xmp) or the photo files."),
    ] = Into.sidecars,
    captions: Annotated[
        bool,
        typer.Option(
            "--captions", help="Also write captions to photos without a description, or erase them."
        ),
    ] = False,
    erase_names: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Erase exactly what was written of this name. Repeat the option for more."
        ),
    ] = None,
    import_names: Annotated[
        bool,
        typer.Option("--import-names", help="Learn concepts from the named regions in the photos' metadata."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Import only this name. Repeat the option for more."),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WORD",
            help="Category of an imported name, such as Bo=dog. Repeat the option for more.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help=r"Write a table, DIR/album.parquet, not a page; needs myvlm\[ray]."
        ),
    ] = None,
    workers: Annotated[
        options.Workers,
        typer.Option(help="With --out. local: this process; ray: a Ray cluster (RAY_ADDRESS)."),
    ] = options.Workers.local,
    prompt: Annotated[str | None, typer.Option(help="Instruction in place of the model's own.")] = None,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    batch: Annotated[int, typer.Option(min=1, max=AT_ONCE, help="Pictures per batch.")] = 8,
    false_names: options.FalseNames = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Describe each photo of an album, with the concepts in it, in a page with search and filters.

    Results are kept beside the page: if the command is stopped, run it again to continue. It reads only
    photos that are new or have changed. A photo that cannot be read is shown with the reason.

    myvlm album holiday/ --concepts concepts --report holiday.html --write-names

    myvlm album holiday/ --erase-names sks

    myvlm album holiday/ --import-names --concepts concepts --category Bo=dog

    myvlm album holiday/ --concepts concepts --out holiday --workers ray
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        if sum((write_names, bool(erase_names), import_names)) > 1:
            raise InputError(
                "Names are written, erased or imported, one at a time.",
                got="several of --write-names, --erase-names and --import-names",
                expected="one of them",
                fix="run the command once for each",
            )
        on_ray = workers is options.Workers.ray
        if table or on_ray:
            tables.check_table_options(
                table, on_ray=on_ray, of_names=write_names or bool(erase_names) or import_names
            )
        files = inputs.album_files(photos)
        if write_names or erase_names or import_names:
            from myvlm.album.exiftool import check_exiftool

            check_exiftool()
        if erase_names:
            return _erase_names(out, files, erase_names, captions)
        if import_names:
            import_request = importing.ImportRequest(
                collection.single_or_default(
                    [local_path(one, "folder of concepts") for one in concepts or ()]
                ),
                only or (),
                category or (),
            )
            return importing.learn_names(
                out, files, import_request, lambda: opening.open_model(out, backbone, device, dtype)
            )
        if not table:
            check_place(report, what="page", option="--report")
        folders = opening.chosen_folders(out, concepts)
        vlm = opening.open_model(out, backbone, device, dtype, false_names)
        with out.busy("loading concepts"):
            opening.add_concepts(out, vlm, folders)
        if table:
            precision = dtype.value if dtype else None
            request = tables.TableRequest(table, on_ray, backbone, device, precision, prompt, batch)
            return tables.read_into_table(out, vlm, files, request)
        _make_page(out, vlm, files, report, prompt, batch, into if write_names else None, captions)


def _make_page(
    out: Screen, vlm: MyVLM, files: Sequence[Path], report: Path, prompt: str | None, batch: int,
    into: Into | None, captions: bool,
) -> None:  # fmt: skip
    from myvlm.album.journal import Journal, reader_digest
    from myvlm.album.page import AlbumFiles, ShownConcept

    album_files = AlbumFiles(report)
    journal = Journal(album_files.journal, reader_digest(vlm, prompt))
    known = [ShownConcept(c.identifier, c.category, c.kind) for c in vlm.concepts.values()]
    read = _read_photos(out, vlm, files, journal, album_files, known, prompt, batch)
    rows = list(journal.rows(files))
    named = _write_names(out, rows, known, journal, into, captions) if into else None
    counts = Counter(one.name for row in rows for one in row.seen)
    broken = [row for row in rows if row.error]
    document = {
        "command": "album",
        "page": str(report),
        "backbone": vlm.backbone.name,
        "concepts": list(vlm.concepts),
        "photos": len(files),
        "read": read,
        "seen": dict(counts.most_common()),
        "unusable": [{"picture": str(row.file), "error": row.error} for row in broken],
        "written": named,
    }
    table = tables.counted(counts)
    summary = f"{report.resolve()}: {len(files):,} photos, {read:,} read now"
    summary += f", {len(broken):,} unreadable" if broken else ""
    summary += f"\nnames written to {named['changed']:,} photos" if named else ""
    out.show(document, *([table] if counts else []), Text(summary))


def _read_photos(
    out: Screen, vlm: MyVLM, files: Sequence[Path], journal: Journal, album_files: AlbumFiles,
    known: Sequence[ShownConcept], prompt: str | None, batch: int,
) -> int:  # fmt: skip
    """Read the photos not in the journal, write the page even if stopped, and return how many were read."""
    from myvlm.album.features import tidy_features
    from myvlm.album.reading import read_album, unread

    todo = unread(files, journal, album_files)
    if len(todo) < len(files):
        out.note(
            f"{len(files) - len(todo):,} of {len(files):,} photos are already read: {album_files.journal}"
        )
    title = files[0].parent.name if len({file.parent for file in files}) == 1 else "Album"
    read = 0
    try:
        with out.progress("reading photos", len(todo)) as bar:
            for row in read_album(vlm, todo, journal, album_files, prompt=prompt, batch=batch):
                read += 1
                bar.advance(bar.task_ids[0])
                if row.error:
                    out.note(f"skipped: {row.error}")
        journal.tidy()
        tidy_features(album_files, journal.files)
    finally:
        if any(True for _ in journal.rows(files)):
            album_files.write(list(journal.rows(files)), known, title=title or "Album")
            out.written.append(album_files.page)
        if read < len(todo):
            out.note(f"{read:,} of {len(todo):,} photos were read; run the same command again to continue.")
    return read


def _write_names(
    out: Screen,
    rows: Sequence[Row],
    known: Sequence[ShownConcept],
    journal: Journal,
    into: Into,
    captions: bool,
) -> dict[str, Any]:
    from myvlm.album.exiftool import exiftool
    from myvlm.album.names import write_names

    with exiftool() as tool:
        made = write_names(tool, rows, known, into=into.value, captions=captions)
        return _count_changes(out, "writing names", made, sum(not row.error for row in rows), journal)


def _erase_names(out: Screen, files: Sequence[Path], names: Sequence[str], captions: bool) -> None:
    from myvlm.album.exiftool import exiftool
    from myvlm.album.names import erase_names

    with exiftool() as tool:
        made = erase_names(tool, files, names, captions=captions)
        erased = _count_changes(out, "erasing names", made, len(files), None)
    summary = f"{', '.join(names)} erased from the metadata of {erased['changed']:,} of {len(files):,} photos"
    out.show({"command": "album", "erased": list(names), "photos": len(files), **erased}, Text(summary))


def _count_changes(
    out: Screen, what: str, made: Iterable[NameResult], total: int, journal: Journal | None
) -> dict[str, Any]:
    """Consume `made`, which changes photos one by one; report those that fail, and continue."""
    changed = 0
    with out.progress(what, total) as bar:
        for one in made:
            bar.advance(bar.task_ids[0])
            if one.error:
                out.fail(one.error)
            elif one.changed:
                changed += 1
                if journal:
                    journal.update_stamp(one.file)
    return {"changed": changed, "not_changed": out.failures}
