"""Captions that name the concept, and question/answer pairs about it, written by the frozen model itself.

Generated captions are used where the user gives none, and are recorded as the model's. Generated questions
and answers are meant to be reviewed before use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from myvlm.backbones import Backbone
from myvlm.backbones.tokens import as_written
from myvlm.errors import InputError
from myvlm.images import LoadedImage, naming
from myvlm.learning.dataset import CAPTION_PROMPTS, LONG_SIDE, QuestionAnswer, reduced_for_model
from myvlm.learning.noun_phrases import ARTICLES, mentions, name_in_caption, noun_phrases
from myvlm.text import check_category, check_identifier, count_word, replace_word

PEOPLE = frozenset(
    "person man woman boy girl child baby lady gentleman guy teenager toddler friend mother father sister "
    "brother grandmother grandfather".split()
)
"""Category nouns of people; such concepts get `PERSON_QUESTIONS`."""

ALSO_CALLED = {
    "man": ("guy", "gentleman", "boy", "person"),
    "woman": ("lady", "girl", "person"),
    "boy": ("child", "kid", "person"),
    "girl": ("child", "kid", "woman", "person"),
    "child": ("kid", "boy", "girl", "toddler", "person"),
    "person": ("man", "woman", "lady", "guy", "boy", "girl"),
    "mug": ("cup",),
    "cup": ("mug",),
    "dog": ("puppy",),
    "cat": ("kitten",),
    "plush toy": ("stuffed animal", "toy"),
    "figurine": ("statue", "toy"),
    "statue": ("sculpture", "figurine"),
    "bag": ("backpack", "purse"),
    "bicycle": ("bike",),
}
"""Other words that a model may use for a category, tried in this order where it does not use the category."""

OBJECT_QUESTIONS = (
    "What colour is {}?",
    "What pattern does {} have?",
    "What size is {}?",
    "What is {} made of?",
    "What shape is {}?",
    "What is on {}?",
    "What is next to {}?",
    "What is {} standing on?",
    "Where is {}?",
    "Is {} in the picture?",
)
PERSON_QUESTIONS = (
    "What is {} wearing?",
    "What colour are the clothes of {}?",
    "What is {} doing?",
    "Where is {}?",
    "What is next to {}?",
    "What colour is the hair of {}?",
    "How long is the hair of {}?",
    "Is {} wearing glasses?",
    "Does {} have a beard?",
    "What is the expression of {}?",
    "What age group does {} belong to?",
    "Is {} in the picture?",
)
"""Templates of questions about objects and people (the paper's kinds); `{}` stands for the concept."""


def is_person(category: str, kind: str = "object") -> bool:
    """Return whether a concept is a person, by the kind of its head or the last word of its category.

    >>> is_person("old man"), is_person("mug"), is_person("violinist", "face")
    (True, False, True)
    """
    return kind in ("face", "person") or category.split()[-1].casefold() in PEOPLE


def write_captions(
    backbone: Backbone, photos: Sequence[LoadedImage], *, identifier: str, category: str
) -> list[list[str]]:
    """Generate captions of the photos that name the concept, with the frozen model.

    Each photo is described under every instruction that captions are learned under, so that there are several
    captions if the model has several ways to say it. The prompt starts with a hint, "sks is the mug.", and
    the model then uses the name where a sentence would have it, mostly first. Plain captions mention the
    object at any position, and an embedding that is learned from them makes the model say the name half as
    often (benchmarks/RESULTS.md). If the hint gives no usable caption of a photo, its plain captions are
    used, with the noun phrase for the category replaced.

    Args:
        backbone: the frozen model.
        photos: N photos.
        identifier: the word that the captions contain.
        category: the word that the model is expected to use for the object.

    Returns: for each photo one or more captions, each with the identifier in it.

    >>> from myvlm import MyVLM
    >>> from myvlm.images import load_images
    >>> from myvlm.tinyworld import few_shot
    >>> kit = few_shot(0, photos=1)
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava")
    >>> [own] = write_captions(vlm.backbone, load_images(kit.photos()), identifier="sks", category="mug")
    >>> all("sks" in caption and "mug" not in caption for caption in own)
    True
    """
    hinted_replies = _plain_replies(backbone, photos, _hinted_prompts(backbone, identifier, category))
    return _captions_with_name(backbone, photos, hinted_replies, identifier, category)


def captions_and_words(
    backbone: Backbone, photos: Sequence[LoadedImage], *, identifier: str, category: str
) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return the results of `write_captions` and `described`, generated together: one forward pass per token,
    not two."""
    hinted = _hinted_prompts(backbone, identifier, category)
    replies = _plain_replies(backbone, photos, [*hinted, backbone.caption_prompt])
    captions = _captions_with_name(
        backbone, photos, [own[: len(hinted)] for own in replies], identifier, category
    )
    return captions, _description_words([own[-1] for own in replies], category)


def _caption_prompts(backbone: Backbone) -> list[str]:
    return _distinct([backbone.caption_prompt, *(backbone.caption_prompts or CAPTION_PROMPTS)])


def _hinted_prompts(backbone: Backbone, identifier: str, category: str) -> list[str]:
    """The caption instructions with the hint in front; empty if the family has no place for a hint."""
    hint = f"{identifier} is the {category}."
    asked = (backbone.hinted(hint, prompt) for prompt in _caption_prompts(backbone))
    return [prompt for prompt in asked if prompt is not None]


def _captions_with_name(
    backbone: Backbone,
    photos: Sequence[LoadedImage],
    hinted_replies: Sequence[Sequence[str]],
    identifier: str,
    category: str,
) -> list[list[str]]:
    """For each photo, captions that name the concept: usable replies to the hinted prompts, else edited plain
    captions."""
    word = as_written(backbone, identifier)
    named = [
        [replace_word(text, word, identifier) for text in usable_hinted_captions(texts, category, word)]
        for texts in hinted_replies
    ]
    photos_without = [photo for photo, own in zip(photos, named, strict=True) if not own]
    plain = iter(_plain_replies(backbone, photos_without, _caption_prompts(backbone)))
    return [own or named_captions(next(plain), category, identifier) for own in named]


def described(backbone: Backbone, photos: Sequence[LoadedImage], category: str) -> tuple[str, ...]:
    """Return the words that most of the model's plain captions use for the object, the category last.

    The optimizer starts at these words (`LearnSettings.start`), so that from the first step the name refers
    to this mug and not to any mug (benchmarks/RESULTS.md). Words after the noun, such as a person's clothes
    on that day, are left out.

    Args:
        backbone: the frozen model.
        photos: N photos.
        category: the word that the model is expected to use for the object.

    >>> from myvlm import MyVLM
    >>> from myvlm.images import load_images
    >>> from myvlm.tinyworld import few_shot
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava")
    >>> described(vlm.backbone, load_images(few_shot(0).photos()), "mug")
    ('dotted', 'purple', 'mug')
    """
    return _description_words(
        [text for [text] in _plain_replies(backbone, photos, [backbone.caption_prompt])], category
    )


def _description_words(texts: Sequence[str], category: str) -> tuple[str, ...]:
    """The words that most of these plain captions use for the object, the category last."""
    return common_words([phrase for text in texts for phrase in noun_phrases(text, category)[:1]], category)


def common_words(phrases: Sequence[str], category: str) -> tuple[str, ...]:
    """Return the describing words that occur in more than half of the noun phrases, and then the category.

    >>> common_words(["a big red mug", "the red mug", "the mug"], "mug"), common_words([], "coffee mug")
    (('red', 'mug'), ('coffee mug',))
    """
    left_out = {*ARTICLES, *category.casefold().split()}
    counts = Counter(word for one in phrases for word in dict.fromkeys(one.casefold().split()))
    return (*(w for w, count in counts.items() if 2 * count > len(phrases) and w not in left_out), category)


def usable_hinted_captions(texts: Sequence[str], category: str, identifier: str) -> list[str]:
    """Return those captions, generated with a hint, that are usable for learning.

    Usable captions have more than two words, contain the identifier exactly once, and do not mention the
    category as well.

    >>> usable_hinted_captions(["sks on a tray.", "sks by a mug.", "sks", "a tray."], "mug", "sks")
    ['sks on a tray.']
    """

    def is_usable(text: str) -> bool:
        return count_word(text, identifier) == 1 and not mentions(text, category) and len(text.split()) > 2

    return _distinct(text for text in texts if is_usable(text))


def named_captions(texts: Sequence[str], category: str, identifier: str) -> list[str]:
    """Put the identifier into plain captions of one photo, in place of the category; ambiguous captions are
    left out.

    The captions used are those that mention the category once. If there are none: those that mention another
    word for it once; else those that mention the category repeatedly, with the first mention replaced; else
    all, with the identifier put in front.

    >>> named_captions(["a red mug on a table.", "a mug by a mug.", "a table."], "mug", "sks")
    ['sks on a table.']
    >>> named_captions(["a cup by a plate."], "mug", "sks")
    ['sks by a plate.']
    >>> named_captions(["a table."], "mug", "sks")
    ['sks, a table.']
    """
    for word in (category, *ALSO_CALLED.get(category.casefold(), ())):
        once = [text for text in texts if mentions(text, word) == 1]
        if once:
            return _distinct(name_in_caption(text, word, identifier) for text in once)
    several = [text for text in texts if mentions(text, category)]
    return _distinct(name_in_caption(text, category, identifier) for text in several or texts)


def write_questions(
    backbone: Backbone,
    photos: Sequence[LoadedImage],
    *,
    identifier: str,
    category: str,
    kind: str = "object",
    questions: Sequence[str] | None = None,
) -> list[list[QuestionAnswer]]:
    """Generate question/answer pairs about the concept with the frozen model, to be reviewed before use.

    The model is asked about "the mug"; the pair has the identifier in its place. Questions that the tokenizer
    cannot encode are not asked, and pairs with an empty answer are left out.

    Args:
        backbone: the frozen model.
        photos: N photos that show the concept.
        identifier: the word that the pairs use.
        category: the noun that the model is asked about.
        kind: the head's kind; for people the questions concern clothes, hair and faces, see `is_person`.
        questions: templates to use in place of the built-in ones, each with `{}` where the concept is named.

    Returns: for each photo its pairs.

    Raises:
        InputError: a question does not contain `{}` exactly once, or the identifier or category is invalid.

    >>> from myvlm import MyVLM
    >>> from myvlm.images import load_images
    >>> from myvlm.tinyworld import few_shot
    >>> photos = load_images(few_shot(0, photos=1).photos())
    >>> backbone, asked = MyVLM.from_pretrained("tinyworld/llava").backbone, ["What colour is {}?"]
    >>> write_questions(backbone, photos, identifier="sks", category="mug", questions=asked)
    [[('What colour is sks?', 'purple')]]
    """
    check_identifier(identifier)
    check_category(category)
    templates = questions or (PERSON_QUESTIONS if is_person(category, kind) else OBJECT_QUESTIONS)
    for template in templates:
        _check_template(template)
    answerable = [
        template
        for template in templates
        if _tokenizer_knows(backbone, template.replace("{}", f"the {category}"))
    ]
    if not answerable:
        return [[] for _ in photos]
    replies = _plain_replies(
        backbone, photos, [template.replace("{}", f"the {category}") for template in answerable]
    )
    pairs = []
    for answers in replies:
        tidied = [_tidy_answer(answer, category, identifier) for answer in answers]
        asked = [template.replace("{}", identifier) for template in answerable]
        pairs.append([(q, a) for q, a in zip(asked, tidied, strict=True) if a])
    return pairs


def _plain_replies(
    backbone: Backbone, photos: Sequence[LoadedImage], prompts: Sequence[str]
) -> list[list[str]]:
    """For each photo the plain model's replies to all prompts; large photos are reduced as for training
    views."""
    if not photos or not prompts:
        return [[] for _ in photos]
    small = [reduced_for_model(backbone.processor, photo, long_side=LONG_SIDE) for photo in photos]
    with naming(photos, backbone.encode):
        replies = backbone.replies_to_each(small, prompts)
    return [[one.text for one in own] for own in replies]


def _tidy_answer(answer: str, category: str, identifier: str) -> str:
    """A short answer without its full stop, and with a leading "the mug" or "this mug" replaced by the
    identifier."""
    answer = answer.strip()
    named = noun_phrases(answer, category)
    bare = {f"{article} {category}".casefold() for article in ("the", "this")}
    if len(named) == 1 and answer.startswith(named[0]) and named[0].casefold() in bare:
        answer = name_in_caption(answer, category, identifier)
    return answer[:-1] if answer.endswith(".") and answer.count(".") == 1 else answer


def _tokenizer_knows(backbone: Backbone, question: str) -> bool:
    """Whether the tokenizer knows every word of a question; a small vocabulary may have to use its unknown
    token."""
    unknown = getattr(backbone.processor.tokenizer, "unk_token_id", None)
    return unknown is None or unknown not in backbone.word_ids(question)


def _check_template(template: str) -> None:
    if template.count("{}") != 1:
        raise InputError(
            "A question about the concept has no place for its name.",
            got=repr(template),
            expected="{} once, such as 'What colour is {}?'",
            fix="write {} in place of the name",
        )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
