"""What a file of recipes says: of each concept its photos and how it is learned."""

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
    """One concept to learn: what `MyVLM.learn` is given, pictures by their paths.

    Attributes:
        identifier, category, kind: see `MyVLM.learn`.
        photos, negatives: files; in a file of recipes one or several paths, folders or patterns beside it.
        captions, questions: see `MyVLM.learn`; in a file of recipes a JSON file with them will do.
        encoder: of the head; the model's default where not given.
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
        """What is learned."""
        return Lesson(
            self.identifier, self.photos, category=self.category, captions=self.captions,
            questions=self.questions, negatives=self.negatives, kind=self.kind,
            head_options={"encoder": self.encoder} if self.encoder else None, settings=self.settings,
        )  # fmt: skip

    def place(self, collection: Path) -> Path:
        """Its folder."""
        return collection / default_folder(self.identifier, self.category).name

    def digest(self, backbone: str) -> str:
        """Of all that is said here, of the model's name and of what its pictures hold."""
        content = self.model_dump(mode="json", exclude={"photos", "negatives"})
        digest = hashlib.sha256(json.dumps([backbone, content], sort_keys=True).encode())
        for pictures in (self.photos, self.negatives or []):
            for picture in pictures:
                digest.update(hashlib.sha256(Path(picture).read_bytes()).digest())
            digest.update(b"|")
        return digest.hexdigest()[:32]


OnUnusable: TypeAlias = Callable[[str, InputError], object]

_TEXTS = ("captions", "questions")
_SAMPLE = (
    "YAML such as\n              concepts:\n"
    "                - {identifier: sks, category: mug, photos: mug/*.jpg}"
)


class _File(BaseModel):
    model_config = _STRICT

    concepts: list[dict[str, Any]] = Field(min_length=1)


def read_recipes(file: Path, *, on_unusable: OnUnusable | None = None) -> list[Recipe]:
    """The recipes of a YAML file, all of them checked as far as that goes without a model.

    Args:
        file: to read.
        on_unusable: given the identifier of a recipe that names files which are not there or cannot be read,
            and the error; the others go on. Where there is no such function the error is raised.

    Raises:
        InputError, MissingFileError: it is no such file, names files that are not there or settings that
            are none, or calls two concepts alike. The error says which recipe it is.
    """
    try:
        given = _File.model_validate(yaml.safe_load(read_text(file))).concepts
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"The recipes of {file} cannot be read.",
            got=_wrong(error),
            expected=_SAMPLE,
            fix="check the path and the text",
        ) from error
    texts = []
    for number, one in enumerate(given, start=1):
        with _naming(number, one):
            texts.append(_as_written(one))
    _check_words(texts)
    recipes = []
    for number, (one, recipe) in enumerate(zip(given, texts, strict=True), start=1):
        try:
            with _naming(number, one):
                recipes.append(_with_files(file.parent.resolve(), one, recipe))
        except InputError as error:
            if on_unusable is None:
                raise
            on_unusable(recipe.identifier, error)
    return recipes


def _as_written(content: dict[str, Any]) -> Recipe:
    """A recipe without what lies in files, its words and settings checked."""
    inside = {name: one for name, one in content.items() if not (name in _TEXTS and isinstance(one, str))}
    for name in ("photos", "negatives"):
        if isinstance(inside.get(name), str):
            inside[name] = [inside[name]]
    recipe = Recipe.model_validate(inside)
    check_identifier(recipe.identifier)
    check_category(recipe.category)
    as_settings(recipe.settings)
    return recipe


def _with_files(folder: Path, content: dict[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with its pictures found, and what it says in files of text."""
    found: dict[str, Any] = {
        name: [str(file) for one in sources for file in picture_files(folder / one)]
        for name, sources in (("photos", recipe.photos), ("negatives", recipe.negatives))
        if sources is not None
    }
    for name in _TEXTS:
        if isinstance(content.get(name), str):
            found[name] = read_json(folder / content[name], expected='{"photo.jpg": ["a text", …], …}')
    return Recipe.model_validate({**recipe.model_dump(), **found})


@contextmanager
def _naming(number: int, content: dict[str, Any]) -> Iterator[None]:
    """Within it an error says of which recipe of the file it is."""
    which = f"Recipe {number}, of {content.get('identifier')!r}, cannot be used"
    try:
        yield
    except InputError as error:
        kind, why = type(error), f"{which}: {error.what}"
        raise kind(why, got=error.got, expected=error.expected, fix=error.fix) from error
    except ValidationError as error:
        raise InputError(
            f"{which}.", got=_wrong(error), expected=_SAMPLE, fix="mend it in the file of recipes"
        ) from error


def _wrong(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"


def _check_words(recipes: list[Recipe]) -> None:
    taken: dict[str, str] = {}
    for recipe in recipes:
        if other := taken.get(fold(recipe.identifier)):
            raise ConceptExistsError(
                "Two recipes are of one word.",
                got=f"{other} and {recipe.identifier}",
                expected="a word for each concept",
                fix="call one of them otherwise",
            )
        taken[fold(recipe.identifier)] = recipe.identifier
