"""`myvlm learn-all`: learn all concepts of a recipe file into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from myvlm.cli import opening, options
from myvlm.cli.screen import Screen, screen
from myvlm.concepts import collection
from myvlm.errors import InputError, MyVLMError
from myvlm.runtime.cluster import check_ray

if TYPE_CHECKING:
    from myvlm.recipes.learning import RecipeOutcome, Run


def learn_all(
    recipes: Annotated[
        Path, typer.Argument(metavar="RECIPES.yaml", help="File with a recipe for each concept.")
    ],
    concepts: options.Collection = None,
    workers: Annotated[
        options.Workers, typer.Option(help="local: this process; ray: a Ray cluster (RAY_ADDRESS).")
    ] = options.Workers.local,
    per_gpu: Annotated[int, typer.Option(min=1, help="On a cluster: processes per GPU.")] = 1,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn many concepts; run it again to continue after a stop. A failed concept does not stop the others.

    A file with an error, such as an unknown setting, is rejected before any concept is learned.

    RECIPES.yaml: concepts: [{identifier: sks, category: mug, photos: mug/*.jpg, captions: mug/captions.json}]

    myvlm learn-all recipes.yaml --concepts concepts --workers ray
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        if workers is options.Workers.ray:
            check_ray("Learning on a cluster")
        from myvlm.recipes.learning import (
            RecipeOutcome,
            is_learned,
            learn_all,
            learn_here,
            learn_on_ray,
        )
        from myvlm.recipes.recipe import Recipe, read_recipes

        learned, failed = list[dict[str, Any]](), list[dict[str, str]]()

        def report(outcome: RecipeOutcome) -> None:
            failed.append({"identifier": outcome.identifier, "error": outcome.error})
            _report_failure(out, outcome)

        def fail(identifier: str, error: MyVLMError) -> None:
            report(RecipeOutcome(identifier, error=error.short, fix=error.fix or ""))

        all_recipes = read_recipes(recipes, on_unusable=fail)
        folder = (opening.local_collection(concepts) or collection.DEFAULT).resolve()
        name = _absolute_backbone(backbone)
        known, todo = list[Recipe](), list[Recipe]()
        for one in all_recipes:
            try:
                (known if is_learned(one, folder, name) else todo).append(one)
            except MyVLMError as error:
                fail(one.identifier, error)
        if known:
            out.note(f"{len(known):,} of {len(all_recipes):,} concepts are already learned: {folder}")
        run: Run
        if workers is options.Workers.ray:
            from myvlm.recipes.learning import RecipeWork

            run = learn_on_ray(RecipeWork(name, device, dtype.value if dtype else None, folder, per_gpu))
        elif todo:
            run = learn_here(opening.open_model(out, name, device, dtype), folder)
        with out.progress("learning", len(todo)) as bar:
            for outcome in learn_all(todo, run) if todo else ():
                bar.advance(bar.task_ids[0])
                if outcome.error:
                    report(outcome)
                else:
                    learned.append({"identifier": outcome.identifier, "seconds": round(outcome.seconds, 2)})
                    out.written.append(folder)
        document = {
            "command": "learn-all",
            "folder": str(folder),
            "backbone": name,
            "learned": learned,
            "known": [one.identifier for one in known],
            "failed": failed,
        }
        table = Table("concept", "seconds", box=None, pad_edge=False)
        for row in learned:
            table.add_row(Text(row["identifier"], style="bold magenta"), f"{row['seconds']:.0f}")
        summary = f"{folder}: {len(learned):,} learned now, {len(known):,} before, {len(failed):,} failed"
        out.show(document, *([table] if learned else []), Text(summary))


def _absolute_backbone(backbone: str) -> str:
    """Return a model's name, or the absolute path of its folder, which other processes can resolve."""
    return str(Path(backbone).resolve()) if Path(backbone).is_dir() else backbone


def _report_failure(out: Screen, outcome: RecipeOutcome) -> None:
    out.fail(
        InputError(
            f"{outcome.identifier} was not learned.",
            got=outcome.error,
            expected="a recipe that can be learned",
            fix=f"{outcome.fix or 'fix the recipe'}; then run the command again",
        )
    )
