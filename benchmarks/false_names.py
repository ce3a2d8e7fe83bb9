"""Compare the stated rate of false names with counts on photos of other objects and on unrelated pictures.

Each head gets its share of a stated number of false names per thousand pictures, by its score threshold for
that rate in the library (`ObjectGate.reached_by`); the rates are high enough to be counted on few pictures.
The ratio of counted to stated names has a 95 % bootstrap interval over pictures, since these are few, not
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from myvlm.heads import ObjectHead
from myvlm.images import LoadedImage

STATED = (50, 200)
"""Stated false names per thousand pictures."""
DRAWS = 2000


class Counted:
    """Counted and expected false names of each picture.

    Args:
        stated: false names per thousand pictures, of all heads of a library together.
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
        """Count one picture.

        Args:
            photo: the picture.
            scores: scores of the library's M heads.
            reached_by: false names per picture of one head → the M thresholds.
            counts: `M` booleans: heads whose object the picture does not show.
        """
        each = self.stated / 1000 / len(scores)
        named = scores >= reached_by(each)
        row = self._by_picture.setdefault(photo.digest, [0.0, 0.0])
        row[0] += float((named & counts).sum())
        row[1] += each * int(counts.sum())

    def with_(self, other: Counted) -> Counted:
        """A count over the pictures of both."""
        both = Counted(self.stated)
        both._by_picture = {**self._by_picture, **other._by_picture}
        return both

    def over_stated(self) -> tuple[float, float, float]:
        """Ratio of counted to expected false names, with the lower and upper end of its 95 % interval."""
        rows = np.array(list(self._by_picture.values()))
        drawn = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
        sums = rows[drawn].sum(axis=1)
        low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
        return float(rows[:, 0].sum() / rows[:, 1].sum()), float(low), float(high)


def counted_figures(counted: Mapping[str, Counted]) -> dict[str, float]:
    """Figures of each count: `NAME` (the ratio), `NAME_low` and `NAME_high`."""
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
    """Count false names in pictures that show none of the heads' objects.

    A picture whose file name contains a word of an object's name, such as dog, is not counted for that
    object: it shows another object of the category, for which no rate is stated.

    Args:
        libraries: number of training photos → libraries, as lists of heads.
        names: names of the objects, in the order of each library's heads.
        strangers: the pictures.

    Returns:
        number of training photos → stated rate → counts.
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
    """Words of a file's or an object's name.

    >>> sorted(words("stamp-toys-edward_bear.jpg") & words("bear_plushie2"))
    ['bear']
    """
    return set(re.findall("[a-z]+", name.lower()))
