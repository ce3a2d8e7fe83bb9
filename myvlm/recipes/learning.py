"""Learn the concepts of a recipe file: one at a time in this process, or one per process of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from myvlm.api import MyVLM
from myvlm.concepts import editing
from myvlm.concepts.collection import command
from myvlm.concepts.disk.storage import is_concept_folder, read_record
from myvlm.errors import ConceptExistsError, MyVLMError
from myvlm.learning.teach import check_not_interrupted
from myvlm.recipes.recipe import Recipe
from myvlm.runtime.cluster import Columns, Stage, run_stages

DIGEST_KEY = "recipe_digest"
"""Key of a concept's `recipe` that holds the digest of the `Recipe` it was learned from."""


@dataclass(frozen=True)
class RecipeOutcome:
    """Result of learning a recipe: why it failed and how to fix it, both empty if the concept was learned."""

    identifier: str
    seconds: float = 0.0
    error: str = ""
    fix: str = ""


OUTCOME_COLUMNS = tuple(one.name for one in fields(RecipeOutcome))
Run: TypeAlias = Callable[[Sequence[Recipe]], Iterator[RecipeOutcome]]


def is_learned(recipe: Recipe, folder: Path, backbone: str) -> bool:
    """Whether the folder of concepts contains the concept learned from exactly this recipe.

    Raises:
        ConceptExistsError: its place, or its identifier, is taken by a concept from something else.
        NotWritableError, ConceptFileError: the concept cannot be written there.
    """
    place = recipe.place(folder)
    if not is_concept_folder(place):
        editing.check_can_write(place, recipe.identifier)
        return False
    record = read_record(place)
    if record.recipe.get(DIGEST_KEY) == recipe.digest(backbone):
        return True
    raise ConceptExistsError(
        f"{place} contains a concept that was not learned from this recipe.",
        got=record.identifier,
        expected=f"no concept, or the one learned from this recipe of {recipe.identifier}",
        fix=f"{command('remove', record.identifier, folder)}, or pass another folder with --concepts",
    )


def learn(vlm: MyVLM, recipe: Recipe, folder: Path) -> RecipeOutcome:
    """Learn one concept and write its folder; a `MyVLMError` is reported in the outcome, not raised.

    Raises:
        KeyboardInterrupt: learning was stopped; nothing is written.
    """
    begun = monotonic()
    try:
        [concept] = vlm.with_concepts().learn_many([recipe.lesson], progress=False)
        check_not_interrupted(concept)
        concept.recipe[DIGEST_KEY] = recipe.digest(vlm.backbone.name)
        concept.save(recipe.place(folder))
    except MyVLMError as error:
        return RecipeOutcome(recipe.identifier, monotonic() - begun, error.short, error.fix or "")
    return RecipeOutcome(recipe.identifier, monotonic() - begun)


@dataclass(frozen=True)
class RecipeWork:
    """What a worker process needs to learn concepts.

    Attributes:
        backbone, device, dtype: see `MyVLM.from_pretrained`.
        folder: where concepts are written.
        per_gpu: number of processes that share a GPU.
    """

    backbone: str
    device: str | None
    dtype: str | None
    folder: Path
    per_gpu: int = 1


def learn_here(vlm: MyVLM, folder: Path) -> Run:
    """Learn concepts one after the other in this process."""
    return lambda recipes: (learn(vlm, recipe, folder) for recipe in recipes)


def learn_on_ray(work: RecipeWork) -> Run:
    """Learn one concept in each process of a Ray cluster.

    All nodes must see the photos and the folder under the same paths. If a node is lost, its unfinished
    concepts are learned again on another; those that were written are not.
    """

    def run(recipes: Sequence[Recipe]) -> Iterator[RecipeOutcome]:
        rows = [{"recipe": recipe.model_dump_json()} for recipe in recipes]
        stage = Stage(_make_learner, (work,), kinds={"seconds": "double"})
        on_gpus = work.device != "cpu"
        for columns in run_stages(rows, [stage], batch=1, use_gpus=on_gpus, per_gpu=work.per_gpu):
            for values in zip(*(columns[name] for name in OUTCOME_COLUMNS), strict=True):
                yield RecipeOutcome(*values)

    return run


def learn_all(recipes: Sequence[Recipe], run: Run) -> Iterator[RecipeOutcome]:
    """Yield the outcome of each recipe once, in any order; recipes that a cluster lost are run again."""
    left = {recipe.identifier: recipe for recipe in recipes}
    while left:
        before = len(left)
        for outcome in run(list(left.values())):
            if left.pop(outcome.identifier, None):
                yield outcome
        if len(left) == before:
            for identifier in left:
                yield RecipeOutcome(identifier, error="The processes that learned it were lost.")
            return


def _make_learner(work: RecipeWork) -> Callable[[Columns], Columns]:
    vlm = MyVLM.from_pretrained(work.backbone, device=work.device, dtype=work.dtype)

    def learned(columns: Columns) -> Columns:
        recipes = [Recipe.model_validate_json(one) for one in columns["recipe"]]
        made = [
            RecipeOutcome(recipe.identifier)
            if is_learned(recipe, work.folder, vlm.backbone.name)  # by a process that has since been lost
            else learn(vlm, recipe, work.folder)
            for recipe in recipes
        ]
        return {name: [getattr(one, name) for one in made] for name in OUTCOME_COLUMNS}

    return learned
