"""The paper's tables: comparison with baselines, 1/2/4 photos, and the ablation, with intervals.

    python benchmarks/paper_tables.py --world tinyworld
    python benchmarks/paper_tables.py --backbone tinyworld/smollm2 --dtype bfloat16
    python benchmarks/paper_tables.py --backbone llava-hf/llava-1.5-7b-hf --data MyVLM/

Recall is the share of pictures with the subject whose caption has its name; all methods use the subject's
head. `f1` also counts false names in pictures without the subject, half of which show something similar; here
baselines have no head, since heads are part of this library. Half of tinyworld's test pictures of a subject
also show another object of its category; `right` is the share of these in which the name is used for the
right one, and the other is described as what it is. A killed run resumes where it stopped. The last line is
one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from myvlm.errors import InputError, UnknownBackboneError
from myvlm.evaluation.data.dataset import Dataset, read_dataset
from myvlm.evaluation.data.plan import DEFAULT, Plan, read_sweep
from myvlm.evaluation.methods.registry import Setting, known_methods, make_method
from myvlm.evaluation.metrics.intervals import Estimate, estimate
from myvlm.evaluation.metrics.text import MINILM, packaged_minilm
from myvlm.evaluation.protocol.run import Finished, ModelLoader, run
from myvlm.evaluation.report.page import page
from myvlm.evaluation.report.summary import Evaluation, evaluation_of, markdown
from myvlm.evaluation.report.tables import TableRow
from myvlm.tinyworld import FewShot, assets
from myvlm.tinyworld.dataset import TINYWORLD, users, write_dataset
from myvlm.tinyworld.said import told_apart
from myvlm.tinyworld.smollm2.english import SPOKEN_BY

console = Console(stderr=True)
Summary = dict[str, object]

OURS = "myvlm"
BASELINES = ("keyword", "llm", "text_prompt", "random")
ALONE = ("keyword_alone", "llm_alone", "text_prompt_alone")
"""Baselines without a head."""
UNTRAINED = ("introduced", "visual_memory")
"""Methods of this library without optimisation: a hint in the prompt, and the concept's own visual tokens."""
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
"""Variants of the ablation; each changes one setting."""
WORLD = ("tinyworld/llava", "tinyworld/blip2")


def main(
    world: Annotated[str | None, typer.Option(help="tinyworld: its own two backbones, its data.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A hub name or folder; one of the world brings its data.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your data; see `myvlm evaluate --help`.")] = None,
    subjects: Annotated[int, typer.Option(help="Of the world.")] = 4,
    splits: Annotated[int, typer.Option(help="Bootstrap splits.")] = 5,
    variant_splits: Annotated[int, typer.Option(help="Splits of the ablation.")] = 1,
    tests: Annotated[int, typer.Option(help="Unseen pictures a subject of the world.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    dtype: Annotated[
        str | None, typer.Option(help="The model's; bfloat16 is faster where the CPU has it.")
    ] = None,
    keep: Annotated[Path, typer.Option(help="Folder of finished runs.")] = Path("paper-tables"),
) -> None:
    """Measure, print the tables and, as the last line, one JSON object."""
    names = list(WORLD) if backbone is None else [backbone]
    if not fits(world, backbone, data):
        raise typer.BadParameter("give --world tinyworld, --backbone tinyworld/…, or --backbone and --data")
    if data:
        dataset, title, clip = read_dataset(data), data.name, "ViT-B-32@openai"
    else:
        sentences = names[0] in SPOKEN_BY
        place = keep / ("sentences" if sentences else "data")
        file = write_dataset(place, subjects=subjects, tests=tests, crowded=True, sentences=sentences)
        dataset, title, clip = read_dataset(file), "tinyworld", "tinyworld/clip"
    methods, notes = methods_here()
    plan = Plan(
        methods=methods, splits=splits, photos=(1, 2, 4), variants=read_sweep(SWEEP),
        variant_splits=variant_splits, most_absent=tests, boxes=False, clip=clip,
        sentences=MINILM if packaged_minilm() else None,
    )  # fmt: skip
    kits = [] if data else users(subjects=subjects, tests=tests)
    last = {}
    for name in names:
        short = name.removeprefix("tinyworld/")
        if not is_here(name, notes):
            last[short] = summary(None)
            continue
        finished = measure(ModelLoader(name, dtype=dtype), dataset, plan, keep, workers)
        found, rights = tabulate(name, dataset, plan, finished, title, keep), rights_of(finished, kits)
        last[short] = summary(found, rights)
        print(markdown(found))
        for method, right in rights.items():
            print(f"{method}: said of the right one of two in {right} of the pictures with both")
        (keep / f"{short.replace('/', '-')}.html").write_text(page(found), encoding="utf-8")
    for note in notes:
        print(note)
    print(json.dumps(last))


def fits(world: str | None, backbone: str | None, data: Path | None) -> bool:
    """Whether the options determine both a backbone and a data set."""
    if world is not None:
        return world == TINYWORLD and backbone is None and data is None
    return backbone is not None and (data is None) == backbone.startswith(f"{TINYWORLD}/")


def methods_here() -> tuple[tuple[str, ...], list[str]]:
    """The methods that work in this installation, ours first, and notes on those that do not."""
    here, notes, setting = [], [], Setting()
    for name in (OURS, *UNTRAINED, *BASELINES, *ALONE, *CONTROLS):
        try:
            if name not in known_methods():
                raise InputError(f"No method {name!r} is known.")
            make_method(name, setting)
            here.append(name)
        except InputError as error:
            notes.append(f"{name} was not measured: {error.what} {error.fix or ''}".strip())
    return tuple(here), notes


def is_here(backbone: str, notes: list[str]) -> bool:
    """Whether the weights of a tinyworld backbone are installed; if not, adds a note."""
    if not backbone.startswith("tinyworld/"):
        return True
    try:
        assets.path(backbone.removeprefix("tinyworld/"))
    except UnknownBackboneError as error:
        notes.append(f"{backbone} was not measured: {error.what}")
        return False
    return True


def measure(
    load_model: ModelLoader, dataset: Dataset, plan: Plan, keep: Path, workers: int
) -> list[Finished]:
    """Run all jobs of one backbone."""
    backbone = load_model.backbone
    with Progress(console=console) as bar:
        task = bar.add_task(backbone)
        return run(
            dataset, plan, load_model, keep=place_of(backbone, keep), backbone=backbone,
            workers=workers, on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip


def tabulate(
    backbone: str, dataset: Dataset, plan: Plan, finished: list[Finished], title: str, keep: Path
) -> Evaluation:
    pictures = place_of(backbone, keep) / "pictures"
    return evaluation_of(dataset, plan, finished, data=title, backbone=backbone, pictures=pictures)


def place_of(backbone: str, keep: Path) -> Path:
    return keep / backbone.replace("/", "-")


def rights_of(finished: Sequence[Finished], kits: Sequence[FewShot]) -> dict[str, Estimate]:
    """Method → share of pictures with another object of the subject's category in which the name is used for
    the right one; with the paper's number of photos and default settings."""
    by_name = {kit.identifier: kit for kit in kits}
    values: dict[str, dict[str, list[float]]] = {}
    for job, outcome in finished:
        kit = by_name.get(Path(outcome.present[0].file).parent.name) if outcome.present else None
        if kit is None or (job.photos, job.variant.name) != (4, DEFAULT):
            continue
        crowd = [one for one in outcome.present if one.file.stem.startswith("crowd-")]
        scenes = [kit.crowd[int(one.file.stem.split("-")[1])] for one in crowd]
        looks = {kit.identifier: kit.look}
        right = [
            told_apart(one.text, kit.identifier, scene, looks)
            for one, scene in zip(crowd, scenes, strict=True)
        ]
        values.setdefault(job.method, {}).setdefault(job.subject, []).append(sum(right) / len(right))
    return {method: estimate(by_subject) for method, by_subject in values.items()}


# ---------------------------------------------------------------- the last line


def summary(found: Evaluation | None, rights: Mapping[str, Estimate] = MappingProxyType({})) -> Summary:
    """The figures of the last line; None for those that were not measured."""
    rows = {row.label: row for row in found.tables[0].rows} if found else {}
    ablation = {row.label: row for table in found.tables[2:] for row in table.rows} if found else {}
    recalls = {name: figure(rows.get(name), "recall") for name in (OURS, *UNTRAINED, *BASELINES)}
    f1s = {name: figure(rows.get(name), "f1") for name in (OURS, *UNTRAINED, *ALONE, "random")}
    return {
        **compared("recall", recalls),
        "vqa_gain": difference(rows.get(OURS), rows.get("plain"), "vqa"),
        "captions_none_gap": difference(ablation.get("default"), ablation.get("captions=model"), "recall"),
        **compared("f1", f1s),
        **compared("right", {name: rights.get(name) for name in (OURS, *UNTRAINED, *BASELINES)}),
        "seconds": {
            name: round(taken.mean, 1)
            for name in (OURS, *UNTRAINED)
            if (taken := figure(rows.get(name), "learn_seconds"))
        },
    }


def compared(name: str, figures: Mapping[str, Estimate | None]) -> Summary:
    """Our figure and the baselines', with intervals, and the baselines whose intervals lie below ours."""
    keys = {method: name if method == OURS else f"{name}_{method}" for method in figures}
    ours = figures[OURS]
    return {
        **{key: round(one.mean, 4) if (one := figures[method]) else None for method, key in keys.items()},
        f"{name}_intervals": {
            key: [round(one.low, 4), round(one.high, 4)]
            for method, key in keys.items()
            if (one := figures[method])
        },
        f"{name}_above": [method for method, one in figures.items() if ours and one and ours.low > one.high],
    }


def figure(row: TableRow | None, name: str) -> Estimate | None:
    return row.figures.get(name) if row else None


def difference(left: TableRow | None, right: TableRow | None, name: str) -> float | None:
    one, other = figure(left, name), figure(right, name)
    return round(one.mean - other.mean, 4) if one and other else None


if __name__ == "__main__":
    command: Callable[..., None] = main
    typer.run(command)
