"""Is the stated rate of false names kept? On photos of other things, and of pictures that show none of them.

Heads are taken by their tails in the library (`ObjectGate.reached_by`): each is given its part of a stated
number of false names per thousand pictures, large enough to be counted on few pictures. What is counted over
what was stated comes with a 95 % interval, by drawing pictures again: pictures, not names, are what there are
few of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from myvlm.heads import ObjectHead
from myvlm.images import LoadedImage

STATED = (50, 200)
"""Names per thousand pictures."""
DRAWS = 2000


class Counted:
    """False names, and how many were stated, by picture.

    Args:
        stated: names per thousand pictures, of all heads of a library together.
    """

    def __init__(self, stated: float) -> None:
        self.stated = stated
        self._by_picture: dict[bytes, list[float]] = {}

    def add(
        self,
        photo: LoadedImage,
        scores: np.ndarray,
        reached_by: Callable[[float], np.ndarray],
        counts: np.ndarray,
    ) -> None:
        """One picture in a library of M heads: M scores, and which of them the picture does not show."""
        each = self.stated / 1000 / len(scores)
        named = scores >= reached_by(each)
        row = self._by_picture.setdefault(photo.digest, [0.0, 0.0])
        row[0] += float((named & counts).sum())
        row[1] += each * int(counts.sum())

    def with_(self, other: Counted) -> Counted:
        """Of the pictures of both."""
        both = Counted(self.stated)
        both._by_picture = {**self._by_picture, **other._by_picture}
        return both

    def over_stated(self) -> tuple[float, float, float]:
        """The ratio, and the ends of its 95 % interval."""
        rows = np.array(list(self._by_picture.values()))
        drawn = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
        sums = rows[drawn].sum(axis=1)
        low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
        return float(rows[:, 0].sum() / rows[:, 1].sum()), float(low), float(high)


def counted_figures(counted: Mapping[str, Counted]) -> dict[str, float]:
    """By the name of each."""
    figures = {}
    for name, one in counted.items():
        for end, value in zip(("", "_low", "_high"), one.over_stated(), strict=True):
            figures[f"{name}{end}"] = round(value, 3)
    return figures


def count_strangers(
    libraries: Mapping[int, Sequence[Sequence[ObjectHead]]],
    names: Sequence[str],
    strangers: Sequence[LoadedImage],
) -> dict[int, dict[int, Counted]]:
    """Pictures that show none of the heads' objects, each encoded once, against all libraries.

    A picture whose file's name has a word of an object's name, such as dog, is not counted for it: that is
    another thing of the category, of which no rate is stated.

    Args:
        libraries: by a number (of photos), of which each gets counts of its own, by what is stated.
        names: of the objects, in the order of each library's heads.
        strangers: the pictures.
    """
    counted = {number: {stated: Counted(stated) for stated in STATED} for number in libraries}
    for photo in strangers:
        unlike = np.array([not words(name) & words(Path(photo.name).stem) for name in names])
        for number, each in libraries.items():
            for heads in each:
                gate = ObjectHead.gate(heads)
                scores = gate.raw([photo])[0][0]
                for one in counted[number].values():
                    one.add(photo, scores, gate.reached_by, unlike)
    return counted


def words(name: str) -> set[str]:
    """
    >>> sorted(words("stamp-toys-edward_bear.jpg") & words("bear_plushie2"))
    ['bear']
    """
    return set(re.findall("[a-z]+", name.lower()))
