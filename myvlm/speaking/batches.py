"""Process many pictures in one call, a few at a time in memory, and keep the others if one is unusable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar, get_args

from myvlm.errors import ImageError, InputError, MissingFileError
from myvlm.images import LoadedImage, Source, loaded

AT_ONCE = 16
"""Pictures that are in memory at once."""

OnError: TypeAlias = Literal["raise", "keep"]
"""What to do about an unusable picture: raise its error, or return the error in its place."""

PictureError: TypeAlias = ImageError | MissingFileError
Result = TypeVar("Result")


def check_on_error(errors: object) -> bool:
    """Whether errors are kept. Raises InputError unless `errors` is an `OnError`.

    >>> check_on_error("keep")
    True
    """
    if not isinstance(errors, str) or errors not in get_args(OnError):
        raise InputError(
            "`errors` is invalid.",
            got=repr(errors)[:80],
            expected='errors="raise", or errors="keep" for a reply that contains the error instead',
            fix="omit errors to raise the first one",
        )
    return errors == "keep"


def map_in_batches(
    sources: Sequence[Source],
    make: Callable[[list[LoadedImage]], list[Result]],
    placeholder: Callable[[PictureError, Source], Result] | None = None,
) -> list[Result]:
    """Call `make` on all pictures, `AT_ONCE` at a time, and return its results in order.

    Args:
        sources: from `images.listed`.
        make: returns one result for each picture of a batch; its ImageError says by `number` which picture
            of the batch it is about.
        placeholder: makes the result for an unusable picture. If it is not given, the error is raised; and if
            there are more than `AT_ONCE` pictures, every file is read once before the first call of `make`,
            so that a broken one is found before the long work begins.

    Raises:
        ImageError: a picture is unusable; `number` is its index among all pictures, `replies` the results of
            the batches before.
    """
    done: list[Result] = []
    if placeholder is None and len(sources) > AT_ONCE:
        for place in range(len(sources)):
            _load(sources, place)
    for start in range(0, len(sources), AT_ONCE):
        try:
            done += _map_batch(sources[start : start + AT_ONCE], make, placeholder)
        except ImageError as error:
            if error.number is not None:
                error.number += start
            error.replies = tuple(done)
            raise
    return done


def _map_batch(
    sources: Sequence[Source],
    make: Callable[[list[LoadedImage]], list[Result]],
    placeholder: Callable[[PictureError, Source], Result] | None,
) -> list[Result]:
    made: dict[int, Result] = {}
    photos: dict[int, LoadedImage] = {}
    for place, source in enumerate(sources):
        try:
            photos[place] = _load(sources, place)
        except (ImageError, MissingFileError) as error:
            if placeholder is None:
                raise
            made[place] = placeholder(error, source)
    while photos:
        try:
            made |= zip(photos, make(list(photos.values())), strict=True)
            break
        except ImageError as error:
            if error.number is None:
                raise
            error.number = place = list(photos)[error.number]
            if placeholder is None:
                raise
            del photos[place]  # try the rest of the batch again without it
            made[place] = placeholder(error, sources[place])
    return [made[place] for place in range(len(sources))]


def _load(sources: Sequence[Source], place: int) -> LoadedImage:
    try:
        return loaded(sources[place])
    except ImageError as error:
        error.number = place
        raise
