"""What a file of recipes says: of each concept its photos and how it is learned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myvlm.concepts.collection import place_for
from myvlm.errors import ConceptExistsError, InputError, MyVLMError
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
        return collection / place_for(self.identifier, self.category).name

    def digest(self, backbone: str) -> str:
        """Of all that is said here, of the model's name and of what its pictures hold."""
        content = self.model_dump(mode="json", exclude={"photos", "negatives"})
        digest = hashlib.sha256(json.dumps([backbone, content], sort_keys=True).encode())
        for pictures in (self.photos, self.negatives or []):
            for picture in pictures:
                digest.update(hashlib.sha256(Path(picture).read_bytes()).digest())
            digest.update(b"|")
        return digest.hexdigest()[:32]


class _File(BaseModel):
    model_config = _STRICT

    concepts: list[dict[str, Any]] = Field(min_length=1)


def read_recipes(file: Path) -> list[Recipe]:
    """The recipes of a YAML file, all of them checked as far as that goes without a model.

    Raises:
        InputError, MissingFileError: it is no such file, names pictures that are not there or settings that
            are none, or calls two concepts alike.
    """
    try:
        given = _File.model_validate(yaml.safe_load(read_text(file))).concepts
        recipes = [_recipe(file.parent.resolve(), one) for one in given]
    except MyVLMError:
        raise
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"The recipes of {file} cannot be read.",
            got=_wrong(error),
            expected="YAML such as\n              concepts:\n"
            "                - {identifier: sks, category: mug, photos: mug/*.jpg}",
            fix="check the path and the text",
        ) from error
    _check_words(recipes)
    return recipes


def _recipe(folder: Path, content: dict[str, Any]) -> Recipe:
    found = dict(content)
    for name in ("photos", "negatives"):
        if isinstance(found.get(name), str):
            found[name] = [found[name]]
    for name in ("captions", "questions"):
        if isinstance(found.get(name), str):
            found[name] = read_json(folder / found[name], expected='{"photo.jpg": ["a text", …], …}')
    recipe = Recipe.model_validate(found)
    check_identifier(recipe.identifier)
    check_category(recipe.category)
    as_settings(recipe.settings)
    pictures = {
        name: [str(file) for one in sources for file in picture_files(folder / one)]
        for name, sources in (("photos", recipe.photos), ("negatives", recipe.negatives))
        if sources is not None
    }
    return recipe.model_copy(update=pictures)


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
