"""The few-shot set: photos with captions that name the concept, questions with answers, and augmented views.

All input by the user is validated here, before anything is encoded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from myvlm.errors import InputError
from myvlm.images import ImageSources, LoadedImage
from myvlm.learning.settings import Settings
from myvlm.text import composed, contains_word

CAPTION_PROMPTS = (
    "Describe the image.",
    "Describe the picture.",
    "What is in the picture?",
    "Write a caption.",
    "What do you see?",
    "Tell me about the picture.",
)
"""Instructions that captions are learned under; with a single one, the name would be tied to it."""

BRIGHTNESS = 0.6
"""The brightness factor of a view is drawn from 1 ± this."""
ROTATION = 45.0
"""A view is rotated by up to this many degrees in either direction."""
LONG_SIDE = 1536
"""Maximum length in pixels of an augmented view's longer side.

Vision towers with a fixed input size see 224 to 896 pixels, LLaVA-NeXT up to 1,008, LLaVA-OneVision as many
tokens as for 1,152 by 1,152, Idefics3 1,536, Mistral 3 1,540. InternVL tiles a photo into up to 1,792 by
1,344, and Qwen takes up to 12 megapixels as they are: both see full resolution in the first view, which is
the photo itself.
"""

_log = logging.getLogger(__name__)
_pixel_counts: WeakKeyDictionary[Any, dict[tuple[int, int], int]] = WeakKeyDictionary()

Captions = Mapping[str, str | Sequence[str]] | Sequence[str | Sequence[str]]
QuestionAnswer = tuple[str, str]
Questions = Mapping[str, Sequence[QuestionAnswer]] | Sequence[QuestionAnswer | Sequence[QuestionAnswer]]

Entry = TypeVar("Entry")


@dataclass(frozen=True, eq=False)
class Lesson:
    """One concept to learn: the arguments of `MyVLM.learn`, under the same names.

    >>> Lesson("sks", ["1.jpg", "2.jpg"], category="mug").kind
    'object'
    """

    identifier: str
    images: ImageSources
    category: str
    captions: Captions | None = None
    questions: Questions | None = None
    negatives: ImageSources | None = None
    kind: str = "object"
    head_options: Mapping[str, Any] | None = None
    settings: Settings | None = None

    def __post_init__(self) -> None:
        if isinstance(self.identifier, str):
            object.__setattr__(self, "identifier", composed(self.identifier))


@dataclass(frozen=True, eq=False)
class LoadedLesson(Lesson):
    """A lesson with its pictures loaded, so that code that uses it opens no files."""

    images: Sequence[LoadedImage]
    negatives: Sequence[LoadedImage] | None = None


@dataclass(frozen=True)
class Example:
    """One photo, its captions (each contains the identifier) and its question/answer pairs."""

    photo: LoadedImage
    captions: tuple[str, ...]
    questions: tuple[QuestionAnswer, ...] = ()


class Augmentation(NamedTuple):
    """Parameters of one view: whether it is mirrored, its brightness factor, its rotation in degrees."""

    flip: bool
    brightness: float
    degrees: float


def gather_examples(
    identifier: str,
    photos: Sequence[LoadedImage],
    captions: Captions,
    questions: Questions | None = None,
) -> list[Example]:
    """Pair every photo with its captions and questions.

    Args:
        identifier: the word that every caption must contain.
        photos: N photos.
        captions: one or more captions for each photo, in the photos' order, or keyed by the name or path of
            the photo's file.
        questions: question/answer pairs: N lists, one per photo, or one list for all photos, or lists keyed
            by the name or path of the photo's file, as `myvlm questions` writes them.

    Raises:
        InputError: counts or names do not match, an entry's name belongs to two files, a caption is not text
            or lacks the identifier, or a pair is malformed.
    """
    if isinstance(captions, Mapping):
        captions = in_order(captions, [_photo_names(photo) for photo in photos], "captions")
    by_photo = _as_list(captions)
    if by_photo is None or len(by_photo) != len(photos):
        one = "one string" if isinstance(captions, str) else type(captions).__name__
        raise InputError(
            "Every photo needs a caption.",
            got=one if by_photo is None else f"{len(by_photo)} captions",
            expected=f"{len(photos)} entries, in the order {', '.join(p.name for p in photos[:5])}",
            fix="pass a caption, or a list of them, per photo; or captions=None to have the model write them",
        )
    asked = _questions_by_photo(questions, photos)
    examples = []
    for photo, written, pairs in zip(photos, by_photo, asked, strict=True):
        own = [written] if isinstance(written, str) else _as_list(written)
        if not own or not all(isinstance(text, str) for text in own):
            raise InputError(
                f"{photo.name} has no caption.",
                got="an empty list" if own == [] else repr(written if own is None else own)[:80],
                expected="a string, or a list of strings",
                fix=f"write a caption that contains {identifier!r}",
            )
        for text in own:
            check_caption(identifier, text, photo.name)
        examples.append(Example(photo, tuple(own), pairs))
    return examples


def check_caption(identifier: str, text: str, where: str) -> None:
    """Raise InputError unless `text` contains the identifier as a whole word, capitalized alike."""
    if not contains_word(text, identifier):
        small = contains_word(text, identifier.lower())
        raise InputError(
            f"The caption of {where} does not name the concept.",
            got=repr(text),
            expected=f"a caption with the word {identifier!r}" + ", with its capital letter" * small,
            fix=f"name the concept, for example: '{identifier} on a table'",
        )


def _questions_by_photo(
    questions: Questions | None, photos: Sequence[LoadedImage]
) -> list[tuple[QuestionAnswer, ...]]:
    count = len(photos)
    if questions is None or (isinstance(questions, Mapping) and not questions):
        return [()] * count
    if isinstance(questions, Mapping):
        questions = in_order(questions, [_photo_names(photo) for photo in photos], "questions")
    asked = _as_list(questions)
    if asked is not None and all(_is_pair(entry) for entry in asked):
        return [tuple((question, answer) for question, answer in asked)] * count
    if blank := [one for one in asked or () if _is_pair(one, blank=True) and not _is_pair(one)]:
        raise InputError(
            "A question or an answer is empty.",
            got=repr(blank[0])[:80],
            expected="('What colour is sks?', 'red')",
            fix="pass pairs of non-empty strings",
        )
    if asked is None or len(asked) != count:
        raise InputError(
            "Questions are given per photo, but not for every photo.",
            got=type(questions).__name__ if asked is None else f"{len(asked)} lists",
            expected=f"{count} lists, or one list of pairs for all photos",
            fix="pass [] for a photo without questions",
        )
    by_photo = []
    for number, one in enumerate(asked):
        entries = _as_list(one)
        wrong = [one] if entries is None else [entry for entry in entries if not _is_pair(entry)]
        if wrong:
            raise InputError(
                f"Entry {number} of the questions is not a list of question/answer pairs.",
                got=repr(wrong[0])[:80], expected="('What colour is sks?', 'red')",
                fix="pass pairs of non-empty strings",
            )  # fmt: skip
        by_photo.append(tuple((question, answer) for question, answer in entries or ()))
    return by_photo


def in_order(by_name: Mapping[str, Entry], photos: Sequence[Sequence[str]], what: str) -> list[Entry]:
    """Return the entries of a mapping in the order of the photos.

    Args:
        by_name: one entry per photo.
        photos: for each photo the names it can be given by, see `file_names`. Names after the first are
            ignored if another photo has them too.
        what: what the entries are, for the error message.

    Raises:
        InputError: a photo has no entry, an entry has no photo, or two entries have the same name.

    >>> in_order({"2.jpg": "two", "a/1.jpg": "one"}, [("a/1.jpg", "1.jpg"), ("a/2.jpg", "2.jpg")], "captions")
    ['one', 'two']
    """
    by_name = by_composed_name(by_name, what)
    photos = [[composed(name) for name in names] for names in photos]
    keys = [_name_with_entry(names, by_name, photos) for names in photos]
    stray = [key for key in by_name if key not in keys]
    lacking = [names[0] for names, key in zip(photos, keys, strict=True) if key is None]
    if stray or lacking:
        fix = "use the photos' file names as keys"
        if any(len(names) == 1 for names in photos):
            fix = "pass a list in the order of the photos: photos in memory have no file name"
        elif shared := [key for key in stray if sum(key in names for names in photos) > 1]:
            fix = f"use the photos' paths as keys: several files are called {shared[0]}"
        raise InputError(
            f"The {what} do not match the photos.",
            got="; ".join(
                f"no {part} {', '.join(names[:5])}{', …' * (len(names) > 5)}"
                for part, names in (("entry for", lacking), ("photo", stray))
                if names
            ),
            expected=f"an entry for each of {', '.join(names[0] for names in photos[:5])}, and no others",
            fix=fix,
        )
    return [by_name[key] for key in keys if key is not None]


def by_composed_name(by_name: Mapping[str, Entry], what: str) -> dict[str, Entry]:
    """Return the entries keyed by composed Unicode names: some systems store letters and accents separately.

    Raises:
        InputError: two names are equal once composed.

    >>> by_composed_name({"Zoe\\u0308.png": "a"}, "captions") == {"Zo\\xeb.png": "a"}
    True
    """
    entries: dict[str, Entry] = {}
    for name, entry in by_name.items():
        key = composed(str(name))
        if key in entries:
            raise InputError(
                f"The {what} have two entries for one photo.",
                got=f"{key!r} twice, in composed and decomposed Unicode",
                expected="one entry for each photo",
                fix="merge the two entries",
            )
        entries[key] = entry
    return entries


def _name_with_entry(
    names: Sequence[str], by_name: Mapping[str, object], photos: Sequence[Sequence[str]]
) -> str | None:
    """The name of a photo that has an entry: the photo's first name, or one that no other photo has."""
    others = [other for other in photos if other[0] != names[0]]
    own = (name for name in names if name == names[0] or not any(name in other for other in others))
    return next((name for name in own if name in by_name), None)


def file_names(file: Path) -> tuple[str, ...]:
    """Return the names that a photo's file can be given by: its path, and its name alone."""
    return str(file), file.as_posix(), file.name


def _photo_names(photo: LoadedImage) -> tuple[str, ...]:
    return (photo.name,) if photo.path is None else (photo.name, *file_names(photo.path))


def _as_list(given: object) -> list[Any] | None:
    """The items of an iterable as a list; None for text, bytes, mappings and anything not iterable."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        return None
    return list(given)


def _is_pair(entry: object, *, blank: bool = False) -> bool:
    """Whether an entry is a question and its answer; with `blank`, either may be empty."""
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and all(isinstance(part, str) and (blank or part.strip()) for part in entry)
    )


def reduced_for_model(processor: Any, photo: LoadedImage, *, long_side: int | None = None) -> Image.Image:
    """Return the photo, reduced to what the model needs if the model sees only a small part of its pixels.

    A photo longer than `LONG_SIDE` is reduced if, for a copy of that length, the processor produces at most a
    quarter of the pixels per side. The result has twice the pixels per side of everything that the processor
    produces, tiles included, and looks the same after resampling. A model that sees every pixel gets every
    pixel.

    Args:
        processor: the model's processor.
        photo: the photo.
        long_side: if given, the maximum longer side for a model that sees more than that.
    """
    factor = max(photo.image.size) / LONG_SIDE
    if factor <= 1:
        return photo.image
    width, height = (round(side / factor) for side in photo.image.size)
    spare = min(width, height) / (2 * max(_pixels_seen(processor, (width, height)), 1) ** 0.5)
    if spare < 2:
        return photo.image if long_side is None else photo.reduced(max(photo.image.size) / long_side)
    return photo.reduced(factor * spare)


def _pixels_seen(processor: Any, size: tuple[int, int]) -> int:
    """Number of pixels that the processor makes of a picture of this size; the picture's own if it fails."""
    known = _pixel_counts.setdefault(processor, {})
    if size not in known:
        try:
            made = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
            known[size] = made["pixel_values"].numel() // 3
        except Exception as error:  # of a third-party processor; encoding the photo will report it
            _log.debug("the resolution that %s uses is unknown: %s", type(processor).__name__, error)
            known[size] = size[0] * size[1]
    return known[size]


def make_views(photo: Image.Image, count: int, *, augment: bool, seed: int) -> list[Image.Image]:
    """Return `count` views of a photo. The first is the photo itself, and without `augment` the only one.

    Flip, brightness 1 ± 0.6 and rotation ± 45° as in §4 of arXiv 2403.14599. Areas uncovered by the rotation
    are filled with the picture's edge. All views but the first are at most `LONG_SIDE` long: at 12 megapixels
    a view takes a second.

    >>> [view.size for view in make_views(Image.new("RGB", (40, 30)), 3, augment=True, seed=0)]
    [(40, 30), (40, 30), (40, 30)]
    """
    if not augment or count == 1:
        return [photo]
    small = _within_long_side(photo)
    return [photo, *(_augmented(small, change) for change in _draw_augmentations(count - 1, seed))]


def held_out_view(photo: Image.Image, count: int, *, augment: bool, seed: int) -> Image.Image:
    """Return the view that would follow the `count` of `make_views`; without `augment` the photo itself."""
    return _augmented(_within_long_side(photo), _draw_augmentations(count, seed)[-1]) if augment else photo


def _draw_augmentations(count: int, seed: int) -> list[Augmentation]:
    random = Random(f"views {seed}")
    darkest, brightest = 1 - BRIGHTNESS, 1 + BRIGHTNESS
    return [
        Augmentation(
            random.random() < 0.5, random.uniform(darkest, brightest), random.uniform(-ROTATION, ROTATION)
        )
        for _ in range(count)
    ]


def _within_long_side(photo: Image.Image) -> Image.Image:
    small = photo.copy()
    small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)  # never enlarges
    return small


def _augmented(photo: Image.Image, change: Augmentation) -> Image.Image:
    view = transforms.horizontal_flip(photo) if change.flip else photo
    return _rotated(transforms.adjust_brightness(view, change.brightness), change.degrees)


def _rotated(view: Image.Image, degrees: float) -> Image.Image:
    width, height = view.size
    margin = math.ceil(0.25 * max(width, height))
    padded = transforms.pad(view, [margin, margin], padding_mode="edge")
    turned = transforms.rotate(padded, degrees, transforms.InterpolationMode.BILINEAR)
    cropped: Image.Image = transforms.center_crop(turned, [height, width])
    return cropped
