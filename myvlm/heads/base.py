"""What a head is: the contract that every recogniser keeps, its small types, and which kinds there are.

A head learns one concept from a few photos and then says whether the concept is in a picture, how sure it
is, and where. A gate scores many heads of one kind at once.

A package adds a kind without any change here, through the entry-point group `myvlm.heads`:
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


class Gated(Protocol):
    """A head, as far as it matters for which gate it is."""

    @property
    def gate_key(self) -> Hashable: ...


def check_one_gate(heads: Sequence[Gated], *gate_keys: Hashable) -> None:
    """Raise unless all are fitted, and can be scored by one gate (that of `gate_keys`)."""
    for head in heads:
        check_fitted(head, "threshold_")
    if len({head.gate_key for head in heads}.union(gate_keys)) != 1:
        raise InputError(
            "Heads of one gate share one encoder and the settings of how pictures are looked at.",
            got=", ".join(map(repr, heads)) or "no heads",
            expected="equal `gate_key`",
            fix="make one gate for each value of `gate_key`",
        )


def check_fitted(head: object, attribute: str) -> None:
    """Raise NotFittedError unless the head has learned `attribute`."""
    if not hasattr(head, attribute):
        raise NotFittedError(
            f"This {type(head).__name__} has learned nothing yet.",
            got="use before fit",
            expected="fit first",
            fix="call head.fit(photos), or load a saved concept",
        )


def _check(head: Any) -> None:
    kind = getattr(head, "kind", None)
    if not isinstance(kind, str) or not kind.isidentifier():
        raise InputError(
            "The kind of a head is one plain word.",
            got=repr(kind),
            expected="letters, digits and _",
            fix=f"set another `kind` on {getattr(head, '__name__', head)}",
        )


heads = Registry[type[Head]](
    "head",
    add="install the package that brings it, or call myvlm.heads.register_head",
    built_in=("myvlm.heads.objects.head", "myvlm.heads.faces.head", "myvlm.heads.people.head"),
    group=ENTRY_POINTS,
    name_of=lambda head: getattr(head, "kind", None),
    check=_check,
    unknown=UnknownHeadError,
    replaceable=True,
)


def register_head(kind: str, head: type[Head], *, replace: bool = False) -> None:
    """Make a kind of head known, so that concepts of that kind can be loaded.

    Registering the same class twice is harmless.

    Args:
        kind: the word that concept files name it by, which is the class's `kind` too.
        head: the class.
        replace: whether it takes the place of another class of that kind.

    Raises:
        InputError: the kind is no plain word, or the class calls itself otherwise.
        NameTakenError: the kind is another class's, and `replace` is not set.
    """
    heads.register(kind, head, replace=replace)


def head_class(kind: str) -> type[Head]:
    """The class registered for a kind; it is imported on first use.

    Raises:
        UnknownHeadError: no such kind is known, or its package is broken; the message lists those that are.

    >>> head_class("object").__name__
    'ObjectHead'
    """
    return heads.get(kind)


def head_kinds() -> list[str]:
    """All known kinds, sorted.

    >>> "object" in head_kinds()
    True
    """
    return sorted(heads.names())
