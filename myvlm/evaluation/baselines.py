"""The library itself and what it is compared with: the plain model, and words put into captions or prompts.

A baseline speaks wherever the concept's own head sees it; elsewhere all methods are the plain model. Imports
`teaching`, `methods` and `rewriting`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from myvlm.api import MyVLM
from myvlm.evaluation.data import Photo, Subject
from myvlm.evaluation.methods import Setting, register_method
from myvlm.evaluation.rewriting import load_rewriter
from myvlm.evaluation.teaching import Personal, alone
from myvlm.images import ImageSource, LoadedImage, load_images
from myvlm.learning.examples import mentions, name_in_caption, noun_phrases
from myvlm.words import contains_word, replace_word
from myvlm.writing import ALSO_CALLED

Caption = Callable[[Sequence[LoadedImage]], list[str]]
Answer = Callable[[Sequence[LoadedImage], str], list[str]]

KEYWORDS = 3
"""Keywords a concept, as in the paper."""


@register_method("myvlm")
class Learned:
    """The library: a concept, learned and named."""

    name = "myvlm"

    def __init__(self, setting: Setting) -> None:
        self.teaching = setting.teaching

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Personal:
        return Personal(alone(vlm, self.teaching.concept(vlm, subject, photos, seed=seed)))


@register_method("plain")
class Plain:
    """The frozen model, which knows no concept; questions go to it as they are."""

    name = "plain"

    def __init__(self, setting: Setting) -> None:
        pass

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Personal:
        return Personal(alone(vlm))


class Gated:
    """Speaks otherwise where the concept is seen, and as the plain model does elsewhere.

    Args:
        vlm: a model whose library holds the one concept, without an embedding.
        caption: of pictures in which it is seen.
        answer: to a question about such pictures.
    """

    def __init__(
        self,
        vlm: MyVLM,
        caption: Caption,
        answer: Answer,
    ) -> None:
        self.vlm = vlm
        self._caption, self._answer = caption, answer

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self._by_sight(images, self._caption, plain_captions)

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return self._by_sight(
            images,
            lambda photos: self._answer(photos, question),
            lambda vlm, photos: plain_answers(vlm, photos, question),
        )

    def _by_sight(
        self,
        images: Sequence[ImageSource],
        seen: Caption,
        unseen: Callable[[MyVLM, Sequence[LoadedImage]], list[str]],
    ) -> list[str]:
        photos = load_images(list(images))
        found = [bool(detections.present) for detections in self.vlm.concepts.recognise(photos)]
        here = [photo for photo, present in zip(photos, found, strict=True) if present]
        elsewhere = [photo for photo, present in zip(photos, found, strict=True) if not present]
        named, plain = (
            iter(seen(here) if here else []),
            iter(unseen(self.vlm, elsewhere) if elsewhere else []),
        )
        return [next(named) if present else next(plain) for present in found]


@register_method("keyword")
class Keyword:
    """Keyword replacement, the paper's first baseline: a keyword in the plain caption becomes the name.

    Three keywords a concept: those of the setting for its category, or the category and other words for it. A
    question is asked about the first keyword, and what the answer calls so is called by the name.
    """

    name = "keyword"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Gated:
        keywords = keywords_of(subject.category, self.setting)
        own = alone(vlm, self.setting.teaching.bare_concept(vlm, subject, photos))

        def caption(images: Sequence[LoadedImage]) -> list[str]:
            return [replace_keyword(t, keywords, subject.identifier) for t in plain_captions(own, images)]

        return Gated(own, caption, _answers_by_keyword(own, subject, keywords))


def _answers_by_keyword(vlm: MyVLM, subject: Subject, keywords: Sequence[str]) -> Answer:
    def answer(images: Sequence[LoadedImage], question: str) -> list[str]:
        asked = replace_word(question, subject.identifier, f"the {keywords[0]}")
        said = plain_answers(vlm, images, asked)
        return [replace_keyword(text, keywords, subject.identifier) for text in said]

    return answer


@register_method("llm")
class Rewritten:
    """LLM-guided rewriting, the paper's second baseline: a chat model puts the name into the plain caption.

    It sees the caption, the category and the name, and no picture. Questions are asked and answered as
    `keyword` has them, without its help.
    """

    name = "llm"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rewriter = load_rewriter(setting.chat_model)

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Gated:
        own = alone(vlm, self.setting.teaching.bare_concept(vlm, subject, photos))

        def caption(images: Sequence[LoadedImage]) -> list[str]:
            said = plain_captions(own, images)
            return self.rewriter.rewrite(said, subject.identifier, subject.category)

        return Gated(
            own, caption, _answers_by_keyword(own, subject, keywords_of(subject.category, self.setting))
        )


@register_method("text_prompt")
class TextPrompt:
    """The concept described in words before the instruction: "sks is the red mug. Describe the image."."""

    name = "text_prompt"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Gated:
        own = alone(vlm, self.setting.teaching.bare_concept(vlm, subject, photos))
        described = self.setting.descriptions.get(subject.name) or describe(own, subject, photos)
        told = f"{subject.identifier} is {described}."

        def caption(images: Sequence[LoadedImage]) -> list[str]:
            return plain_captions(own, images, f"{told} {own.backbone.caption_prompt}".strip())

        return Gated(own, caption, lambda images, question: plain_answers(own, images, f"{told} {question}"))


def plain_captions(vlm: MyVLM, images: Sequence[LoadedImage], prompt: str | None = None) -> list[str]:
    """What the frozen model says of pictures."""
    with vlm.generic():
        return [reply.text for reply in vlm.caption(list(images), prompt=prompt)]


def plain_answers(vlm: MyVLM, images: Sequence[LoadedImage], question: str) -> list[str]:
    """What the frozen model answers about pictures."""
    with vlm.generic():
        return [reply.text for reply in vlm.ask(list(images), question)]


def keywords_of(category: str, setting: Setting) -> tuple[str, ...]:
    """The setting's keywords of a category; without any, up to three: it, its last word and other words.

    >>> keywords_of("coffee mug", Setting())
    ('coffee mug', 'mug', 'cup')
    """
    if given := setting.keywords.get(category):
        return tuple(given)
    last = category.split()[-1]
    others = ALSO_CALLED.get(category.casefold(), ALSO_CALLED.get(last.casefold(), ()))
    return tuple(dict.fromkeys((category, last, *others)))[:KEYWORDS]


def replace_keyword(text: str, keywords: Sequence[str], identifier: str) -> str:
    """The text with the first noun phrase of the first keyword that it has replaced; as it is without any.

    >>> replace_keyword("a big red cup on a tray.", ("mug", "cup"), "sks")
    'sks on a tray.'
    >>> replace_keyword("a tray.", ("mug", "cup"), "sks")
    'a tray.'
    """
    present = next((word for word in keywords if mentions(text, word)), None)
    if present is None or contains_word(text, identifier):
        return text
    return name_in_caption(text, present, identifier)


def describe(vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> str:
    """What the model most often calls the thing in its captions of the photos, such as `the red mug`."""
    said = plain_captions(vlm, load_images([photo.file for photo in photos]))
    phrases = [phrase for text in said for phrase in noun_phrases(text, subject.category)]
    if not phrases:
        return f"the {subject.category}"
    [(phrase, _)] = Counter(phrases).most_common(1)
    article, _, rest = phrase.partition(" ")
    return f"the {rest}" if article.casefold() in ("a", "an", "one", "the") else phrase
