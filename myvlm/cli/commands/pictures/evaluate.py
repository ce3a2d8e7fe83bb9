"""`myvlm evaluate`: run the paper's evaluation on a data set on disk; print tables and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as RichTable
from rich.text import Text

from myvlm.cli import opening, options
from myvlm.cli.screen import screen
from myvlm.concepts import editing
from myvlm.errors import InputError
from myvlm.files.writing import check_place, write_atomically

if TYPE_CHECKING:
    from myvlm.evaluation.report.summary import Evaluation
    from myvlm.evaluation.report.tables import Table

ON_SCREEN = ("recall", "said_absent", "precision", "f1", "head_weighted", "vqa", "leakage", "plain_identical")
"""Figures shown in the terminal, as many as fit; the reports and --json have all."""


def _check_counts(given: str) -> str:
    if not all(one.isdecimal() and int(one) for one in given.split(",")):
        raise typer.BadParameter(f"{given!r} is not a list of positive integers such as 1,2,4.")
    return given


def evaluate(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder, manifest.json, or tinyworld.")],
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    methods: Annotated[str, typer.Option(metavar="A,B…", help="Methods to compare, or all.")] = "myvlm,plain",
    splits: Annotated[int, typer.Option(min=1, help="Number of bootstrap splits.")] = 5,
    photos: Annotated[
        str,
        typer.Option(
            metavar="N,N…", callback=_check_counts, help="Numbers of training photos, such as 1,2,4."
        ),
    ] = "4",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=V,V…", help="Ablation, such as regularizer=0,0.03. Repeat the option for more."
        ),
    ] = None,
    sweep_file: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Ablations in a YAML file.")
    ] = None,
    tests: Annotated[int | None, typer.Option(min=1, help="Maximum number of test photos per split.")] = None,
    absent: Annotated[int, typer.Option(min=0, help="Maximum number of pictures without the subject.")] = 20,
    clip: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model for CLIPScore, such as ViT-B-32@openai.")
    ] = None,
    sentences: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model for sentence similarity, such as all-MiniLM-L6-v2."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html|.md", help="Report to write at the end.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of finished runs, from which a stopped evaluation continues. "
            "Default: one for each data set and options, in myvlm-evaluation.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; on a CPU, one per core.")] = 1,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate concepts by the paper's protocol: splits, baselines, controls, confidence intervals.

    DATA is a folder with one folder per subject (pictures and captions.json), Yo'LLaVA's data, a manifest,
    or tinyworld.

    myvlm evaluate MyVLM/ --backbone llava-hf/llava-1.5-7b-hf --photos 1,2,4 --report out.html
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        _check_report(report)
        place = keep or Path("myvlm-evaluation")
        editing.check_writable(place / "runs")
        with out.busy("reading the data"):
            from myvlm.evaluation.data.dataset import read_dataset
            from myvlm.evaluation.data.plan import Plan, read_sweep
            from myvlm.evaluation.methods.registry import Setting, known_methods, make_method
            from myvlm.evaluation.protocol.journal import evaluation_digest
            from myvlm.evaluation.protocol.run import ModelLoader, check, run
            from myvlm.evaluation.report.summary import evaluation_of
            from myvlm.tinyworld.dataset import TINYWORLD, write_dataset
            from myvlm.tinyworld.smollm2.english import SPOKEN_BY

            world = data == TINYWORLD
            dataset = read_dataset(
                write_dataset(place / "data", sentences=backbone in SPOKEN_BY) if world else data
            )
        names = known_methods() if methods == "all" else methods.split(",")
        setting = Setting()
        for name in names:
            make_method(name, setting)  # report an unknown method now, not after the first hour
        plan = Plan(
            methods=tuple(names), splits=splits, photos=tuple(map(int, photos.split(","))),
            variants=read_sweep(sweep or (), sweep_file), most_tests=tests, most_absent=absent,
            clip=clip, sentences=sentences,
        )  # fmt: skip
        runs = place / backbone.replace("/", "-")
        if keep is None:  # else the runs of an evaluation with other options would be in the way
            runs = runs.with_name(f"{runs.name}-{evaluation_digest(dataset, plan, backbone)}")
        check(dataset, plan, keep=runs, backbone=backbone)
        in_process = ModelLoader(backbone, device, dtype.value if dtype else None)
        vlm = None if workers > 1 else opening.open_model(out, backbone, device, dtype)
        with out.progress("runs", 1) as bar:
            finished = run(
                dataset, plan, in_process if vlm is None else lambda: vlm,
                keep=runs, backbone=backbone, workers=workers,
                on_progress=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total),
            )  # fmt: skip
        found = evaluation_of(
            dataset, plan, finished, data=Path(data).name, backbone=backbone, pictures=runs / "pictures"
        )
        if report:
            _write_report(report, found)
            out.written.append(report)
        for note in found.notes:
            out.note(note)
        tables = [_table(table) for table in found.tables]
        told = [Text(f"report: {report}", style="bold")] if report else []
        out.show({"command": "evaluate", **found.as_document()}, *tables, *told)


def _table(table: Table) -> RichTable:
    columns = [name for name in ON_SCREEN if name in table.columns]
    shown = RichTable(table.first, *columns, title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(row.label, *(str(row.figures.get(name, "–")) for name in columns))
    return shown


def _check_report(report: Path | None) -> None:
    """Raise before the first run if the report cannot be written."""
    if report is None:
        return
    if report.suffix not in (".html", ".md"):
        raise InputError(
            f"{report} cannot be the name of the report.",
            got=report.suffix or "no ending",
            expected="a file that ends in .html or .md",
            fix="choose a name such as out.html",
        )
    check_place(report, what="report", option="--report")


def _write_report(report: Path, found: Evaluation) -> None:
    from myvlm.evaluation.report.page import page
    from myvlm.evaluation.report.summary import markdown

    text = markdown(found) if report.suffix == ".md" else page(found)
    write_atomically(report, text, what="report", option="--report")
