"""Learn a stored concept again for another model or other weights, from the recipe in its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from pydantic import ValidationError

from myvlm.backbones import Backbone
from myvlm.concepts.concept import FINGERPRINT_SEPARATOR, Concept
from myvlm.concepts.disk.storage import PHOTOS
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptFileError, InputError
from myvlm.heads import Head
from myvlm.heads.examples import Correctable
from myvlm.images import LoadedImage
from myvlm.learning.dataset import Captions, LoadedLesson, Questions
from myvlm.learning.optimise import learn_embeddings
from myvlm.learning.progress import ProgressOption, learning_progress
from myvlm.learning.settings import LearnSettings, Settings, default_settings
from myvlm.learning.teach import check_words, learn_request, learned_concept
from myvlm.text import replace_word

_log = logging.getLogger(__name__)


def as_in_library(concept: Concept | str | PathLike[str], library: ConceptLibrary) -> Concept:
    """Return the concept, in the form that the library has it if the library has loaded it.

    For a concept given by its folder or address that the library has loaded, the library's identifier and its
    possibly corrected head are used.

    Raises:
        MissingFileError, ConceptFileError: see `Concept.load`.
        ConceptExistsError: one of its words belongs to another concept in the library.
    """
    known = concept if isinstance(concept, Concept) else Concept.load(concept, device=library.device)
    for identifier, loaded in library.items():
        shared = {known.folder, known.url} & {loaded.folder, loaded.url} - {None}
        if loaded is known:
            return known
        if shared:
            shown = known.thumbnails or loaded.thumbnails
            return dataclasses.replace(known, identifier=identifier, head=loaded.head, thumbnails=shown)
    library.check_free(known.identifier, known.spoken)
    return known


def teach_again(
    backbone: Backbone,
    concept: Concept,
    photos: Sequence[LoadedImage],
    *,
    kept: bool,
    captions: Captions | None,
    questions: Questions | None,
    negatives: Sequence[LoadedImage] | None,
    settings: Settings | None,
    device: str,
    progress: ProgressOption,
) -> Concept:
    """Learn a concept on this backbone, and return it with the new embedding beside its others; see
    `MyVLM.relearn`.

    Args:
        kept: whether the photos are those that are stored with the concept.
        device: where the encoder of its head runs.
    """
    default = default_settings(backbone.name, family=backbone.family, kind=concept.kind)
    settings = settings or settings_again(concept, backbone.name, default)
    lesson = lesson_again(
        concept, photos, kept=kept, captions=captions, questions=questions, negatives=negatives,
        settings=settings,
    )  # fmt: skip
    check_words(backbone, lesson)
    request = learn_request(backbone, lesson)
    with learning_progress([lesson], [request], shown=progress) as report:
        head = head_again(concept, photos, lesson.negatives, device=device)
        [result] = learn_embeddings(backbone, [request], report=report)
    again = learned_concept(lesson, head, request, result, backbone)
    own_recipe = kept and captions is None and questions is None
    return learned_again(concept, backbone.name, again, own_recipe=own_recipe)


def lesson_again(
    concept: Concept,
    photos: Sequence[LoadedImage],
    *,
    kept: bool,
    captions: Captions | None,
    questions: Questions | None,
    negatives: Sequence[LoadedImage] | None,
    settings: Settings,
) -> LoadedLesson:
    """Return the lesson for learning a concept's original word again; arguments not given come from its
    recipe.

    Captions that a model wrote are not reused: the model that learns now writes its own.

    Args:
        kept: whether the photos are those of `kept_photos`, which are numbered in the recipe's order.

    Raises:
        InputError: the photos are not the recipe's, and no captions are given for them.
        ConceptFileError: the recipe was altered.
    """
    places = None if kept else _recipe_indices(concept, photos)
    own = _recipe_entries(concept, "captions") if concept.recipe.get("captions_by") != "model" else []
    written = _entries_at(own, places)
    if captions is None and written and len(written) != len(photos):
        raise _photo_mismatch_error(concept, len(photos), len(written))
    asked = _entries_at(_recipe_entries(concept, "questions"), places)
    return LoadedLesson(
        concept.spoken,
        photos,
        category=concept.category,
        captions=_with_learned_word(captions, concept) or written or None,
        questions=_with_learned_word(questions, concept) or (asked if len(asked) == len(photos) else None),
        negatives=negatives,
        kind=concept.kind,
        settings=settings,
    )


def settings_again(concept: Concept, backbone: str, default: LearnSettings) -> LearnSettings:
    """Return the settings for learning a concept again on a backbone.

    They are those it was learned with on the backbone of that name, if there are any. From another backbone
    only the number of rows and the seed are taken: learning rates and regularizer weights do not carry over
    between families.

    Raises:
        ConceptFileError: the settings in the folder are invalid.
    """
    own = [
        e for name, e in concept.embeddings.items() if name.partition(FINGERPRINT_SEPARATOR)[0] == backbone
    ]
    stored = dict((own or list(concept.embeddings.values()))[0].settings) if concept.embeddings else {}
    taken = LearnSettings.model_fields if own else ("rows", "seed")
    try:
        return LearnSettings.model_validate(
            default.model_dump() | {name: value for name, value in stored.items() if name in taken}
        )
    except ValidationError as error:
        raise _altered_recipe_error(concept, f"settings: {error.errors()[0]['msg']}") from error


def head_again(
    concept: Concept, photos: Sequence[LoadedImage], negatives: Sequence[LoadedImage] | None, *, device: str
) -> Head:
    """Return the concept's head, fitted again to the photos if its encoder has other weights now.

    A head from an older file that lacks its training examples gets them, so that it can be corrected.

    Raises:
        MyVLMError: its encoder is not available.
    """
    try:
        concept.head.score(photos[:1])
        if isinstance(concept.head, Correctable) and concept.head.examples_ is None:
            return concept.head.remembering(photos, negatives)
        return concept.head
    except ConceptFileError as error:
        _log.warning("Refitting the head of %r: %s", concept.identifier, error.what)
    meta, tensors = concept.head.state()
    head = type(concept.head).from_state(meta, tensors, device=device)
    return head.fit(photos, negatives, category=concept.category)


def learned_again(concept: Concept, backbone: str, again: Concept, *, own_recipe: bool) -> Concept:
    """Return the concept with the new embedding added to those that it had.

    Args:
        again: the concept that the lesson gave.
        own_recipe: whether only the concept's own recipe and photos were used. The recipe is then kept, with
            missing entries added: an introduced concept has no captions, for example.
    """
    known = concept.with_embedding(backbone, again.embeddings[backbone])
    recipe = {**again.recipe, **concept.recipe} if own_recipe else again.recipe
    thumbnails = known.thumbnails or again.thumbnails
    return dataclasses.replace(known, head=again.head, recipe=dict(recipe), thumbnails=thumbnails)


def kept_photos(concept: Concept) -> str:
    """Return the folder of the photos that are stored with a concept. Raises InputError if there are none."""
    kept = concept.folder / PHOTOS if concept.folder else None
    if kept is not None and kept.is_dir() and any(kept.iterdir()):
        return str(kept)
    names = ", ".join(_recipe_photo_names(concept)[:5]) or "3 to 5 photos of it"
    where = repr(str(concept.folder)) if concept.folder else f"vlm.concepts[{concept.identifier!r}]"
    raise InputError(
        f"{concept.identifier!r} was saved without its photos.",
        got=f"no photos in {concept.folder}" if concept.folder else "a concept in memory",
        expected=names,
        fix=f"pass them: vlm.relearn({where}, images=[...]), or `myvlm relearn FOLDER PHOTOS`",
    )


def _recipe_indices(concept: Concept, photos: Sequence[LoadedImage]) -> list[int] | None:
    """For each photo the index of its recipe entry, by file name; None if the names do not identify every
    photo."""
    names = _recipe_photo_names(concept)
    shown = [photo.file_name for photo in photos]
    distinct = all(len(set(some)) == len(some) for some in (names, shown))
    return [names.index(name) for name in shown] if distinct and set(shown) <= set(names) else None


def _recipe_photo_names(concept: Concept) -> list[str]:
    names = concept.recipe.get("photos")
    return [str(name) for name in names] if isinstance(names, list) else []  # older recipes hold their number


def _recipe_entries(concept: Concept, what: str) -> list[list[Any]]:
    entries = concept.recipe.get(what, [])
    if not isinstance(entries, list) or not all(isinstance(one, list) for one in entries):
        raise _altered_recipe_error(concept, f"recipe: {what} {str(entries)[:60]!r}")
    return entries


def _entries_at(entries: list[list[Any]], places: Sequence[int] | None) -> list[list[Any]]:
    """The entries with these indices; all entries, in order, if no indices are known."""
    if places is None or not entries or max(places) >= len(entries):
        return entries
    return [entries[place] for place in places]


def _with_learned_word(texts: Any, concept: Concept) -> Any:
    """The user's texts, in whatever lists, with the word the concept was learned with in place of its
    identifier."""
    if isinstance(texts, str):
        return replace_word(texts, concept.identifier, concept.spoken)
    if isinstance(texts, Mapping):
        return {name: _with_learned_word(own, concept) for name, own in texts.items()}
    holds = isinstance(texts, Iterable) and not isinstance(texts, bytes)
    return [_with_learned_word(one, concept) for one in texts] if holds else texts


def _photo_mismatch_error(concept: Concept, photos: int, captions: int) -> InputError:
    return InputError(
        f"The captions that {concept.identifier!r} was learned from belong to other photos.",
        got=f"{photos} photo{'s' * (photos != 1)}, and captions of {captions} in the recipe",
        expected=", ".join(_recipe_photo_names(concept)[:5]) or f"{captions} photos",
        fix="pass captions (--captions) of these photos, or the photos that it was learned from; "
        "to have the model write captions, use `learn` instead",
    )


def _altered_recipe_error(concept: Concept, got: str) -> ConceptFileError:
    return ConceptFileError(
        f"The recipe of {concept.identifier!r} is invalid.",
        got=got,
        expected="settings, captions and questions as written by this library",
        fix="pass captions=, questions= and settings=, or use an unaltered copy of the folder",
    )
