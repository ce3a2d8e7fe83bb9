"""The gates of a library: one for all concepts whose heads share an encoder, rebuilt lazily after changes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from numbers import Real
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from myvlm.concepts.concept import Concept
from myvlm.errors import InputError, check_is
from myvlm.heads import Gate, Head
from myvlm.heads.base import CalibratedGate, RenewableGate

Group: TypeAlias = tuple[type[Head], Hashable]

FALSE_NAMES_PER_1000 = 50.0
"""The default rate, equal to that of faces alone (`myvlm.heads.faces.threshold.STRANGERS`). On real photos it
tightens no threshold of ten heads learned from three photos or from one; at 20, heads learned from one photo
find 5 % less (benchmarks/RESULTS.md)."""


class Gates:
    """Groups concepts by kind of head and encoder, and builds one gate per group that scores them together.

    Arguments are not checked here; callers check them.

    Attributes:
        false_names: the highest expected number of false detections, for each kind of head, in a picture
            that shows none of the concepts. Gates of one kind share it in proportion to their number of
            concepts. None keeps each head's own threshold.

    >>> Gates().of([])
    []
    """

    def __init__(self, false_names: float | None = None) -> None:
        self.false_names = false_names
        self._groups: dict[Group, dict[str, Concept]] = {}
        self._gates: dict[Group, Gate] = {}
        self._outdated: set[Group] = set()  # groups whose gate no longer has the right heads
        self._columns: dict[Group, npt.NDArray[np.int64]] = {}
        self._held_gates: dict[Group, Gate] = {}  # the gates, held to their shares of `false_names`

    def set_false_names(self, false_names: float | None) -> None:
        """Set `false_names`; gates are held to it from the next use on."""
        self.false_names = false_names
        self._held_gates.clear()

    def check(self, concepts: Iterable[Concept], *, but: Concept | None = None) -> dict[Group, Gate]:
        """Check that concepts can be scored together, and with those already here other than `but`.

        Returns:
            For each group a gate of the new concepts and of one concept that the group has already.

        Raises:
            NotFittedError: a head is not fitted.
            InputError: heads of one group cannot share a gate.
        """
        groups: dict[Group, list[Concept]] = {}
        for concept in concepts:
            groups.setdefault(_group(concept), []).append(concept)
        return {
            group: _build_gate([*islice(self._others(group, but), 1), *members])
            for group, members in groups.items()
        }

    def add(self, concepts: Iterable[Concept], gates: Mapping[Group, Gate]) -> None:
        """Add concepts, with the gates that `check` returned for them."""
        for group, gate in gates.items():
            if group in self._groups:
                self._outdate(group)
            else:
                self._gates[group] = gate
        for concept in concepts:
            self._groups.setdefault(_group(concept), {})[concept.identifier] = concept
        self._clear_derived()

    def replace(self, old: Concept, concept: Concept) -> None:
        """Replace a concept by one of the same identifier; it keeps its position if the group is the same."""
        before, after, identifier = _group(old), _group(concept), concept.identifier
        if before == after:
            self._groups[after] = with_entry_replaced(self._groups[after], identifier, identifier, concept)
        else:
            self.remove(identifier, old)
            self._groups.setdefault(after, {})[identifier] = concept
        self._outdate(after)
        self._clear_derived()

    def rename(self, old: str, new: str, concept: Concept) -> None:
        """Change the identifier of a concept; its position stays."""
        group = _group(concept)
        self._groups[group] = with_entry_replaced(self._groups[group], old, new, concept)

    def remove(self, identifier: str, concept: Concept) -> None:
        """Remove a concept, and its gate if the group is empty."""
        group = _group(concept)
        del self._groups[group][identifier]
        self._outdate(group)
        if not self._groups[group]:
            del self._groups[group]
            self._gates.pop(group, None)
            self._outdated.discard(group)
        self._clear_derived()

    def of(self, identifiers: Iterable[str]) -> list[tuple[npt.NDArray[np.int64], Gate]]:
        """Return each gate with the positions of its concepts among all identifiers."""
        if not self._columns:
            place = {identifier: index for index, identifier in enumerate(identifiers)}
            self._columns = {
                one: np.array([place[identifier] for identifier in members])
                for one, members in self._groups.items()
            }
        return [(self._columns[group], self._gate(group)) for group in self._groups]

    def gated(self) -> list[tuple[list[Concept], Gate]]:
        """Return each gate with its concepts, in the gate's order."""
        return [(list(members.values()), self._gate(group)) for group, members in self._groups.items()]

    def _clear_derived(self) -> None:
        """Drop what depends on the set of all concepts: their positions, and the held gates."""
        self._columns.clear()
        self._held_gates.clear()

    def _others(self, group: Group, but: Concept | None) -> Iterable[Concept]:
        return (one for one in self._groups.get(group, {}).values() if one is not but)

    def _outdate(self, group: Group) -> None:
        """Mark the group's gate for renewal on next use, so that adding concepts one by one stays cheap."""
        if isinstance(self._gates.get(group), RenewableGate):
            self._outdated.add(group)
        else:
            self._gates.pop(group, None)

    def _gate(self, group: Group) -> Gate:
        members = self._groups[group].values()
        gate = self._gates.get(group)
        if gate is None:
            self._gates[group] = _build_gate(list(members))
        elif group in self._outdated and isinstance(gate, RenewableGate):
            self._gates[group] = gate.renewed([one.head for one in members])
        self._outdated.discard(group)
        if group not in self._held_gates:
            self._held_gates[group] = self._hold_to_share_of_false_names(group)
        return self._held_gates[group]

    def _hold_to_share_of_false_names(self, group: Group) -> Gate:
        gate = self._gates[group]
        if self.false_names is None or not isinstance(gate, CalibratedGate):
            return gate
        kind = sum(len(members) for one, members in self._groups.items() if one[0] is group[0])
        return gate.held_to(self.false_names * len(self._groups[group]) / kind)


def check_false_names(per_1000: float | None) -> float | None:
    """Convert a rate per 1000 pictures to one per picture. Raises InputError unless it is above 0 or None."""
    if per_1000 is None:
        return None
    check_is(per_1000, Real, what="rate of false names", expected="a number above 0, or None")
    if not 0 < per_1000 < float("inf"):
        raise InputError(
            "The rate of false names is invalid.",
            got=f"false_names_per_1000={per_1000}",
            expected="a number above 0, or None to use each head's own threshold",
            fix=f"leave it at {FALSE_NAMES_PER_1000:g}",
        )
    return per_1000 / 1000


def with_entry_replaced(
    concepts: Mapping[str, Concept], old: str, new: str, concept: Concept
) -> dict[str, Concept]:
    """Return a copy in the same order with the entry `old` replaced by `new: concept`."""
    return {(new if key == old else key): (concept if key == old else one) for key, one in concepts.items()}


def _group(concept: Concept) -> Group:
    return type(concept.head), concept.head.gate_key


def _build_gate(members: list[Concept]) -> Gate:
    heads = [one.head for one in members]
    return type(heads[0]).gate(heads)
