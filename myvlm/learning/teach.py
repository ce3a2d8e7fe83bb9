"""Teaching: what `MyVLM` is given of each concept, and the concepts that come of it: learned, or in words.

Here a head and a backbone are joined to learn from the same photos, as `Speaker` joins them to speak;
neither knows of the other.
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
from myvlm.learning.likelihood import TAUGHT_LOSS, plain_view
from myvlm.learning.noun_phrases import describing
from myvlm.learning.optimise import learn_embeddings
from myvlm.learning.progress import Shown, learning_progress
from myvlm.learning.settings import as_settings, default_settings
from myvlm.plugins.model_collections import collection_of
from myvlm.text import caution, check_category, check_identifier, check_written, composed, fold

_log = logging.getLogger(__name__)

MET_BY = 24
"""Heads of a library, at most, that see the photos of a new concept."""


def check_lessons(
    backbone: Backbone, library: ConceptLibrary, lessons: Sequence[Lesson], *, encoder: str
) -> list[Head]:
    """A new head for each lesson, once all that can be known of them before a picture is opened is right.

    Raises: as `MyVLM.learn_many`.
    """
    check_together(lessons)
    for lesson in lessons:
        check_words(backbone, lesson)
        introduced = library.is_introduced(lesson.identifier)  # it gives way to what is learned
        library.check_free(lesson.identifier, but=composed(lesson.identifier) if introduced else None)
    return [new_head(one.kind, one.head_options, encoder=encoder, device=library.device) for one in lessons]


def teach(
    backbone: Backbone,
    library: ConceptLibrary,
    lessons: Sequence[LoadedLesson],
    heads: Sequence[Head],
    *,
    progress: Shown,
) -> list[Concept]:
    """The concepts of these lessons; their heads fitted beside the library's, their embeddings learned."""
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
    """Fit a head to a lesson's photos, and have the heads of other categories see them."""
    head.fit(lesson.images, lesson.negatives, category=lesson.category)
    if isinstance(head, MeetingHead):
        others = [
            one
            for category, one in known
            if type(one) is type(head)
            and one.gate_key == head.gate_key
            and fold(category) != fold(lesson.category)
        ]
        head.meet(lesson.images, others[:: len(others) // MET_BY + 1])


def heads_by_category(library: ConceptLibrary) -> list[tuple[str, Head]]:
    """The head of each concept of a library, with the concept's category."""
    return [(concept.category, concept.head) for concept in library.values()]


def introduce(
    backbone: Backbone,
    library: ConceptLibrary,
    lesson: LoadedLesson,
    head: Head,
    *,
    description: str | None,
) -> Concept:
    """The concept of a lesson with its head fitted and a description; no embedding.

    Args:
        description: such as `the dotted purple mug`; where not given, by the frozen model's own captions of
            the photos (`described`).

    Raises:
        InputError: the description is no text, or holds a special token of the model's.
    """
    photos = lesson.images
    if description is not None:
        check_text(backbone, description, "Description")
        description = " ".join(description.split()).removesuffix(".")  # it is put into sentences
    fit(head, lesson, heads_by_category(library))
    words = description or describing(described(backbone, photos, lesson.category))
    recipe = {"description": words, "photos": [photo.file_name for photo in photos]}
    shown = thumbnails_of(photos, head)
    return Concept(lesson.identifier, lesson.category, head, recipe=recipe, thumbnails=shown)


def learn_request(backbone: Backbone, lesson: LoadedLesson) -> LearnRequest:
    """What is learned: the photos of a lesson, each with its texts, and where learning starts."""
    default = default_settings(backbone.name, family=backbone.family, kind=lesson.kind)
    settings = as_settings(lesson.settings).over(default)
    photos, name, category, captions = lesson.images, lesson.identifier, lesson.category, lesson.captions
    called: tuple[str, ...] | None = () if settings.start == "random" else None
    if captions is None and called is None:
        captions, called = captions_and_words(backbone, photos, identifier=name, category=category)
    elif captions is None:
        captions = write_captions(backbone, photos, identifier=name, category=category)
    examples = check_texts(backbone, gather_examples(name, photos, captions, lesson.questions))
    if called is None:
        called = described(backbone, photos, category)
    return as_the_plain_model_sees(backbone, LearnRequest(examples, settings, (name, *called)))


def as_the_plain_model_sees(backbone: Backbone, request: LearnRequest) -> LearnRequest:
    """The request with what its settings leave to the plain model: how questions are asked, and which replies
    are likely enough."""
    settings, how = request.settings, request.settings.asked_by
    if how != "auto" and not settings.verify:
        return request
    limit = None
    if request.description:
        seen = plain_view(backbone, request.examples, request.words[0], request.description)
        how = seen.asked_by if how == "auto" else how
        limit = max(seen.captions) if settings.verify else None
    settings = settings.model_copy(update={"asked_by": "name" if how == "auto" else how})
    return dataclasses.replace(request, settings=settings, taught_loss=limit)


def learned_concept(
    lesson: Lesson, head: Head, request: LearnRequest, result: LearnResult, backbone: Backbone
) -> Concept:
    """The concept that a lesson gives, once its head is fitted and its embedding learned."""
    figures = _figures(result)
    if result.said == 0:
        _log.warning(
            "%r is in none of the captions that %s would give of held-out views. It may never be said: other "
            "captions, more photos, or a name of one word may help.",
            lesson.identifier,
            backbone.name,
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
    if learned.interrupted:
        figures["interrupted"] = True
    return figures


def check_whole(concept: Concept) -> Concept:
    """The concept that was just learned; what is measured must not be one that Ctrl-C left half learned.

    Raises:
        KeyboardInterrupt: it did.
    """
    if any(one.figures.get("interrupted") for one in concept.embeddings.values()):
        raise KeyboardInterrupt
    return concept


def check_together(lessons: Sequence[Lesson]) -> None:
    """Raise InputError unless there are lessons, each of an identifier that can be one, and no two of one."""
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
            expected="one lesson or more, each of another identifier",
            fix="give every concept a word of its own",
        )


def new_head(kind: str, options: Mapping[str, Any] | None = None, *, encoder: str, device: str) -> Head:
    """A head of a kind, with the defaults that go with a model where the options do not say another.

    Args:
        options: of the head's class; an encoder that is None is the default one.
        encoder: of objects and of how people look, the model's default.
        device: where encoders run.

    Raises:
        UnknownHeadError: no such kind is known.
        InputError: its class has no such options.
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
            f"A head of kind {kind!r} cannot be made with these options.",
            got=str(error),
            expected=str(inspect.signature(head_class(kind))),
            fix="check the spelling of head_options",
        ) from error


def check_text(backbone: Backbone, text: str, what: str) -> None:
    """Raise InputError if a text of a lesson holds a special token of the model's own, such as `<image>`."""
    check_written(text, what[:1].lower() + what[1:])
    refuse_special(backbone.processor, text, what)


def check_texts(backbone: Backbone, examples: list[Example]) -> list[Example]:
    """The examples; raises InputError if a caption, question or answer holds a special token."""
    for example in examples:
        for caption in example.captions:
            check_text(backbone, caption, f"Caption of {example.photo.name}")
        for pair in example.questions:
            for text in pair:
                check_text(backbone, text, f"Question or answer about {example.photo.name}")
    return examples


def check_words(backbone: Backbone, lesson: Lesson) -> None:
    """Raise InputError unless identifier and category can be such, and the tokenizer can write the first."""
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
            got="no tokens" if not ids else "its sign for unknown words",
            expected="a word that the tokenizer knows, or can spell",
            fix="choose another identifier" + (f", such as {known}" if known else ""),
        )
