"""Teaching: what is learned of each lesson, and all that is learned of a few at once.

Here a head and a backbone learn from the same photos; neither knows of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.heads import Head
from myvlm.images import ImageSources, LoadedImage, load_images
from myvlm.learning import relearn
from myvlm.learning.captions import described, write_captions
from myvlm.learning.concept_optimizer import LearnRequest
from myvlm.learning.dataset import Captions, Questions, gather_examples
from myvlm.learning.optimise import learn_embeddings
from myvlm.learning.progress import learning_progress
from myvlm.learning.request import Lesson, check_texts, check_together, check_words, learned_concept, new_head
from myvlm.learning.settings import Settings, as_settings, default_settings


def check_lessons(
    backbone: Backbone, library: ConceptLibrary, lessons: Sequence[Lesson], *, encoder: str
) -> list[Head]:
    """A new head for each lesson, once all that can be known of them before a picture is opened is right.

    Raises: as `MyVLM.learn_many`.
    """
    check_together(lessons)
    for lesson in lessons:
        check_words(backbone, lesson)
        library.check_free(lesson.identifier)
    return [new_head(one.kind, one.head_options, encoder=encoder, device=library.device) for one in lessons]


def teach(
    backbone: Backbone, lessons: Sequence[Lesson], heads: Sequence[Head], *, progress: bool
) -> list[Concept]:
    """The concepts of lessons whose pictures are loaded; their heads are fitted, their embeddings learned."""
    requests = [learn_request(backbone, lesson) for lesson in lessons]
    with learning_progress(lessons, requests, shown=progress) as report:
        for lesson, head in zip(lessons, heads, strict=True):
            head.fit(lesson.images, lesson.negatives, category=lesson.category)
        results = learn_embeddings(backbone, requests, report=report)
    parts = zip(lessons, heads, requests, results, strict=True)
    return [learned_concept(*one, backbone) for one in parts]


def teach_again(
    backbone: Backbone,
    concept: Concept,
    photos: Sequence[LoadedImage],
    *,
    kept: bool,
    captions: Captions | None,
    questions: Questions | None,
    negatives: ImageSources | None,
    settings: Settings | None,
    device: str,
    progress: bool,
) -> Concept:
    """A concept with what this backbone learned of it beside what others did; arguments as of `relearn`.

    Args:
        kept: whether the photos are those that were kept with the concept.
        negatives: loaded.
        device: where its head's encoder runs.
    """
    default = default_settings(backbone.name, family=backbone.family, kind=concept.kind)
    settings = settings or relearn.settings_again(concept, backbone.name, default)
    lesson = relearn.lesson_again(
        concept, photos, kept=kept, captions=captions, questions=questions, negatives=negatives,
        settings=settings,
    )  # fmt: skip
    check_words(backbone, lesson)
    request = learn_request(backbone, lesson)
    with learning_progress([lesson], [request], shown=progress) as report:
        head = relearn.head_again(concept, photos, lesson.negatives, device=device)
        [result] = learn_embeddings(backbone, [request], report=report)
    again = learned_concept(lesson, head, request, result, backbone)
    own_recipe = kept and captions is None and questions is None
    return relearn.learned_again(concept, backbone.name, again, own_recipe=own_recipe)


def learn_request(backbone: Backbone, lesson: Lesson) -> LearnRequest:
    """What is learned: the photos of a loaded lesson, each with its texts, and where learning starts."""
    default = default_settings(backbone.name, family=backbone.family, kind=lesson.kind)
    settings = as_settings(lesson.settings).over(default)
    photos = load_images(lesson.images)
    name, category, captions = lesson.identifier, lesson.category, lesson.captions
    if captions is None:
        captions = write_captions(backbone, photos, identifier=name, category=category)
    examples = check_texts(backbone, gather_examples(name, photos, captions, lesson.questions))
    called = described(backbone, photos, category) if settings.start == "words" else ()
    return LearnRequest(examples, settings, (name, *called))
