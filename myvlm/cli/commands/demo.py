"""`myvlm demo`: learn one concept from four pictures and write a page with the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from myvlm.cli.opening import open_model
from myvlm.cli.options import DEFAULT_BACKBONE, AsJson, Quiet
from myvlm.cli.screen import screen
from myvlm.files.reading import absolute
from myvlm.files.writing import check_place


def demo(
    out_file: Annotated[Path, typer.Option("--out", "-o", help="HTML page to write.")] = Path(
        "myvlm-demo.html"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Random seed; each seed is another concept.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn a concept from four pictures, caption new pictures, and write a page with the results.

    Runs offline on a CPU in about a minute, with the small models and pictures that the package contains.
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        check_place(out_file, what="page", option="--out")
        vlm = open_model(out, DEFAULT_BACKBONE, None, None)
        from myvlm.tinyworld.demo.run import run_demo

        found = run_demo(out_file, seed=seed, vlm=vlm, progress=not quiet, notify=out.note)
        out.written.append(out_file)
        figures, name = found.figures, found.identifier
        table = Table.grid(padding=(0, 2))
        table.add_row(f"{name} named in pictures with it", str(figures.said))
        table.add_row(f"{name} named in pictures without it", str(figures.said_wrongly))
        table.add_row(
            "output identical to the plain model's where it is not detected", str(figures.plain_identical)
        )
        table.add_row("seconds to learn", f"{figures.learn_seconds:.1f}")
        table.add_row("page", Text(str(absolute(out_file)), style="bold"))
        document = {
            "command": "demo",
            "identifier": name,
            "category": found.category,
            "seed": seed,
            "page": str(absolute(out_file)),
            **figures.as_document(),
        }
        out.show(document, table)
