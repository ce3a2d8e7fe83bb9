"""The paper's tables: recall beside the baselines, 1/2/4 photos, the ablation; each figure with its interval.

    python benchmarks/paper_tables.py --world tinyworld
    python benchmarks/paper_tables.py --backbone llava-hf/llava-1.5-7b-hf --data MyVLM/

A killed run goes on where it stopped. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from myvlm.errors import InputError, UnknownBackboneError
from myvlm.evaluation.data import Dataset, read_dataset
from myvlm.evaluation.intervals import Estimate
from myvlm.evaluation.methods import known_methods, make_method
from myvlm.evaluation.plan import Plan, read_sweep
from myvlm.evaluation.report import Evaluation, evaluation_of, markdown
from myvlm.evaluation.report_page import page
from myvlm.evaluation.running import Opening, run
from myvlm.evaluation.tables import Row
from myvlm.evaluation.text_metrics import MINILM, packaged_minilm
from myvlm.evaluation.worlds import lay_out
from myvlm.tinyworld import assets

console = Console(stderr=True)

OURS = "myvlm"
BASELINES = ("keyword", "llm", "text_prompt", "random")
CONTROLS = ("plain", "own_word", "another")
SWEEP = (
    "regularizer=0",
    "norm=none",
    "augment=true,false",
    "start=random",
    "rows=1,4",
    "steps=50",
    "captions=model",
)
"""What the ablation changes, one thing at a time."""
WORLD = ("tinyworld/llava", "tinyworld/blip2")


def main(
    world: Annotated[str | None, typer.Option(help="tinyworld: both of its backbones, its own data.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A hub name or folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Your data; see `myvlm evaluate --help`.")] = None,
    subjects: Annotated[int, typer.Option(help="Of the world.")] = 4,
    splits: Annotated[int, typer.Option(help="Bootstrap splits.")] = 5,
    variant_splits: Annotated[int, typer.Option(help="Splits of the ablation.")] = 1,
    tests: Annotated[int, typer.Option(help="Unseen pictures a subject of the world.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    keep: Annotated[Path, typer.Option(help="Folder of finished runs.")] = Path("paper-tables"),
) -> None:
    """Measure, print the tables, and last one JSON object."""
    if (world == "tinyworld") == (backbone is not None and data is not None):
        raise typer.BadParameter("give --world tinyworld, or both --backbone and --data")
    if backbone and data:
        names, dataset, title, clip = [backbone], read_dataset(data), data.name, "ViT-B-32@openai"
    else:
        file = lay_out(keep / "data", subjects=subjects, tests=tests)
        names, dataset, title, clip = list(WORLD), read_dataset(file), "tinyworld", "tinyworld/clip"
    methods, notes = methods_here()
    plan = Plan(
        methods=methods, splits=splits, photos=(1, 2, 4), variants=read_sweep(SWEEP),
        variant_splits=variant_splits, most_absent=tests, boxes=False, clip=clip,
        sentences=MINILM if packaged_minilm() else None,
    )  # fmt: skip
    last = {}
    for name in names:
        short = name.removeprefix("tinyworld/")
        found = measure(name, dataset, plan, title, keep, workers) if is_here(name, notes) else None
        last[short] = summary(found)
        if found:
            print(markdown(found))
            (keep / f"{short.replace('/', '-')}.html").write_text(page(found), encoding="utf-8")
    for note in notes:
        print(note)
    print(json.dumps(last))


def methods_here() -> tuple[tuple[str, ...], list[str]]:
    """The methods that can be had in this installation, ours first; and what is said of the others."""
    here, notes = [], []
    for name in (OURS, *BASELINES, *CONTROLS):
        try:
            if name not in known_methods():
                raise InputError(f"No method {name!r} is known.")
            make_method(name)
            here.append(name)
        except InputError as error:
            notes.append(f"{name} was not measured: {error.what} {error.fix or ''}".strip())
    return tuple(here), notes


def is_here(backbone: str, notes: list[str]) -> bool:
    """Whether a backbone of the world has weights."""
    if not backbone.startswith("tinyworld/"):
        return True
    try:
        assets.path(backbone.removeprefix("tinyworld/"))
    except UnknownBackboneError as error:
        notes.append(f"{backbone} was not measured: {error.what}")
        return False
    return True


def measure(
    backbone: str, dataset: Dataset, plan: Plan, title: str, keep: Path, workers: int
) -> Evaluation:  # fmt: skip
    """All jobs of one backbone."""
    place = keep / backbone.replace("/", "-")
    with Progress(console=console) as bar:
        task = bar.add_task(backbone)
        finished = run(
            dataset, plan, Opening(backbone), keep=place, backbone=backbone, workers=workers,
            told=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    return evaluation_of(
        dataset, plan, finished, data=title, backbone=backbone, pictures=place / "pictures"
    )  # fmt: skip


# ---------------------------------------------------------------- the last line


def summary(found: Evaluation | None) -> dict[str, object]:
    """The figures of the last line; null where something was not measured."""
    rows = {row.label: row for row in found.tables[0].rows} if found else {}
    ablation = {row.label: row for table in found.tables[2:] for row in table.rows} if found else {}
    recalls = {f"recall_{name}": figure(rows.get(name), "recall") for name in BASELINES}
    ours = figure(rows.get(OURS), "recall")
    return {
        "recall": mean(ours),
        **{name: mean(one) for name, one in recalls.items()},
        "vqa_gain": difference(rows.get(OURS), rows.get("plain"), "vqa"),
        "captions_none_gap": difference(ablation.get("default"), ablation.get("captions=model"), "recall"),
        "intervals": {
            name: [round(one.low, 4), round(one.high, 4)]
            for name, one in {"recall": ours, **recalls}.items()
            if one
        },
        "above_all": above(ours, list(recalls.values())),
    }


def figure(row: Row | None, name: str) -> Estimate | None:
    return row.figures.get(name) if row else None


def mean(one: Estimate | None) -> float | None:
    return round(one.mean, 4) if one else None


def difference(left: Row | None, right: Row | None, name: str) -> float | None:
    one, other = figure(left, name), figure(right, name)
    return round(one.mean - other.mean, 4) if one and other else None


def above(ours: Estimate | None, others: Sequence[Estimate | None]) -> bool | None:
    """Whether our interval lies above those of all baselines that were measured."""
    measured = [one for one in others if one]
    return all(ours.low > one.high for one in measured) if ours and measured else None


if __name__ == "__main__":
    command: Callable[..., None] = main
    typer.run(command)
