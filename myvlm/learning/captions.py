"""What the frozen model itself writes about photos: captions that name the concept, and answers about it.

Where the user gives no captions these are learned from, marked as the model's own; questions and answers are
written to be read before use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from myvlm.backbones import Backbone
from myvlm.backbones.tokens import as_written
from myvlm.errors import InputError
from myvlm.images import LoadedImage, naming
from myvlm.learning.dataset import CAPTION_PROMPTS, LONG_SIDE, QuestionAnswer, as_seen
from myvlm.learning.noun_phrases import ARTICLES, mentions, name_in_caption, noun_phrases
from myvlm.text import check_category, check_identifier, count_word, replace_word

PEOPLE = frozenset(
    "person man woman boy girl child baby lady gentleman guy teenager toddler friend mother father sister "
    "brother grandmother grandfather".split()
)
"""Categories that are asked as people are."""

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
"""Words that a model may use for a category; tried in this order where it does not use the category's own."""

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
"""What is asked (the paper's kinds); `{}` stands for the concept."""


def is_person(category: str, kind: str = "object") -> bool:
    """Whether a concept is asked about as people are: its head knows faces, or its category is a person's.

    >>> is_person("old man"), is_person("mug"), is_person("violinist", "face")
    (True, False, True)
    """
    return kind in ("face", "person") or category.split()[-1].casefold() in PEOPLE


def write_captions(
    backbone: Backbone, photos: Sequence[LoadedImage], *, identifier: str, category: str
) -> list[list[str]]:
    """Captions by the frozen model that name the concept.

    A photo is described under each instruction that captions are learned under, so that there are several
    captions where the model has several ways to say it. It is first told who is who, "sks is the mug.", and
    says the name where a sentence would have it, mostly first. Plain captions have the thing in any place,
    and what is learned from them names it half as often (benchmarks/RESULTS.md). Where a model does not take
    the hint, its plain captions are used, the noun phrase for the category replaced.

    Args:
        backbone: the frozen model.
        photos: N photos.
        identifier: the word that goes in.
        category: what the model is expected to call the thing.

    Returns: for each photo one caption or several, each with the identifier in it.

    >>> from myvlm import MyVLM
    >>> from myvlm.images import load_images
    >>> from myvlm.tinyworld import few_shot
    >>> kit = few_shot(0, photos=1)
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava")
    >>> [own] = write_captions(vlm.backbone, load_images(kit.photos()), identifier="sks", category="mug")
    >>> all("sks" in caption and "mug" not in caption for caption in own)
    True
    """
    told = _answers(backbone, photos, _hinted(backbone, identifier, category))
    return _named(backbone, photos, told, identifier, category)


def captions_and_words(
    backbone: Backbone, photos: Sequence[LoadedImage], *, identifier: str, category: str
) -> tuple[list[list[str]], tuple[str, ...]]:
    """What `write_captions` and `described` give, generated at once: a pass of the model a token, not two."""
    hinted = _hinted(backbone, identifier, category)
    replies = _answers(backbone, photos, [*hinted, backbone.caption_prompt])
    captions = _named(backbone, photos, [own[: len(hinted)] for own in replies], identifier, category)
    return captions, _called([own[-1] for own in replies], category)


def _prompts(backbone: Backbone) -> list[str]:
    return _distinct([backbone.caption_prompt, *(backbone.caption_prompts or CAPTION_PROMPTS)])


def _hinted(backbone: Backbone, identifier: str, category: str) -> list[str]:
    """The instructions to describe, with who is who said first, where the family has a place for that."""
    hint = f"{identifier} is the {category}."
    asked = (backbone.hinted(hint, prompt) for prompt in _prompts(backbone))
    return [prompt for prompt in asked if prompt is not None]


def _named(
    backbone: Backbone,
    photos: Sequence[LoadedImage],
    told: Sequence[Sequence[str]],
    identifier: str,
    category: str,
) -> list[list[str]]:
    """Captions of each photo that name the concept, of those by the model that was told the name."""
    word = as_written(backbone, identifier)
    named = [
        [replace_word(text, word, identifier) for text in told_captions(texts, category, word)]
        for texts in told
    ]
    plainly = [photo for photo, own in zip(photos, named, strict=True) if not own]
    plain = iter(_answers(backbone, plainly, _prompts(backbone)))
    return [own or named_captions(next(plain), category, identifier) for own in named]


def described(backbone: Backbone, photos: Sequence[LoadedImage], category: str) -> tuple[str, ...]:
    """The words in which the frozen model's captions of most photos call the thing, the category's last.

    From them learning starts (`LearnSettings.start`), so that the name is from the first of this mug and not
    of every mug (benchmarks/RESULTS.md). What stands behind the noun, how people are dressed that day, is
    left out.

    Args:
        backbone: the frozen model.
        photos: N photos.
        category: what the model is expected to call the thing.

    >>> from myvlm import MyVLM
    >>> from myvlm.images import load_images
    >>> from myvlm.tinyworld import few_shot
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava")
    >>> described(vlm.backbone, load_images(few_shot(0).photos()), "mug")
    ('dotted', 'purple', 'mug')
    """
    return _called([text for [text] in _answers(backbone, photos, [backbone.caption_prompt])], category)


def _called(texts: Sequence[str], category: str) -> tuple[str, ...]:
    """The words in which most of some plain captions call the thing."""
    return common_words([phrase for text in texts for phrase in noun_phrases(text, category)[:1]], category)


def common_words(phrases: Sequence[str], category: str) -> tuple[str, ...]:
    """The describing words that more than half of the noun phrases have, and the category.

    >>> common_words(["a big red mug", "the red mug", "the mug"], "mug"), common_words([], "coffee mug")
    (('red', 'mug'), ('coffee mug',))
    """
    left_out = {*ARTICLES, *category.casefold().split()}
    often = Counter(word for one in phrases for word in dict.fromkeys(one.casefold().split()))
    return (*(w for w, count in often.items() if 2 * count > len(phrases) and w not in left_out), category)


def told_captions(texts: Sequence[str], category: str, identifier: str) -> list[str]:
    """Of captions by a model that was told the name those that use it once and do not say the category too.

    >>> told_captions(["sks on a tray.", "sks by a mug.", "sks", "a tray."], "mug", "sks")
    ['sks on a tray.']
    """

    def right(text: str) -> bool:
        return count_word(text, identifier) == 1 and not mentions(text, category) and len(text.split()) > 2

    return _distinct(text for text in texts if right(text))


def named_captions(texts: Sequence[str], category: str, identifier: str) -> list[str]:
    """Several captions of one photo with the identifier in place of the category, the doubtful ones left out.

    Those that mention the category once are kept. Where there are none: those with another word for it; those
    that mention it more than once, the first replaced; at last all, with the identifier put in front.

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
    """Question/answer pairs about the concept, answered by the frozen model, for somebody to look through.

    The model is asked about "the mug"; in the pair the identifier stands in its place. What its tokenizer
    cannot read is not asked, and what it has no answer to is left out.

    Args:
        backbone: the frozen model.
        photos: N photos with the concept in them.
        identifier: the word that the pairs use.
        category: what the model is asked about.
        kind: of the head; people are asked about clothes, hair and faces, see `is_person`.
        questions: others than ours, each with `{}` where the concept is named.

    Returns: for each photo its pairs.

    Raises:
        InputError: a question lacks `{}`, or the identifier or category cannot be one.

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
    forms = questions or (PERSON_QUESTIONS if is_person(category, kind) else OBJECT_QUESTIONS)
    for form in forms:
        _check_form(form)
    readable = [form for form in forms if _reads(backbone, form.replace("{}", f"the {category}"))]
    if not readable:
        return [[] for _ in photos]
    replies = _answers(backbone, photos, [form.replace("{}", f"the {category}") for form in readable])
    pairs = []
    for answers in replies:
        tidied = [_tidy(answer, category, identifier) for answer in answers]
        asked = [form.replace("{}", identifier) for form in readable]
        pairs.append([(q, a) for q, a in zip(asked, tidied, strict=True) if a])
    return pairs


def _answers(backbone: Backbone, photos: Sequence[LoadedImage], prompts: Sequence[str]) -> list[list[str]]:
    """What the plain model says to each prompt, by photo; a large one is looked at as its views are."""
    if not photos or not prompts:
        return [[] for _ in photos]
    small = [as_seen(backbone.processor, photo, long_side=LONG_SIDE) for photo in photos]
    with naming(photos, backbone.encode):
        replies = backbone.replies_to_each(small, prompts)
    return [[one.text for one in own] for own in replies]


def _tidy(answer: str, category: str, identifier: str) -> str:
    """A short answer without its full stop; where it speaks of the thing, by the identifier."""
    answer = answer.strip()
    named = noun_phrases(answer, category)
    bare = {f"{article} {category}".casefold() for article in ("the", "this")}
    if len(named) == 1 and answer.startswith(named[0]) and named[0].casefold() in bare:
        answer = name_in_caption(answer, category, identifier)
    return answer[:-1] if answer.endswith(".") and answer.count(".") == 1 else answer


def _reads(backbone: Backbone, question: str) -> bool:
    """Whether the tokenizer knows all words of a question; a small one has a sign for those it does not."""
    unknown = getattr(backbone.processor.tokenizer, "unk_token_id", None)
    return unknown is None or unknown not in backbone.word_ids(question)


def _check_form(form: str) -> None:
    if form.count("{}") != 1:
        raise InputError(
            "A question about the concept does not say where the concept is named.",
            got=repr(form),
            expected="{} once, such as 'What colour is {}?'",
            fix="put {} where you would write the concept",
        )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
