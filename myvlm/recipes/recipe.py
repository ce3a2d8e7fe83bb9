"""Read and validate a recipe file: the photos of each concept and how to learn it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myvlm.concepts.collection import default_folder
from myvlm.errors import ConceptExistsError, InputError
from myvlm.files.photos import picture_files
from myvlm.files.reading import read_json, read_text
from myvlm.learning.dataset import Lesson
from myvlm.learning.settings import as_settings
from myvlm.text import check_category, check_identifier, fold

_STRICT = ConfigDict(extra="forbid", frozen=True)


class Recipe(BaseModel):
    """One concept to learn: the arguments of `MyVLM.learn`, with pictures as paths.

    Attributes:
        identifier, category, kind: see `MyVLM.learn`.
        photos, negatives: files; in a recipe file, one or several paths, folders or patterns relative to it.
        captions, questions: see `MyVLM.learn`; in a recipe file, alternatively the path of a JSON file.
        encoder: image encoder of the head; by default the model's.
        settings: see `LearnSettings`.
    """

    model_config = _STRICT

    identifier: str
    category: str
    photos: list[str] = Field(min_length=1)
    captions: dict[str, str | list[str]] | list[str | list[str]] | None = None
    questions: dict[str, list[tuple[str, str]]] | list[tuple[str, str]] | None = None
    negatives: list[str] | None = None
    kind: str = "object"
    encoder: str | None = None
    settings: dict[str, Any] = {}

    @property
    def lesson(self) -> Lesson:
        """The arguments for `MyVLM.learn_many`."""
        return Lesson(
            self.identifier, self.photos, category=self.category, captions=self.captions,
            questions=self.questions, negatives=self.negatives, kind=self.kind,
            head_options={"encoder": self.encoder} if self.encoder else None, settings=self.settings,
        )  # fmt: skip

    def place(self, collection: Path) -> Path:
        """Folder of the concept in a collection."""
        return collection / default_folder(self.identifier, self.category).name

    def digest(self, backbone: str) -> str:
        """Hash of the recipe's content, the model's name and the bytes of its pictures."""
        content = self.model_dump(mode="json", exclude={"photos", "negatives"})
        digest = hashlib.sha256(json.dumps([backbone, content], sort_keys=True).encode())
        for pictures in (self.photos, self.negatives or []):
            for picture in pictures:
                digest.update(hashlib.sha256(Path(picture).read_bytes()).digest())
            digest.update(b"|")
        return digest.hexdigest()[:32]


OnUnusable: TypeAlias = Callable[[str, InputError], object]

_TEXT_FIELDS = ("captions", "questions")
_YAML_EXAMPLE = (
    "YAML such as\n              concepts:\n"
    "                - {identifier: sks, category: mug, photos: mug/*.jpg}"
)


class _RecipeFile(BaseModel):
    model_config = _STRICT

    concepts: list[dict[str, Any]] = Field(min_length=1)


def read_recipes(file: Path, *, on_unusable: OnUnusable | None = None) -> list[Recipe]:
    """Read the recipes of a YAML file, and validate all of them as far as possible without a model.

    Args:
        file: the YAML file.
        on_unusable: called with the identifier and the error of a recipe whose files are missing or
            unreadable; that recipe is skipped. Without a callback the error is raised.

    Raises:
        InputError, MissingFileError: the file is invalid, names missing files or unknown settings, or uses an
            identifier twice. The error says which recipe it is.
    """
    try:
        given = _RecipeFile.model_validate(yaml.safe_load(read_text(file))).concepts
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"The recipes of {file} cannot be read.",
            got=_error_text(error),
            expected=_YAML_EXAMPLE,
            fix="check the path and the YAML",
        ) from error
    texts = []
    for number, one in enumerate(given, start=1):
        with _errors_name_recipe(number, one):
            texts.append(_without_files(one))
    _check_identifiers_unique(texts)
    recipes = []
    for number, (one, recipe) in enumerate(zip(given, texts, strict=True), start=1):
        try:
            with _errors_name_recipe(number, one):
                recipes.append(_with_files(file.parent.resolve(), one, recipe))
        except InputError as error:
            if on_unusable is None:
                raise
            on_unusable(recipe.identifier, error)
    return recipes


def _without_files(content: dict[str, Any]) -> Recipe:
    """Validate a recipe's words and settings, leaving out captions and questions that are in files."""
    inside = {
        name: one for name, one in content.items() if not (name in _TEXT_FIELDS and isinstance(one, str))
    }
    for name in ("photos", "negatives"):
        if isinstance(inside.get(name), str):
            inside[name] = [inside[name]]
    recipe = Recipe.model_validate(inside)
    check_identifier(recipe.identifier)
    check_category(recipe.category)
    as_settings(recipe.settings)
    return recipe


def _with_files(folder: Path, content: dict[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with the paths of its picture files, and with captions and questions read from files."""
    found: dict[str, Any] = {
        name: [str(file) for one in sources for file in picture_files(folder / one)]
        for name, sources in (("photos", recipe.photos), ("negatives", recipe.negatives))
        if sources is not None
    }
    for name in _TEXT_FIELDS:
        if isinstance(content.get(name), str):
            found[name] = read_json(folder / content[name], expected='{"photo.jpg": ["a text", …], …}')
    return Recipe.model_validate({**recipe.model_dump(), **found})


@contextmanager
def _errors_name_recipe(number: int, content: dict[str, Any]) -> Iterator[None]:
    """Context manager: errors raised inside name the recipe of the file."""
    which = f"Recipe {number}, of {content.get('identifier')!r}, cannot be used"
    try:
        yield
    except InputError as error:
        kind, why = type(error), f"{which}: {error.what}"
        raise kind(why, got=error.got, expected=error.expected, fix=error.fix) from error
    except ValidationError as error:
        raise InputError(
            f"{which}.", got=_error_text(error), expected=_YAML_EXAMPLE, fix="correct it in the recipe file"
        ) from error


def _error_text(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"


def _check_identifiers_unique(recipes: list[Recipe]) -> None:
    taken: dict[str, str] = {}
    for recipe in recipes:
        if other := taken.get(fold(recipe.identifier)):
            raise ConceptExistsError(
                "Two recipes have the same identifier.",
                got=f"{other} and {recipe.identifier}",
                expected="a different identifier for each concept",
                fix="rename one of them",
            )
        taken[fold(recipe.identifier)] = recipe.identifier
