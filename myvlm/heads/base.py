"""The interface of recognition heads, the types that it uses, and the registry of head kinds.

A head learns one concept from a few photos. For any picture it then returns a calibrated probability that the
concept is present, and a box where it can. A gate scores many heads of one kind in one pass.

Another package adds a kind through the entry-point group `myvlm.heads`:
`[project.entry-points."myvlm.heads"]` with the line `gait = "my_package:GaitHead"`. A concept file names
only a kind, never a class.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, JsonValue

from myvlm.errors import InputError, NotFittedError, UnknownHeadError
from myvlm.heads.detections import GateScores, HeadScore
from myvlm.images import ImageSources, LoadedImage
from myvlm.plugins.registry import Registry

ENTRY_POINTS = "myvlm.heads"

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]


class HeadMeta(BaseModel):
    """The state of a fitted head without its tensors, as it is written into `concept.json`.

    Attributes:
        kind: the name the head is registered under, such as "object".
        encoder: id of the image encoder its tensors belong to.
        threshold: the raw score from which the concept counts as present.
        calibration: named numbers that turn a raw score into a probability.
        settings: the constructor's arguments.
        figures: measurements made while fitting.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: str
    encoder: str
    threshold: float
    calibration: dict[str, float]
    settings: dict[str, JsonValue]
    figures: dict[str, JsonValue]


class Gate(Protocol):
    """Scores many heads of one kind at once, with one encoder pass however many there are."""

    def score(self, images: Sequence[LoadedImage]) -> GateScores:
        """Score N pictures with the gate's M heads, in the order in which the heads were given."""
        ...


@runtime_checkable
class RenewableGate(Gate, Protocol):
    """A gate that can be updated, rather than rebuilt, when heads are added or removed."""

    def renewed(self, heads: Sequence[Any]) -> Gate:
        """Return a new gate of these heads that reuses the rows this gate has; this gate is unchanged."""
        ...


@runtime_checkable
class CalibratedGate(Gate, Protocol):
    """A gate that estimates its false detections, and can be limited to a rate however many heads it has."""

    def held_to(self, false_names: float) -> Gate:
        """Return a gate of the same heads, limited to a rate of false detections.

        No threshold is lowered; this gate is unchanged.

        Args:
            false_names: how many concepts at most the gate is expected to detect in a picture that shows none
                of them.
        """
        ...


@runtime_checkable
class EncodingGate(Gate, Protocol):
    """A gate whose encoder caches features, so that pictures can be encoded before they are scored."""

    def encode(self, images: Sequence[LoadedImage]) -> None:
        """Encode N pictures and cache their features for the next `score` of any gate of this encoder."""
        ...


@runtime_checkable
class Head(Protocol):
    """Recognizes one concept. As in scikit-learn, `__init__` only stores, and learned attributes end in `_`.

    Attributes:
        kind: the name it is registered under.
        privacy: one sentence for the concept's card about what its stored numbers may reveal of a person.
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
        """Learn from a few photos that show the concept, and optionally from pictures that do not."""
        ...

    def score(self, images: ImageSources) -> list[HeadScore]:
        """Score each picture. Raises NotFittedError before `fit`."""
        ...

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """Return everything learned, as plain values and arrays. Raises NotFittedError before `fit`."""
        ...

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Tensors, *, device: str = "cpu") -> Self:
        """Restore a head from `state`; loads no encoder. Raises ConceptFileError if the parts do not fit."""
        ...

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> Gate:
        """Build the gate of heads with equal `gate_key`. Raises NotFittedError if one is not fitted."""
        ...


@runtime_checkable
class MeetingHead(Head, Protocol):
    """A head that measures how high the other heads of a library score on its training photos.

    From these scores the library estimates how often its heads raise false alarms.
    """

    def meet(self, images: ImageSources, others: Sequence[Any]) -> None:
        """Score this head's photos with heads of the same `gate_key` that are of other categories."""
        ...


class Gated(Protocol):
    """Anything with a `gate_key`."""

    @property
    def gate_key(self) -> Hashable: ...


def check_one_gate(heads: Sequence[Gated], *gate_keys: Hashable) -> None:
    """Raise unless all heads are fitted and share one `gate_key` (also with `gate_keys`, where given)."""
    for head in heads:
        check_fitted(head, "threshold_")
    if len({head.gate_key for head in heads}.union(gate_keys)) != 1:
        raise InputError(
            "All heads of a gate must have the same encoder and settings.",
            got=", ".join(map(repr, heads)) or "no heads",
            expected="equal `gate_key`",
            fix="make one gate per value of `gate_key`",
        )


def check_fitted(head: object, attribute: str) -> None:
    """Raise NotFittedError unless the head has learned `attribute`."""
    if not hasattr(head, attribute):
        raise NotFittedError(
            f"This {type(head).__name__} is not fitted.",
            got="use before fit",
            expected="a fitted head",
            fix="call head.fit(photos), or load a saved concept",
        )


def _check(head: Any) -> None:
    kind = getattr(head, "kind", None)
    if not isinstance(kind, str) or not kind.isidentifier():
        raise InputError(
            "Invalid kind of a head.",
            got=repr(kind),
            expected="one word of letters, digits and _",
            fix=f"set another `kind` on {getattr(head, '__name__', head)}",
        )


heads = Registry[type[Head]](
    "head",
    add="install the package that provides it, or call myvlm.heads.register_head",
    built_in=("myvlm.heads.objects.head", "myvlm.heads.faces.head", "myvlm.heads.people.head"),
    group=ENTRY_POINTS,
    name_of=lambda head: getattr(head, "kind", None),
    check=_check,
    unknown=UnknownHeadError,
    replaceable=True,
)


def register_head(kind: str, head: type[Head], *, replace: bool = False) -> None:
    """Register a kind of head, so that concepts of that kind can be loaded.

    Registering the same class twice is harmless.

    Args:
        kind: the name of the kind in concept files; equal to the class's `kind`.
        head: the class.
        replace: whether to replace another class registered for that kind.

    Raises:
        InputError: the kind is not a plain word, or differs from the class's `kind`.
        NameTakenError: another class is registered for the kind, and `replace` is not set.
    """
    heads.register(kind, head, replace=replace)


def head_class(kind: str) -> type[Head]:
    """Return the class registered for a kind; it is imported on first use.

    Raises:
        UnknownHeadError: the kind is unknown, or its package cannot be imported; the message lists the known
            kinds.

    >>> head_class("object").__name__
    'ObjectHead'
    """
    return heads.get(kind)


def head_kinds() -> list[str]:
    """Return all known kinds, sorted.

    >>> "object" in head_kinds()
    True
    """
    return sorted(heads.names())
