"""`myvlm completeness`: estimate from a labelled sample how many of a concept's photos its head detects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import Screen, screen
from myvlm.concepts import editing
from myvlm.errors import ImageError, InputError
from myvlm.files.reading import read_json
from myvlm.files.writing import atomic_file

if TYPE_CHECKING:
    from myvlm.concepts.concept import Concept
    from myvlm.heads import HeadScore

app = typer.Typer(
    no_args_is_help=True, help="Estimate how many photos show a concept, from a sample that you label."
)


@app.command()
def draw(
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTOS...", help="Folders (with subfolders), files or patterns."),
    ],
    identifier: Annotated[str, typer.Argument(metavar="NAME", help="Identifier of the concept.")],
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE.json", help="File to write the sample to.")
    ],
    labels: Annotated[int, typer.Option(min=1, help="Number of photos to label.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    concepts: options.ConceptFolders = None,
    device: options.DeviceOfHeads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Score all photos of an album and draw a sample for you to label: fill in true or false for each.

    myvlm completeness draw album Bo --out bo.json
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        files = inputs.album_files(photos)
        editing.check_writable(out_file)
        from myvlm.evaluation.completeness import STRATA, draw_sample

        concept = _load_concept(out, concepts, identifier, device)
        known, scores = _score_pictures(out, concept, files)
        sample = draw_sample(scores, labels=labels, seed=seed)
        document = {
            "identifier": concept.identifier,
            "album": dict(zip(STRATA, sample.sizes, strict=True)),
            "photos": {
                str(known[n]): {"part": STRATA[part], "shows": None} for n, part in sample.drawn.items()
            },
        }
        with atomic_file(out_file) as fresh:
            fresh.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        out.written.append(out_file)
        summary = (
            f"{len(sample.drawn)} of {len(known)} photos are in {out_file}. Set "
            f'"shows" to true or false, in order, then run `myvlm completeness count {out_file}`.'
        )
        out.show({"command": "completeness draw", "sample": str(out_file), **document}, Text(summary))


@app.command()
def count(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="The labelled sample.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Estimate the figures for the whole album from your labels of the sample.

    myvlm completeness count bo.json
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        from myvlm.evaluation.completeness import STRATA, AlbumSample, completeness

        document = _read_sample(file)
        photos = list(document["photos"].values())
        sizes = tuple(document["album"][part] for part in STRATA)
        sample = AlbumSample(sizes, {n: STRATA.index(one["part"]) for n, one in enumerate(photos)})
        answers = {n: one["shows"] for n, one in enumerate(photos) if one["shows"] is not None}
        found = completeness(sample, answers)
        name = document["identifier"]
        out.show(
            {
                "command": "completeness count",
                "identifier": name,
                **vars(found),
                "recall": round(found.recall, 4),
            },
            Text(f"{found.of(name)}; {found.labelled} of {found.album} photos labelled."),
        )


def _load_concept(out: Screen, folders: list[str] | None, identifier: str, device: str | None) -> Concept:
    from myvlm.concepts.concept import Concept
    from myvlm.concepts.library import ConceptLibrary

    with out.busy("loading concepts"):
        found = [folder for folder, _ in opening.chosen_folders(out, folders)]
        loaded = (Concept.load(one, device=device or "cpu", lazy=True) for one in found)
        return ConceptLibrary(loaded, device=device or "cpu")[identifier]


def _score_pictures(
    out: Screen, concept: Concept, files: Sequence[Path]
) -> tuple[list[Path], list[HeadScore]]:
    """Return the readable pictures and the head's score of each; a note names each unreadable picture."""
    known: list[Path] = []
    scores: list[HeadScore] = []
    with out.progress("scoring photos", len(files)) as bar:
        for file in files:
            try:
                scores += concept.head.score(str(file))
                known.append(file)
            except ImageError as error:
                out.note(f"skipped: {error.what}")
            bar.advance(bar.task_ids[0])
    return known, scores


def _read_sample(file: Path) -> dict[str, Any]:
    """Read a sample. Raises InputError if the file is no sample, or a label is not true, false or null."""
    from myvlm.evaluation.completeness import STRATA

    expected = 'a file of `myvlm completeness draw`, with true or false after "shows"'
    document = read_json(file, expected=expected)
    try:
        whole = all(isinstance(document["album"][part], int) for part in STRATA) and document["photos"]
        wrong = [
            name
            for name, one in document["photos"].items()
            if one["part"] not in STRATA or not isinstance(one["shows"], bool | None)
        ]
        str(document["identifier"])
    except (KeyError, TypeError, AttributeError):
        whole, wrong = False, []
    if not whole or wrong:
        raise InputError(
            f"{file} is not a sample of an album.",
            got=f"{wrong[0]}: {document['photos'][wrong[0]]}" if wrong else "other JSON",
            expected=expected,
            fix="fill in true, false or null, and change nothing else",
        )
    read: dict[str, Any] = document
    return read
