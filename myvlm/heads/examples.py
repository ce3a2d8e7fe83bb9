"""What a head was learned from, as its encoder saw it, and what a user has said of pictures since; no pixels.

A head that keeps these can be corrected by one picture more, without the photos: the same head is fitted anew
to all that is kept, from where it started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from myvlm.boxes import Box
from myvlm.errors import ConceptFileError
from myvlm.heads.base import Gate, Head, Tensors
from myvlm.heads.detections import FloatArray
from myvlm.images import ImageSources, LoadedImage

_CONCEPT = "concept "  # a digest of pixels has no space
_PHOTOS, _OTHERS, _START, _CORRECTION = "photos", "others", "start.", "correction."


class CorrectedPicture(BaseModel):
    """One picture of which a user has said whether it shows the concept.

    Attributes:
        picture: the name of its file, or what else it is called.
        digest: of its pixels, by which it is known again; for the photos of another concept see `photos_of`.
        present: whether it shows the concept.
        box: left, top, right, bottom in its pixels: the part of it that is meant; None for all of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    picture: str
    digest: str
    present: bool
    box: Box | None = None

    @classmethod
    def photos_of(cls, identifier: str, spoken: str) -> Self:
        """The photos of another concept, by the word that it was learned with: they do not show this one."""
        return cls(picture=f"photos of {identifier}", digest=f"{_CONCEPT}{spoken}", present=False)

    @property
    def of_concept(self) -> bool:
        """Whether it stands for the photos of another concept."""
        return self.digest.startswith(_CONCEPT)

    @property
    def summary(self) -> str:
        """In words.

        >>> CorrectedPicture(picture="desk.jpg", digest="", present=False).summary
        'desk.jpg: not there'
        """
        part = f" at ({', '.join(f'{edge:.0f}' for edge in self.box)})" if self.box else ""
        return f"{self.picture}{part}: {'there' if self.present else 'not there'}"


class ExamplesMeta(BaseModel):
    """All that examples keep besides tensors; it is written into `concept.json`.

    Attributes:
        threshold: the head's, before it was corrected.
        corrections: in the order in which they were made.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    threshold: float
    corrections: list[CorrectedPicture]


@dataclass(frozen=True, eq=False)
class Examples:
    """N photos, K other pictures, and the head that was learned from them.

    Attributes:
        meta: the corrections, and the head's threshold before them.
        tensors: what the properties below give, under their names on disk.
    """

    meta: ExamplesMeta
    tensors: Tensors

    @classmethod
    def of(
        cls, photos: npt.NDArray[Any], others: npt.NDArray[Any], *, start: Tensors, threshold: float
    ) -> Examples:
        """What a head was learned from that was not corrected yet; see the properties."""
        begun = {f"{_START}{name}": tensor for name, tensor in start.items()}
        return Examples(
            ExamplesMeta(threshold=threshold, corrections=[]),
            {_PHOTOS: photos, _OTHERS: others, **begun},
        )

    @property
    def photos(self) -> FloatArray:
        """N × R × D: of each photo the R windows that show the concept best, or its one face."""
        return np.asarray(self.tensors[_PHOTOS], dtype=np.float32)

    @property
    def others(self) -> FloatArray:
        """K × D: what looks most like it among pictures without it, such as everyday photographs."""
        return np.asarray(self.tensors[_OTHERS], dtype=np.float32)

    @property
    def start(self) -> dict[str, npt.NDArray[Any]]:
        """The tensors of the head, before it was corrected."""
        named = {name: one for name, one in self.tensors.items() if name.startswith(_START)}
        return {name.removeprefix(_START): one for name, one in named.items()}

    @property
    def corrections(self) -> list[CorrectedPicture]:
        """The pictures of which a user has said whether they show the concept, the first first."""
        return list(self.meta.corrections)

    @property
    def rows(self) -> list[FloatArray]:
        """The features of each of these pictures, or of the part that is meant, n × D."""
        numbers = range(len(self.meta.corrections))
        return [np.asarray(self.tensors[f"{_CORRECTION}{one}"], dtype=np.float32) for one in numbers]

    def with_correction(self, correction: CorrectedPicture, rows: npt.NDArray[Any]) -> Examples:
        """One more; what was said before of that picture, or of the same part of it, is dropped."""
        kept = self.without(correction.digest, correction.box)
        number = len(kept.meta.corrections)
        return Examples(
            kept.meta.model_copy(update={"corrections": [*kept.meta.corrections, correction]}),
            {**kept.tensors, f"{_CORRECTION}{number}": rows},
        )

    def without(self, digest: str, box: Box | None = None) -> Examples:
        """Without what was said of that part of a picture; of all its parts where no box is given."""
        return self.only(
            number
            for number, one in enumerate(self.meta.corrections)
            if one.digest != digest or (box is not None and one.box is not None and one.box != box)
        )

    def only(self, numbers: Iterable[int]) -> Examples:
        """With these of the corrections, by their numbers."""
        kept = list(numbers)
        rest = {name: one for name, one in self.tensors.items() if not name.startswith(_CORRECTION)}
        rows = {f"{_CORRECTION}{n}": self.tensors[f"{_CORRECTION}{old}"] for n, old in enumerate(kept)}
        corrections = [self.meta.corrections[number] for number in kept]
        return Examples(self.meta.model_copy(update={"corrections": corrections}), {**rest, **rows})


class StoredExamples(Examples):
    """Examples in a concept folder; their tensors are read and checked when they are first asked for.

    Args:
        meta: what `concept.json` says of them.
        read: gives the tensors. Raises ConceptFileError where the file is not as it was written.
    """

    _read: Callable[[], Tensors]

    def __init__(self, meta: ExamplesMeta, read: Callable[[], Tensors]) -> None:
        object.__setattr__(self, "meta", meta)  # it is frozen
        object.__setattr__(self, "_read", read)

    @cached_property
    def tensors(self) -> Tensors:
        """Raises ConceptFileError if the file is not as it was written."""
        return check_examples(self.meta, self._read())


def check_examples(meta: ExamplesMeta, tensors: Tensors) -> Tensors:
    """The tensors. Raises ConceptFileError unless they are what examples with these corrections hold."""
    rows = [f"{_CORRECTION}{number}" for number in range(len(meta.corrections))]
    shapes = {name: one.shape for name, one in tensors.items() if not name.startswith(_START)}
    as_named = set(shapes) == {_PHOTOS, _OTHERS, *rows}
    fit = as_named and all(len(shape) == (3 if name == _PHOTOS else 2) for name, shape in shapes.items())
    one_length = fit and len({shape[-1] for shape in shapes.values()}) == 1
    filled = all(0 not in shape for name, shape in shapes.items() if name != _OTHERS)
    finite = all(bool(np.isfinite(one).all()) for one in tensors.values())
    if not (one_length and filled and finite):
        raise ConceptFileError(
            "What this head was learned from cannot be used.",
            got=f"shapes {shapes}" + ("" if finite else ", with values that are not finite"),
            expected=f"{', '.join([_PHOTOS, _OTHERS, *rows])}: features of one length, all finite",
            fix="use an unaltered copy of the concept folder, or learn it again",
        )
    return tensors


@runtime_checkable
class Correctable(Head, Protocol):
    """A head that learns from one picture more, without the photos; it stays as it is, another is given.

    Attributes:
        examples_: what it was learned from, as it is kept on disk; None where nothing is kept.
        exclusive: whether its gate gives what several heads claim to one of them, so that they need not be
            trained against each other.
    """

    exclusive: ClassVar[bool]
    examples_: Examples | None

    def known_examples(self) -> Examples:
        """What it was learned from. Raises InputError where its file does not hold it."""
        ...

    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """The same head, which knows what it was learned from; for those of files that do not hold it."""
        ...

    def corrected(self, photo: LoadedImage, present: bool, box: Box | None = None) -> Self:
        """The head that was told whether the picture, or the part of it in the box, shows the concept."""
        ...

    def refitted(self, examples: Examples) -> Self:
        """The head that these examples, with what is said in them, make of where it started."""
        ...


@runtime_checkable
class RemembersPhotos(Gate, Protocol):
    """A gate that also scores photos of which only features are left."""

    def likely(self, photos: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
        """N photos, each R × D → N × M probabilities."""
        ...
