"""What a head is: the contract that every recogniser keeps, and the small types it speaks in.

A head learns one concept from a few photos and then says whether the concept is in a picture, how sure it
is, and where. A gate scores many heads of one kind at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, JsonValue

from myvlm.heads.detections import GateScores, HeadScore
from myvlm.images import ImageSources, LoadedImage

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]


class HeadMeta(BaseModel):
    """All that a head keeps besides its tensors; it is written into `concept.json`.

    Attributes:
        kind: the name the head is registered under, such as "object".
        encoder: id of the image encoder its tensors belong to.
        threshold: the raw score from which the concept counts as present.
        calibration: named numbers that turn a raw score into a probability.
        settings: what its constructor was given.
        figures: what was measured while it learned.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: str
    encoder: str
    threshold: float
    calibration: dict[str, float]
    settings: dict[str, JsonValue]
    figures: dict[str, JsonValue]


class Gate(Protocol):
    """Scores many heads of one kind at once: one encoder pass, whatever their number."""

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """Score N pictures against the gate's M heads, in the order in which the heads were given."""
        ...


@runtime_checkable
class RenewableGate(Gate, Protocol):
    """A gate that need not be built anew when heads come and go; a library renews it where it can."""

    def renewed(self, heads: Sequence[Any]) -> Gate:
        """The gate of these heads, with the rows of those that it has already; this one stays as it is."""
        ...


@runtime_checkable
class CalibratedGate(Gate, Protocol):
    """A gate that knows how often it errs, and can be held to a rate however many heads it has."""

    def held_to(self, false_names: float) -> Gate:
        """The same heads, of which so many at most are expected to be seen in a picture of none of them.

        No head is laxer than it was; this gate stays as it is.
        """
        ...


@runtime_checkable
class EncodingGate(Gate, Protocol):
    """A gate whose encoder remembers pictures, so that it can see those of several gates in one pass."""

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """Have the encoder see N pictures; what it found is there when a gate of its scores them next."""
        ...


@runtime_checkable
class Head(Protocol):
    """Recognises one concept. Scikit-learn manners: `__init__` only stores, what `fit` learns ends in `_`.

    Attributes:
        kind: the name it is registered under.
        privacy: one sentence for the card on what its stored numbers may reveal of a person.
    """

    kind: ClassVar[str]
    privacy: ClassVar[str]

    @property
    def gate_key(self) -> Hashable:
        """Heads of one kind with equal `gate_key` can be scored by one gate."""
        ...

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Learn from a few photos that hold the concept, and from others that do not, where there are any."""
        ...

    def score(self, images: ImageSources) -> list[HeadScore]:
        """Score each picture. Raises NotFittedError before `fit`."""
        ...

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """All that was learned, as plain numbers. Raises NotFittedError before `fit`."""
        ...

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Tensors, *, device: str = "cpu") -> Self:
        """The head that `state` described; loads no encoder. Raises ConceptFileError if they do not fit."""
        ...

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> Gate:
        """A gate for heads that agree on `gate_key`. Raises NotFittedError if one of them was not fitted."""
        ...


@runtime_checkable
class MeetingHead(Head, Protocol):
    """A head from whose photos the others of a library learn how often they err."""

    def meet(self, images: ImageSources, others: Sequence[Any]) -> None:
        """Have heads of the same `gate_key`, of things of other categories, see the photos of this one."""
        ...
