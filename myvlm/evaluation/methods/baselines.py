"""The library as a method, and its baselines: the plain model, keyword replacement, rewriting, text prompts.

A baseline is applied where the concept's head detects it; elsewhere every method is the plain model, so that
only the texts are compared. Its `…_alone` variant has no head, like a setup without this library, and is
applied to every picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from myvlm.api import MyVLM
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.methods.personalized import ConceptSpeaker, PersonalSpeaker, with_only_concepts
from myvlm.evaluation.methods.registry import Setting, register_method
from myvlm.evaluation.methods.rewriting import Rewriter
from myvlm.images import ImageSource, load_images
from myvlm.learning.captions import ALSO_CALLED
from myvlm.learning.noun_phrases import mentions, name_in_caption, noun_phrases
from myvlm.text import contains_word, replace_word

KEYWORDS_PER_CONCEPT = 3
"""Keywords per concept, as in the paper."""


@register_method("myvlm")
class LearnedRows:
    """This library: a learned concept with its head and embedding."""

    name = "myvlm"

    def __init__(self, setting: Setting) -> None:
        self.teaching = setting.teaching

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> ConceptSpeaker:
        return ConceptSpeaker(with_only_concepts(vlm, self.teaching.concept(vlm, subject, photos, seed=seed)))


@register_method("plain")
class PlainModel:
    """The frozen model without concepts; questions are passed on unchanged."""

    name = "plain"

    def __init__(self, setting: Setting) -> None:
        pass

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> ConceptSpeaker:
        return ConceptSpeaker(with_only_concepts(vlm))


class GatedSpeaker:
    """Uses one speaker for pictures in which the concept is detected, and the plain model for all others.

    Args:
        vlm: a model whose library holds only this concept, without an embedding.
        seen: the speaker for pictures in which the concept is detected.
    """

    def __init__(self, vlm: MyVLM, seen: PersonalSpeaker) -> None:
        self.vlm, self.seen, self.unseen = vlm, seen, ConceptSpeaker(with_only_concepts(vlm))

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self._by_detection(images, lambda speaker, some: speaker.caption(some))

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return self._by_detection(images, lambda speaker, some: speaker.ask(some, question))

    def _by_detection(
        self,
        images: Sequence[ImageSource],
        say: Callable[[PersonalSpeaker, Sequence[ImageSource]], list[str]],
    ) -> list[str]:
        photos = load_images(list(images))
        found = [bool(detections.present) for detections in self.vlm.concepts.recognise(photos)]
        replies = {}
        for present, speaker in ((True, self.seen), (False, self.unseen)):
            some = [photo for photo, here in zip(photos, found, strict=True) if here == present]
            replies[present] = iter(say(speaker, some) if some else [])
        return [next(replies[present]) for present in found]


class TextMethod:
    """Base of the methods that put words into captions or prompts of the frozen model."""

    name: str
    gated = True
    """Whether the method is applied only where the concept's head detects it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        speaker = self.speaker(with_only_concepts(vlm), subject, photos)
        if not self.gated:
            return speaker
        return GatedSpeaker(
            with_only_concepts(vlm, self.setting.teaching.concept_without_embedding(vlm, subject, photos)),
            speaker,
        )

    def speaker(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> PersonalSpeaker:
        """The speaker that treats every picture as showing the subject; `vlm` has no concepts."""
        raise NotImplementedError


@register_method("keyword")
class Keyword(TextMethod):
    """Keyword replacement, the paper's first baseline: the identifier replaces a keyword in plain captions.

    A concept has the keywords that the setting gives for its category, or else up to three: the category and
    synonyms. In a question, the first keyword replaces the identifier; in the answer it is replaced back.
    """

    name = "keyword"

    def speaker(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> PersonalSpeaker:
        return KeywordSpeaker(vlm, subject.identifier, keywords_of(subject.category, self.setting))


@dataclass(frozen=True)
class KeywordSpeaker:
    """The plain model's replies with a keyword replaced by the identifier."""

    vlm: MyVLM
    identifier: str
    keywords: Sequence[str]

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return [self._with_identifier(text) for text in plain_captions(self.vlm, images)]

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        asked = replace_word(question, self.identifier, f"the {self.keywords[0]}")
        return [self._with_identifier(text) for text in plain_answers(self.vlm, images, asked)]

    def _with_identifier(self, text: str) -> str:
        return replace_keyword(text, self.keywords, self.identifier)


@register_method("llm")
class Rewritten(Keyword):
    """LLM-guided rewriting, the paper's second baseline: a chat model puts the name into plain captions.

    Its input is the caption, the category and the identifier, but no picture. Questions are handled as by
    `keyword`, without the chat model.
    """

    name = "llm"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.rewriter = setting.rewriter

    def speaker(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> PersonalSpeaker:
        keywords = keywords_of(subject.category, self.setting)
        return RewritingSpeaker(vlm, subject.identifier, keywords, subject.category, self.rewriter)


@dataclass(frozen=True)
class RewritingSpeaker(KeywordSpeaker):
    """The plain model's captions, rewritten by a chat model; questions as `KeywordSpeaker`."""

    category: str
    rewriter: Rewriter

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return self.rewriter.rewrite(plain_captions(self.vlm, images), self.identifier, self.category)


@register_method("text_prompt")
class TextPrompt(TextMethod):
    """A description of the concept before the instruction: "sks is the red mug. Describe the image."."""

    name = "text_prompt"

    def speaker(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo]) -> PersonalSpeaker:
        described = self.setting.descriptions.get(subject.name) or describe(vlm, subject, photos)
        return HintedSpeaker(vlm, f"{subject.identifier} is {described}.")


@dataclass(frozen=True)
class HintedSpeaker:
    """The plain model with a text put before every instruction."""

    vlm: MyVLM
    hint: str

    def caption(self, images: Sequence[ImageSource]) -> list[str]:
        return plain_captions(self.vlm, images, f"{self.hint} {self.vlm.backbone.caption_prompt}".strip())

    def ask(self, images: Sequence[ImageSource], question: str) -> list[str]:
        return plain_answers(self.vlm, images, f"{self.hint} {question}")


@register_method("keyword_alone")
class KeywordAlone(Keyword):
    """Keyword replacement in every picture: anything called by a keyword is taken for the subject."""

    name, gated = "keyword_alone", False


@register_method("llm_alone")
class RewrittenAlone(Rewritten):
    """LLM-guided rewriting of every caption."""

    name, gated = "llm_alone", False


@register_method("text_prompt_alone")
class TextPromptAlone(TextPrompt):
    """The description before every instruction: the model itself must decide whether the subject is there."""

    name, gated = "text_prompt_alone", False


def plain_captions(vlm: MyVLM, images: Sequence[ImageSource], prompt: str | None = None) -> list[str]:
    """The frozen model's captions of pictures."""
    with vlm.generic():
        return [reply.text for reply in vlm.caption(list(images), prompt=prompt)]


def plain_answers(vlm: MyVLM, images: Sequence[ImageSource], question: str) -> list[str]:
    """The frozen model's answers about pictures."""
    with vlm.generic():
        return [reply.text for reply in vlm.ask(list(images), question)]


def keywords_of(category: str, setting: Setting) -> tuple[str, ...]:
    """The setting's keywords of a category, or else up to three: the category, its last word and synonyms.

    >>> keywords_of("coffee mug", Setting())
    ('coffee mug', 'mug', 'cup')
    """
    if given := setting.keywords.get(category):
        return tuple(given)
    last = category.split()[-1]
    others = ALSO_CALLED.get(category.casefold(), ALSO_CALLED.get(last.casefold(), ()))
    return tuple(dict.fromkeys((category, last, *others)))[:KEYWORDS_PER_CONCEPT]


def replace_keyword(text: str, keywords: Sequence[str], identifier: str) -> str:
    """Replace by the identifier the first noun phrase of the first keyword that the text contains.

    A text without keywords, or that already contains the identifier, is returned unchanged.

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
    """The plain model's most frequent noun phrase for the subject in its captions of the photos.

    Such as `the red mug`.
    """
    captions = plain_captions(vlm, [photo.file for photo in photos])
    phrases = [phrase for text in captions for phrase in noun_phrases(text, subject.category)]
    if not phrases:
        return f"the {subject.category}"
    [(phrase, _)] = Counter(phrases).most_common(1)
    article, _, rest = phrase.partition(" ")
    return f"the {rest}" if article.casefold() in ("a", "an", "one", "the") else phrase
