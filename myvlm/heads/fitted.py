"""What the fitted heads share: one encoder, a threshold and tensors, how they are scored, kept and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from myvlm.errors import ConceptFileError, InputError
from myvlm.heads.base import Gate, HeadMeta, Tensors, check_fitted
from myvlm.heads.detections import FloatArray, HeadScore
from myvlm.images import ImageSources, load_images


class NamedEncoder(Protocol):
    """An encoder of whatever kind: it has a name under which it is found again."""

    @property
    def id(self) -> str: ...


Encoder = TypeVar("Encoder", bound=NamedEncoder)

FINGERPRINT = "witness"
"""What the tensor of the encoder's fingerprint is called in concept files."""


class ScoredByGate(ABC):
    """A head whose score of a picture is what the gate of it alone says."""

    @classmethod
    @abstractmethod
    def gate(cls, heads: Sequence[Self]) -> Gate:
        """Score all heads at once. Raises NotFittedError, or InputError if `gate_key`s differ."""

    def score(self, images: ImageSources) -> list[HeadScore]:
        """Probability, presence and likeliest box for each picture. Raises NotFittedError before `fit`."""
        scores = self.gate([self]).score(load_images(images))
        return [scores.at(picture, 0) for picture in range(len(scores.probabilities))]


class FittedHead(ScoredByGate, Generic[Encoder]):
    """A head that keeps what an encoder makes of its concept, a threshold, and the encoder's fingerprint.

    A subclass adds its constructor, which only stores its arguments, `fit`, `gate` and the four hooks below.

    After `fit`: `threshold_` and `slope_`, which turn a raw score into a probability; `unsure_`, how near to
    0.5 a probability is unsure; `encoder_fingerprint_` (D); `figures_`, what was measured on the way.
    """

    kind: ClassVar[str]
    privacy: ClassVar[str]

    SETTINGS: ClassVar[tuple[str, ...]]
    """Arguments of the constructor, besides `encoder` and `device`, that are kept on disk."""
    OLDER_SETTINGS: ClassVar[Mapping[str, Any]] = {}
    """What a setting was in files that were written before it came."""
    GATE_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Settings that heads of one gate agree in, besides the encoder."""
    CALIBRATION: ClassVar[Mapping[str, str]] = {"slope": "slope_", "unsure": "unsure_"}
    """Name on disk → attribute of each number of the calibration. The slope must be there; others are 0 where
    they are missing, as in older files, and are not written where they are 0."""

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
        """The encoder and what else heads of one gate agree in."""
        return (id(self._encoder()), *(getattr(self, setting) for setting in self.GATE_SETTINGS))

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """What was learned: the tensors, with the encoder's fingerprint, and the numbers around them."""
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
        """The head that `state` described. Raises ConceptFileError if numbers and tensors do not fit."""
        try:
            settings = {**cls.OLDER_SETTINGS, **meta.settings}
            # every class of this kind takes its settings by name; a type checker cannot see that
            make: Any = cls
            head: Self = make(meta.encoder, **{name: settings[name] for name in cls.SETTINGS}, device=device)
            head._check_settings()
            head.slope_ = meta.calibration["slope"]
        except (KeyError, TypeError, InputError) as error:
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
        """Raise InputError if an argument of the constructor is out of range."""

    @abstractmethod
    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, by its name on disk, besides the fingerprint."""

    @abstractmethod
    def _take(self, tensors: Tensors) -> None:
        """Take over `_tensors`. Raises ConceptFileError where they do not fit the fingerprint."""

    @classmethod
    def _misfit(cls, got: str, expected: str) -> ConceptFileError:
        return misfit(cls.kind, got, expected)


def misfit(kind: str, got: str, expected: str) -> ConceptFileError:
    """The error for a head whose parts are not of one piece."""
    return ConceptFileError(
        f"The parts of this {kind} head do not fit together.",
        got=got,
        expected=expected,
        fix="use an unaltered copy of the concept folder, or learn it again",
    )


def take_tensor(tensors: Tensors, name: str, ndim: int) -> FloatArray:
    """A tensor of a head's state as float32. Raises ConceptFileError if missing, misshapen or not finite."""
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
            f"The head's tensor {name!r} cannot be right.",
            got=f"shape {tensor.shape}" + ("" if finite else ", with NaN or infinite values"),
            expected=f"{ndim} dimensions, none of them empty, all values finite",
            fix="use an unaltered copy of the concept folder, or learn it again",
        )
    return tensor
