"""Many pictures in one call: a few are open at a time, and of one that cannot be used no other is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar, get_args

from myvlm.errors import ImageError, InputError, MissingFileError
from myvlm.images import LoadedImage, Source, loaded

AT_ONCE = 16
"""Pictures that are open together."""

OnError: TypeAlias = Literal["raise", "keep"]
"""What becomes of a picture that cannot be used: the call ends, or its error stands in its place."""

Refusal: TypeAlias = ImageError | MissingFileError
Made = TypeVar("Made")


def check_on_error(errors: object) -> bool:
    """Whether errors are kept. Raises InputError unless it is one of the two words.

    >>> check_on_error("keep")
    True
    """
    if not isinstance(errors, str) or errors not in get_args(OnError):
        raise InputError(
            "That cannot be what becomes of a picture that cannot be used.",
            got=repr(errors)[:80],
            expected='errors="raise", or errors="keep" for a reply that holds the error in its place',
            fix="leave errors out: the first one is raised",
        )
    return errors == "keep"


def made_of_each(
    sources: Sequence[Source],
    make: Callable[[list[LoadedImage]], list[Made]],
    instead: Callable[[Refusal, Source], Made] | None = None,
) -> list[Made]:
    """What is made of each picture, in order, some at a time: a whole album takes the memory of a few.

    Args:
        sources: what `listed` gives.
        make: makes one thing of each of some pictures; its ImageError says by `number` which of them it is
            about.
        instead: what stands in the place of a picture that cannot be used. Where it is not given the error
            is raised; of many pictures every file is then read once before the first is handed to `make`, so
            that long work does not find a broken one in its midst.

    Raises:
        ImageError: of a picture that cannot be used; its `number` is the picture's place among all, and
            `replies` are what was made of those before.
    """
    done: list[Made] = []
    if instead is None and len(sources) > AT_ONCE:
        for place in range(len(sources)):
            _load(sources, place)
    for start in range(0, len(sources), AT_ONCE):
        try:
            done += _made(sources[start : start + AT_ONCE], make, instead)
        except ImageError as error:
            if error.number is not None:
                error.number += start
            error.replies = tuple(done)
            raise
    return done


def _made(
    sources: Sequence[Source],
    make: Callable[[list[LoadedImage]], list[Made]],
    instead: Callable[[Refusal, Source], Made] | None,
) -> list[Made]:
    made: dict[int, Made] = {}
    photos: dict[int, LoadedImage] = {}
    for place, source in enumerate(sources):
        try:
            photos[place] = _load(sources, place)
        except (ImageError, MissingFileError) as error:
            if instead is None:
                raise
            made[place] = instead(error, source)
    while photos:
        try:
            made |= zip(photos, make(list(photos.values())), strict=True)
            break
        except ImageError as error:
            if error.number is None:
                raise
            error.number = place = list(photos)[error.number]
            if instead is None:
                raise
            del photos[place]  # the others once more, without it
            made[place] = instead(error, sources[place])
    return [made[place] for place in range(len(sources))]


def _load(sources: Sequence[Source], place: int) -> LoadedImage:
    try:
        return loaded(sources[place])
    except ImageError as error:
        error.number = place
        raise
