"""Learning what recipes say: a concept at a time here, or one in each process of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from myvlm.api import MyVLM
from myvlm.concepts import collection
from myvlm.concepts.disk.storage import is_concept_folder, read_record
from myvlm.errors import ConceptExistsError, MyVLMError
from myvlm.recipes.recipe import Recipe
from myvlm.runtime.cluster import Columns, Stage, run_stages

DIGEST = "recipe_digest"
"""Under which a concept's recipe keeps that of the file of recipes."""


@dataclass(frozen=True)
class RecipeOutcome:
    """What became of a recipe: `error` says why nothing was learned, and is empty where something was."""

    identifier: str
    seconds: float = 0.0
    error: str = ""


Run: TypeAlias = Callable[[Sequence[Recipe]], Iterator[RecipeOutcome]]


def is_learned(recipe: Recipe, folder: Path, backbone: str) -> bool:
    """Whether the concept of this very recipe lies in the folder of concepts.

    Raises:
        ConceptExistsError: one of another recipe lies in its place, or has its word.
        NotWritableError, ConceptFileError: nothing can be written there.
    """
    place = recipe.place(folder)
    if not is_concept_folder(place):
        collection.check_can_write(place, recipe.identifier)
        return False
    record = read_record(place)
    if record.recipe.get(DIGEST) == recipe.digest(backbone):
        return True
    raise ConceptExistsError(
        f"{place} holds a concept that was learned from something else.",
        got=record.identifier,
        expected=f"nothing, or what this recipe of {recipe.identifier} gave",
        fix=f"myvlm concepts remove {record.identifier}, or name another folder with --concepts",
    )


def in_short(error: MyVLMError) -> str:
    """What an outcome says of an error."""
    return f"{error.what} {error.got or ''}".strip()


def learn(vlm: MyVLM, recipe: Recipe, folder: Path) -> RecipeOutcome:
    """Learn one concept and write its folder; what is wrong with it alone is said in the outcome.

    Raises:
        KeyboardInterrupt: it was stopped; nothing is written.
    """
    begun = monotonic()
    try:
        [concept] = vlm.with_concepts().learn_many([recipe.lesson], progress=False)
        if concept.embeddings[vlm.backbone.name].figures.get("interrupted"):
            raise KeyboardInterrupt
        concept.recipe[DIGEST] = recipe.digest(vlm.backbone.name)
        concept.save(recipe.place(folder))
    except MyVLMError as error:
        return RecipeOutcome(recipe.identifier, monotonic() - begun, in_short(error))
    return RecipeOutcome(recipe.identifier, monotonic() - begun)


@dataclass(frozen=True)
class RecipeWork:
    """What a process needs to learn: see `MyVLM.from_pretrained`; and where concepts go."""

    backbone: str
    device: str | None
    dtype: str | None
    folder: Path
    per_gpu: int = 1


def learn_here(vlm: MyVLM, folder: Path) -> Run:
    """One after the other in this process."""
    return lambda recipes: (learn(vlm, recipe, folder) for recipe in recipes)


def learn_on_ray(work: RecipeWork) -> Run:
    """One in each process of a cluster whose nodes see photos and the folder under the same paths.

    A concept of a node that is lost is learned again on another; one that was written is not.
    """

    def run(recipes: Sequence[Recipe]) -> Iterator[RecipeOutcome]:
        rows = [{"recipe": recipe.model_dump_json()} for recipe in recipes]
        stage = Stage(_learner, (work,), kinds={"seconds": "double"})
        on_gpus = work.device != "cpu"
        for columns in run_stages(rows, [stage], batch=1, use_gpus=on_gpus, per_gpu=work.per_gpu):
            for values in zip(columns["identifier"], columns["seconds"], columns["error"], strict=True):
                yield RecipeOutcome(*values)

    return run


def learn_all(recipes: Sequence[Recipe], run: Run) -> Iterator[RecipeOutcome]:
    """The outcome of each recipe, in any order and once; what a cluster has lost is learned again."""
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


def _learner(work: RecipeWork) -> Callable[[Columns], Columns]:
    vlm = MyVLM.from_pretrained(work.backbone, device=work.device, dtype=work.dtype)

    def learned(columns: Columns) -> Columns:
        recipes = [Recipe.model_validate_json(one) for one in columns["recipe"]]
        made = [
            RecipeOutcome(recipe.identifier)
            if is_learned(recipe, work.folder, vlm.backbone.name)  # by a process that was lost since
            else learn(vlm, recipe, work.folder)
            for recipe in recipes
        ]
        return {name: [getattr(one, name) for one in made] for name in ("identifier", "seconds", "error")}

    return learned
