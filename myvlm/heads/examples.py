"""Examples of a head: features of its training photos and of the pictures a user has corrected it on.

A head that keeps examples can be corrected without its photos: it is refitted, from its state before any
correction, to all features that are kept. Examples hold no pixels.
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
    """A correction: a user states whether one picture shows the concept.

    Attributes:
        picture: name of its file, or another name for it.
        digest: digest of its pixels, which identifies it; for the photos of another concept see `photos_of`.
        present: whether it shows the concept.
        box: the part of the picture that is meant: left, top, right, bottom in pixels; None for the whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    picture: str
    digest: str
    present: bool
    box: Box | None = None

    @classmethod
    def photos_of(cls, identifier: str, spoken: str) -> Self:
        """Make the correction that the photos of another concept do not show this one.

        Args:
            identifier: the other concept's identifier.
            spoken: the word that it was learned with; it stands in the digest.
        """
        return cls(picture=f"photos of {identifier}", digest=f"{_CONCEPT}{spoken}", present=False)

    @property
    def of_concept(self) -> bool:
        """Whether this correction is about the photos of another concept."""
        return self.digest.startswith(_CONCEPT)

    @property
    def summary(self) -> str:
        """The correction in words.

        >>> CorrectedPicture(picture="desk.jpg", digest="", present=False).summary
        'desk.jpg: not there'
        """
        part = f" at ({', '.join(f'{edge:.0f}' for edge in self.box)})" if self.box else ""
        return f"{self.picture}{part}: {'there' if self.present else 'not there'}"


class ExamplesMeta(BaseModel):
    """The part of `Examples` that is not tensors, as it is written into `concept.json`.

    Attributes:
        threshold: the head's threshold before any correction.
        corrections: in the order in which they were made.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    threshold: float
    corrections: list[CorrectedPicture]


@dataclass(frozen=True, eq=False)
class Examples:
    """Features of N photos and of K windows without the concept, the head's start state, and corrections.

    Attributes:
        meta: the corrections, and the head's threshold before them.
        tensors: the tensors that the properties below return, under their names on disk.
    """

    meta: ExamplesMeta
    tensors: Tensors

    @classmethod
    def of(
        cls, photos: npt.NDArray[Any], others: npt.NDArray[Any], *, start: Tensors, threshold: float
    ) -> Examples:
        """Make the examples of a head that has not been corrected yet; see the properties for shapes."""
        begun = {f"{_START}{name}": tensor for name, tensor in start.items()}
        return Examples(
            ExamplesMeta(threshold=threshold, corrections=[]),
            {_PHOTOS: photos, _OTHERS: others, **begun},
        )

    @property
    def photos(self) -> FloatArray:
        """N × R × D: for each photo, its R windows that show the concept best, or its one face."""
        return np.asarray(self.tensors[_PHOTOS], dtype=np.float32)

    @property
    def others(self) -> FloatArray:
        """K × D: the windows most like the concept from pictures without it, such as everyday photographs."""
        return np.asarray(self.tensors[_OTHERS], dtype=np.float32)

    @property
    def start(self) -> dict[str, npt.NDArray[Any]]:
        """The head's tensors before any correction."""
        named = {name: one for name, one in self.tensors.items() if name.startswith(_START)}
        return {name.removeprefix(_START): one for name, one in named.items()}

    @property
    def corrections(self) -> list[CorrectedPicture]:
        """The corrections, oldest first."""
        return list(self.meta.corrections)

    @property
    def rows(self) -> list[FloatArray]:
        """For each correction, the n × D features of its picture or of the part that is meant."""
        numbers = range(len(self.meta.corrections))
        return [np.asarray(self.tensors[f"{_CORRECTION}{one}"], dtype=np.float32) for one in numbers]

    def with_correction(self, correction: CorrectedPicture, rows: npt.NDArray[Any]) -> Examples:
        """Add a correction; earlier ones about that picture, or about the same part of it, are dropped."""
        kept = self.without(correction.digest, correction.box)
        number = len(kept.meta.corrections)
        return Examples(
            kept.meta.model_copy(update={"corrections": [*kept.meta.corrections, correction]}),
            {**kept.tensors, f"{_CORRECTION}{number}": rows},
        )

    def without(self, digest: str, box: Box | None = None) -> Examples:
        """Drop corrections about that part of a picture, or about all its parts where no box is given.

        Corrections about the whole picture are dropped in both cases.
        """
        return self.only(
            number
            for number, one in enumerate(self.meta.corrections)
            if one.digest != digest or (box is not None and one.box is not None and one.box != box)
        )

    def only(self, numbers: Iterable[int]) -> Examples:
        """Keep only the corrections with these indices."""
        kept = list(numbers)
        rest = {name: one for name, one in self.tensors.items() if not name.startswith(_CORRECTION)}
        rows = {f"{_CORRECTION}{n}": self.tensors[f"{_CORRECTION}{old}"] for n, old in enumerate(kept)}
        corrections = [self.meta.corrections[number] for number in kept]
        return Examples(self.meta.model_copy(update={"corrections": corrections}), {**rest, **rows})


class StoredExamples(Examples):
    """Examples in a concept folder; their tensors are read and checked on first use.

    Args:
        meta: the examples' part of `concept.json`.
        read: returns the tensors. Raises ConceptFileError if the file is not as it was written.
    """

    _read: Callable[[], Tensors]

    def __init__(self, meta: ExamplesMeta, read: Callable[[], Tensors]) -> None:
        object.__setattr__(self, "meta", meta)  # the dataclass is frozen
        object.__setattr__(self, "_read", read)

    @cached_property
    def tensors(self) -> Tensors:
        """The tensors, read once. Raises ConceptFileError if the file is not as it was written."""
        return check_examples(self.meta, self._read())


def check_examples(meta: ExamplesMeta, tensors: Tensors) -> Tensors:
    """Return the tensors if they fit the corrections. Raises ConceptFileError if they do not."""
    rows = [f"{_CORRECTION}{number}" for number in range(len(meta.corrections))]
    shapes = {name: one.shape for name, one in tensors.items() if not name.startswith(_START)}
    as_named = set(shapes) == {_PHOTOS, _OTHERS, *rows}
    fit = as_named and all(len(shape) == (3 if name == _PHOTOS else 2) for name, shape in shapes.items())
    one_length = fit and len({shape[-1] for shape in shapes.values()}) == 1
    filled = all(0 not in shape for name, shape in shapes.items() if name != _OTHERS)
    finite = all(bool(np.isfinite(one).all()) for one in tensors.values())
    if not (one_length and filled and finite):
        raise ConceptFileError(
            "The training features of this head are invalid.",
            got=f"shapes {shapes}" + ("" if finite else ", with values that are not finite"),
            expected=f"{', '.join([_PHOTOS, _OTHERS, *rows])}: features of equal length, all values finite",
            fix="use an unaltered copy of the concept folder, or learn it again",
        )
    return tensors


@runtime_checkable
class Correctable(Head, Protocol):
    """A head that can be corrected without its photos. The methods return a new head and leave this one.

    Attributes:
        examples_: the examples it was learned from, as kept on disk; None where none are kept.
        exclusive: whether its gate assigns a face or object that several heads claim to only one of them, so
            that these heads need not be trained against each other.
    """

    exclusive: ClassVar[bool]
    examples_: Examples | None

    def known_examples(self) -> Examples:
        """Return the examples the head was learned from. Raises InputError if its file does not hold them."""
        ...

    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """Return this head with examples made from its photos; for a head whose file does not hold them."""
        ...

    def corrected(self, photo: LoadedImage, present: bool, box: Box | None = None) -> Self:
        """Return a head that has learned whether a picture, or the part in the box, shows the concept."""
        ...

    def refitted(self, examples: Examples) -> Self:
        """Return the head refitted from the start state in the examples to all corrections in them."""
        ...


@runtime_checkable
class FeatureGate(Gate, Protocol):
    """A gate that also scores kept features of photos, without the photos."""

    def likely(self, photos: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
        """Score the kept features of N photos, each R × D → N × M probabilities."""
        ...
