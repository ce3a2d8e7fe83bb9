"""Turn lessons into concepts: fit their heads, and learn their embeddings or store a description.

This joins a head and a backbone for learning, as `Speaker` does for speaking; neither depends on the other.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from myvlm.backbones import Backbone
from myvlm.backbones.tokens import refuse_special
from myvlm.concepts.concept import Concept, thumbnails_of
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError, check_is
from myvlm.heads import Head, head_class
from myvlm.heads.base import MeetingHead
from myvlm.learning.captions import captions_and_words, described, write_captions
from myvlm.learning.concept_optimizer import LearnRequest, LearnResult
from myvlm.learning.dataset import Example, Lesson, LoadedLesson, gather_examples
from myvlm.learning.likelihood import TAUGHT_LOSS, plain_losses
from myvlm.learning.noun_phrases import definite_phrase
from myvlm.learning.optimise import learn_embeddings
from myvlm.learning.progress import ProgressOption, learning_progress
from myvlm.learning.settings import as_settings, default_settings
from myvlm.plugins.model_collections import collection_of
from myvlm.text import caution, check_category, check_identifier, check_written, composed, fold

_log = logging.getLogger(__name__)

MAX_MEETING_HEADS = 24
"""Maximum number of a library's heads that are run on the photos of a new concept."""


def check_lessons(
    backbone: Backbone, library: ConceptLibrary, lessons: Sequence[Lesson], *, encoder: str
) -> list[Head]:
    """Check everything that can be checked before a picture is opened, and return a new head for each lesson.

    Raises: as `MyVLM.learn_many`.
    """
    check_lesson_list(lessons)
    for lesson in lessons:
        check_words(backbone, lesson)
        introduced = library.is_introduced(lesson.identifier)  # learning replaces it
        library.check_free(lesson.identifier, but=composed(lesson.identifier) if introduced else None)
    return [new_head(one.kind, one.head_options, encoder=encoder, device=library.device) for one in lessons]


def teach(
    backbone: Backbone,
    library: ConceptLibrary,
    lessons: Sequence[LoadedLesson],
    heads: Sequence[Head],
    *,
    progress: ProgressOption,
) -> list[Concept]:
    """Fit the lessons' heads, beside those of the library, learn their embeddings and return the concepts."""
    requests = [learn_request(backbone, lesson) for lesson in lessons]
    known = heads_by_category(library)
    with learning_progress(lessons, requests, shown=progress) as report:
        for lesson, head in zip(lessons, heads, strict=True):
            fit(head, lesson, known)
            known.append((lesson.category, head))
        results = learn_embeddings(backbone, requests, report=report)
    parts = zip(lessons, heads, requests, results, strict=True)
    return [learned_concept(*one, backbone) for one in parts]


def fit(head: Head, lesson: LoadedLesson, known: Sequence[tuple[str, Head]]) -> None:
    """Fit a head to a lesson's photos, then have heads of other categories score them (`MeetingHead`)."""
    head.fit(lesson.images, lesson.negatives, category=lesson.category)
    if isinstance(head, MeetingHead):
        others = [
            one
            for category, one in known
            if type(one) is type(head)
            and one.gate_key == head.gate_key
            and fold(category) != fold(lesson.category)
        ]
        head.meet(lesson.images, others[:: len(others) // MAX_MEETING_HEADS + 1])


def heads_by_category(library: ConceptLibrary) -> list[tuple[str, Head]]:
    """Return category and head of each concept of a library."""
    return [(concept.category, concept.head) for concept in library.values()]


def introduce(
    backbone: Backbone,
    library: ConceptLibrary,
    lesson: LoadedLesson,
    head: Head,
    *,
    description: str | None,
) -> Concept:
    """Return the concept of a lesson with a fitted head and a description, but without an embedding.

    Args:
        description: such as `the dotted purple mug`; by default taken from the frozen model's own captions of
            the photos (`described`).

    Raises:
        InputError: the description is not text, or contains a special token of the model.
    """
    photos = lesson.images
    if description is not None:
        check_text(backbone, description, "Description")
        description = " ".join(description.split()).removesuffix(".")  # it is inserted into sentences
    fit(head, lesson, heads_by_category(library))
    words = description or definite_phrase(described(backbone, photos, lesson.category))
    recipe = {"description": words, "photos": [photo.file_name for photo in photos]}
    shown = thumbnails_of(photos, head)
    return Concept(lesson.identifier, lesson.category, head, recipe=recipe, thumbnails=shown)


def learn_request(backbone: Backbone, lesson: LoadedLesson) -> LearnRequest:
    """Return what the optimizer needs: a lesson's photos with their texts, its settings, and the words to
    start at."""
    default = default_settings(backbone.name, family=backbone.family, kind=lesson.kind)
    settings = as_settings(lesson.settings).over(default)
    photos, name, category, captions = lesson.images, lesson.identifier, lesson.category, lesson.captions
    description_words: tuple[str, ...] | None = () if settings.start == "random" else None
    if captions is None and description_words is None:
        captions, description_words = captions_and_words(backbone, photos, identifier=name, category=category)
    elif captions is None:
        captions = write_captions(backbone, photos, identifier=name, category=category)
    examples = check_texts(backbone, gather_examples(name, photos, captions, lesson.questions))
    if description_words is None:
        description_words = described(backbone, photos, category)
    return resolve_by_plain_model(backbone, LearnRequest(examples, settings, (name, *description_words)))


def resolve_by_plain_model(backbone: Backbone, request: LearnRequest) -> LearnRequest:
    """Return the request with the values that the plain model decides: how questions refer to the concept,
    and the loss up to which a reply is accepted."""
    settings, how = request.settings, request.settings.asked_by
    if how != "auto" and not settings.verify:
        return request
    loss_limit = None
    if request.description:
        seen = plain_losses(backbone, request.examples, request.words[0], request.description)
        how = seen.asked_by if how == "auto" else how
        loss_limit = max(seen.captions) if settings.verify else None
    settings = settings.model_copy(update={"asked_by": "name" if how == "auto" else how})
    return dataclasses.replace(request, settings=settings, taught_loss=loss_limit)


def learned_concept(
    lesson: Lesson, head: Head, request: LearnRequest, result: LearnResult, backbone: Backbone
) -> Concept:
    """Return the concept of a lesson, given its fitted head and its learned embedding."""
    figures = _figures(result)
    if result.said == 0:
        _log.warning(
            "%r is in none of the captions that %s generates for held-out views, so it may never be named. "
            "Other captions, more photos or an identifier of one word may help.",
            lesson.identifier,
            backbone.name,
        )
    if result.answered is not None and result.answered < 0.5:
        _log.warning(
            "With %r, %s gives only %.0f %% of the taught answers. Facts that no picture shows take "
            "more steps than a name (settings={'steps': 300}), and a small model may not learn them at all.",
            lesson.identifier,
            backbone.name,
            100 * result.answered,
        )
    if request.taught_loss is not None:
        figures[TAUGHT_LOSS] = request.taught_loss
    embedding = Embedding(
        directions=result.directions.numpy(),
        norm=request.settings.norm,
        prompt=backbone.caption_prompt,
        fingerprint=backbone.fingerprint(),
        settings=request.settings.model_dump(),
        figures=figures,
    )
    photos = [example.photo for example in request.examples]
    recipe: dict[str, Any] = {
        "captions": [list(example.captions) for example in request.examples],
        "captions_by": "model" if lesson.captions is None else "user",
        "questions": [[list(pair) for pair in example.questions] for example in request.examples],
        "photos": [photo.file_name for photo in photos],
    }
    if request.description:
        recipe["description"] = request.description
    learned = {backbone.name: embedding}
    shown = thumbnails_of(photos, head)
    return Concept(lesson.identifier, lesson.category, head, learned, recipe, thumbnails=shown)


def _figures(learned: LearnResult) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "cross_entropy": learned.cross_entropy,
        "attention": learned.attention,
        "steps": learned.steps,
    }
    if learned.said is not None:
        figures["said"] = learned.said
    if learned.answered is not None:
        figures["answered"] = learned.answered
    if learned.interrupted:
        figures["interrupted"] = True
    return figures


def check_not_interrupted(concept: Concept) -> Concept:
    """Return a concept that was just learned, unless Ctrl-C cut learning short: no such concept must be
    measured.

    Raises:
        KeyboardInterrupt: learning was interrupted.
    """
    if any(one.figures.get("interrupted") for one in concept.embeddings.values()):
        raise KeyboardInterrupt
    return concept


def check_lesson_list(lessons: Sequence[Lesson]) -> None:
    """Raise InputError unless there are lessons, all with valid identifiers and no two with the same."""
    check_is(lessons, Sequence, what="lessons", expected="a list of Lesson")
    for lesson in lessons:
        check_is(lesson, Lesson, what="lesson", expected="a Lesson")
        check_is(lesson.kind, str, what="kind of a head", expected='a word, such as "object"')
        options = {} if lesson.head_options is None else lesson.head_options
        check_is(options, Mapping, what="head_options", expected='a dict, such as {"encoder": name}')
    names = [fold(check_identifier(lesson.identifier)) for lesson in lessons]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not lessons or twice:
        raise InputError(
            "These concepts cannot be learned together.",
            got=f"{twice[0]!r} twice" if twice else "no lessons",
            expected="at least one lesson, each with another identifier",
            fix="give every concept its own identifier",
        )


def new_head(kind: str, options: Mapping[str, Any] | None = None, *, encoder: str, device: str) -> Head:
    """Return a new head of a kind, with the model's default encoder unless the options name one.

    Args:
        options: keyword arguments of the head's class; an encoder of None stands for the default.
        encoder: the model's default encoder for objects and for the appearance of people.
        device: where encoders run.

    Raises:
        UnknownHeadError: the kind is unknown.
        InputError: the head's class does not take these options.
    """
    defaults: dict[str, Any] = {} if kind not in ("object", "face", "person") else {"device": device}
    if kind in ("object", "person"):
        defaults["encoder" if kind == "object" else "appearance"] = encoder
    given = dict(options or {})
    if given.get("encoder", "") is None:
        del given["encoder"]
    try:
        return head_class(kind)(**defaults | given)
    except TypeError as error:
        raise InputError(
            f"A head of kind {kind!r} does not accept these options.",
            got=str(error),
            expected=str(inspect.signature(head_class(kind))),
            fix="check the spelling of head_options",
        ) from error


def check_text(backbone: Backbone, text: str, what: str) -> None:
    """Raise InputError if a text of a lesson contains a special token of the model, such as `<image>`."""
    check_written(text, what[:1].lower() + what[1:])
    refuse_special(backbone.processor, text, what)


def check_texts(backbone: Backbone, examples: list[Example]) -> list[Example]:
    """Return the examples; warn of words that the model's tokenizer cannot write.

    Raises:
        InputError: a caption, question or answer contains a special token.
    """
    for example in examples:
        for caption in example.captions:
            check_text(backbone, caption, f"Caption of {example.photo.name}")
        for pair in example.questions:
            for text in pair:
                check_text(backbone, text, f"Question or answer about {example.photo.name}")
    texts = [
        text
        for one in examples
        for text in (*one.captions, *(part for pair in one.questions for part in pair))
    ]
    if unknown := _unknown_words(backbone, texts):
        _log.warning(
            "%s cannot write these words, so it learns nothing from them: %s. Say it in other words.",
            backbone.name,
            ", ".join(unknown),
        )
    return examples


def _unknown_words(backbone: Backbone, texts: Sequence[str]) -> list[str]:
    """Return the words of the texts that the tokenizer encodes as its token for unknown words."""
    token = getattr(backbone.processor.tokenizer, "unk_token_id", None)
    if token is None:
        return []
    words = dict.fromkeys(word for text in texts for word in text.split())
    return [word for word in words if token in backbone.word_ids(word)]


def check_words(backbone: Backbone, lesson: Lesson) -> None:
    """Raise InputError unless identifier and category are valid and the tokenizer can write the first."""
    check_category(lesson.category)
    identifier = check_identifier(lesson.identifier)
    for word in (identifier, lesson.category):
        check_text(backbone, word, f"Word {word!r}")
    if warning := caution(identifier):
        _log.warning(warning)
    ids = backbone.word_ids(identifier)
    unknown = getattr(backbone.processor.tokenizer, "unk_token_id", None)
    if not ids or unknown in ids:
        found = collection_of(backbone.name)
        known = ", ".join(found[0].identifiers) if found else ""
        raise InputError(
            f"The model's tokenizer cannot write {identifier!r}.",
            got="no tokens" if not ids else "its token for unknown words",
            expected="a word that the tokenizer can encode",
            fix="choose another identifier" + (f", such as {known}" if known else ""),
        )
