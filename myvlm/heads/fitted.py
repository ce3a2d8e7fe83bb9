"""Base classes of heads that keep an encoder, a threshold and some tensors: scoring, saving and loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from myvlm.errors import ConceptFileError
from myvlm.heads.base import Gate, HeadMeta, Tensors, check_fitted
from myvlm.heads.detections import FloatArray, HeadScore
from myvlm.images import ImageSources, load_images


class NamedEncoder(Protocol):
    """An encoder of any kind, with the id under which it can be found again."""

    @property
    def id(self) -> str: ...


Encoder = TypeVar("Encoder", bound=NamedEncoder)

FINGERPRINT = "witness"
"""Name of the tensor of the encoder's fingerprint in concept files."""


class ScoredByGate(ABC):
    """A head that is scored by a gate of itself alone."""

    @classmethod
    @abstractmethod
    def gate(cls, heads: Sequence[Self]) -> Gate:
        """Build the gate of these heads. Raises NotFittedError, or InputError if `gate_key`s differ."""

    def score(self, images: ImageSources) -> list[HeadScore]:
        """Score each picture: probability, presence, most likely box. Raises NotFittedError before `fit`."""
        scores = self.gate([self]).score(load_images(images))
        return [scores.at(picture, 0) for picture in range(len(scores.probabilities))]


class FittedHead(ScoredByGate, Generic[Encoder]):
    """A head that keeps tensors made from an encoder's features, a threshold, and the encoder's fingerprint.

    A subclass adds a constructor that only stores its arguments, `fit`, `gate`, and the four hooks below.

    After `fit`: `threshold_` and `slope_`, which turn a raw score into a probability; `unsure_`, the distance
    from 0.5 below which a probability is unsure; `encoder_fingerprint_` (D); `figures_`, measurements made
    while fitting.
    """

    kind: ClassVar[str]
    privacy: ClassVar[str]

    SETTINGS: ClassVar[tuple[str, ...]]
    """Constructor arguments, besides `encoder` and `device`, that are saved."""
    OLDER_SETTINGS: ClassVar[Mapping[str, Any]] = {}
    """Value of a setting for files that were written before the setting existed."""
    GATE_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Settings that must be equal in all heads of one gate, besides the encoder."""
    CALIBRATION: ClassVar[Mapping[str, str]] = {"slope": "slope_", "unsure": "unsure_"}
    """Name on disk → attribute, for each number of the calibration. The slope is required. The others are 0
    where they are missing, as in older files, and are not written where they are 0."""

    encoder: str | Encoder
    device: str
    threshold_: float
    slope_: float
    unsure_: float
    encoder_fingerprint_: FloatArray
    figures_: dict[str, Any]

    def __repr__(self) -> str:
        name = self.encoder if isinstance(self.encoder, str) else self.encoder.id
        shared = "".join(f", {setting}={getattr(self, setting)!r}" for setting in self.GATE_SETTINGS)
        return f"{type(self).__name__}({name!r}{shared})"

    @property
    def gate_key(self) -> Hashable:
        """The encoder and the `GATE_SETTINGS`: heads with equal keys can share a gate."""
        return (id(self._encoder()), *(getattr(self, setting) for setting in self.GATE_SETTINGS))

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """Return the numbers and the tensors of the head, the encoder's fingerprint among the tensors."""
        check_fitted(self, "threshold_")
        numbers = {name: getattr(self, attribute) for name, attribute in self.CALIBRATION.items()}
        meta = HeadMeta(
            kind=self.kind,
            encoder=self._encoder().id,
            threshold=self.threshold_,
            calibration={name: value for name, value in numbers.items() if value or name == "slope"},
            settings={name: getattr(self, name) for name in self.SETTINGS},
            figures=self.figures_,
        )
        return meta, {**self._tensors(), FINGERPRINT: self.encoder_fingerprint_}

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Tensors, *, device: str = "cpu") -> Self:
        """Restore a head from `state`. Raises ConceptFileError if numbers and tensors do not fit."""
        try:
            settings = {**cls.OLDER_SETTINGS, **meta.settings}
            # every class of this kind takes its settings by name; a type checker cannot see that
            make: Any = cls
            head: Self = make(meta.encoder, **{name: settings[name] for name in cls.SETTINGS}, device=device)
            head._check_settings()
            head.slope_ = meta.calibration["slope"]
            if not head.slope_ > 0:
                raise ValueError(f"slope {head.slope_}")
        except (KeyError, TypeError, ValueError) as error:
            raise cls._misfit(
                f"{type(error).__name__}: {error}", f"the settings of a {cls.__name__}"
            ) from error
        for name, attribute in cls.CALIBRATION.items():
            setattr(head, attribute, meta.calibration.get(name, 0.0))
        head.threshold_, head.figures_ = meta.threshold, dict(meta.figures)
        head.encoder_fingerprint_ = take_tensor(tensors, FINGERPRINT, 1)
        head._take(tensors)
        return head

    @abstractmethod
    def _encoder(self) -> Encoder: ...

    @abstractmethod
    def _check_settings(self) -> None:
        """Raise InputError if a constructor argument is out of range."""

    @abstractmethod
    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the learned tensors by their names on disk, without the fingerprint."""

    @abstractmethod
    def _take(self, tensors: Tensors) -> None:
        """Set the attributes from `_tensors`. Raises ConceptFileError if they do not fit the fingerprint."""

    @classmethod
    def _misfit(cls, got: str, expected: str) -> ConceptFileError:
        return misfit(cls.kind, got, expected)


def misfit(kind: str, got: str, expected: str) -> ConceptFileError:
    """Make the error for a head whose parts do not belong together."""
    return ConceptFileError(
        f"The parts of this {kind} head do not match.",
        got=got,
        expected=expected,
        fix="use an unaltered copy of the concept folder, or learn it again",
    )


def take_tensor(tensors: Tensors, name: str, ndim: int) -> FloatArray:
    """Return a tensor of a head's state as float32.

    Raises:
        ConceptFileError: the tensor is missing, has a wrong shape, or has values that are not finite.
    """
    if name not in tensors:
        raise ConceptFileError(
            f"The head lacks the tensor {name!r}.",
            got=", ".join(sorted(tensors)) or "no tensors",
            expected=name,
            fix="use an unaltered copy of the concept folder, or learn it again",
        )
    tensor = np.asarray(tensors[name], dtype=np.float32)
    finite = bool(np.isfinite(tensor).all())
    if tensor.ndim != ndim or tensor.size == 0 or not finite:
        raise ConceptFileError(
            f"The head's tensor {name!r} is invalid.",
            got=f"shape {tensor.shape}" + ("" if finite else ", with NaN or infinite values"),
            expected=f"{ndim} dimensions, none of them empty, all values finite",
            fix="use an unaltered copy of the concept folder, or learn it again",
        )
    return tensor
