"""Estimate how completely a concept was found in an album, from a few photos that a person labels.

Nobody looks through ten thousand photos. The album is stratified by the head's verdict (seen, unsure, not
seen), photos are drawn at random from each stratum, and their labels are extrapolated to the whole album.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.errors import InputError
from myvlm.heads import HeadScore

STRATA = ("seen", "unsure", "not seen")
MIN_PER_STRATUM = 10
"""Minimum number of photos drawn from a stratum; a smaller stratum is drawn whole."""
MIN_VARIANCE = 0.01
"""Minimum variance assumed for a label, however sure the head is."""
BETA_PRIOR = 1 / 3
"""Both parameters of the beta prior on the share of a stratum that shows the concept. It is neutral: the
posterior median is the observed share (Kerman 2011, Electronic Journal of Statistics 5)."""


@dataclass(frozen=True)
class AlbumSample:
    """A random sample of an album's photos for a person to label.

    Attributes:
        sizes: number of the album's photos in each stratum of `STRATA`.
        drawn: index of a sampled photo in the album → index of its stratum, in the order in which the photos
            should be labelled: the first part of it is a usable sample too.
    """

    sizes: tuple[int, int, int]
    drawn: Mapping[int, int]


@dataclass(frozen=True)
class Completeness:
    """Estimate of how many photos show a concept, and in how many of these the head found it.

    Attributes:
        found: number of photos that show the concept among those in which it was seen.
        total: number of photos of the album that show the concept.
        low, high: the 95 % interval of `total`.
        labelled: number of photos that were labelled.
        album: number of photos in the album.

    >>> str(Completeness(412, 430, 420, 441, labelled=120, album=3000))
    '412 of about 430 photos, 95 % interval 420 to 441'
    """

    found: int
    total: int
    low: int
    high: int
    labelled: int
    album: int

    @property
    def recall(self) -> float:
        """Share of the concept's photos in which it was found; 1 if no photo shows it."""
        return self.found / self.total if self.total else 1.0

    def __str__(self) -> str:
        return self.of()

    def of(self, identifier: str | None = None) -> str:
        """The estimate in words, with the identifier if given."""
        whose = f" of {identifier}" if identifier else ""
        return f"{self.found} of about {self.total} photos{whose}, 95 % interval {self.low} to {self.high}"


def draw_sample(scores: Sequence[HeadScore], *, labels: int = 100, seed: int = 0) -> AlbumSample:
    """Draw the photos that a person should label.

    More photos are drawn from a stratum the larger it is and the less sure the head is of it (Neyman
    allocation).

    Args:
        scores: the head's score of every photo of the album.
        labels: how many photos will be labelled.
        seed: random seed of the draw.

    Raises:
        InputError: there are no scores, or `labels` is below 1.

    >>> album = [HeadScore(0.9, True, None)] * 40 + [HeadScore(0.1, False, None)] * 500
    >>> sample = draw_sample(album, labels=60)
    >>> sample.sizes, len(sample.drawn)
    ((40, 0, 500), 60)
    """
    if not scores or labels < 1:
        raise InputError(
            "No sample can be drawn.",
            got=f"{len(scores)} photos, {labels} labels",
            expected="at least 1 photo and at least 1 label",
            fix="pass the scores of all photos of the album, and labels=100",
        )
    part = np.array([_stratum(score) for score in scores])
    likely = np.array([score.probability for score in scores])
    sizes = np.bincount(part, minlength=len(STRATA))
    counts = _neyman_allocation(sizes, [likely[part == one] for one in range(len(STRATA))], labels)
    rng = np.random.default_rng(seed)
    turns: list[tuple[float, int, int]] = []
    for stratum, count in enumerate(counts.tolist()):
        own = rng.permutation(np.flatnonzero(part == stratum))[:count].tolist()
        turns += [((turn + 0.5) / count, photo, stratum) for turn, photo in enumerate(own)]
    return AlbumSample(tuple(sizes.tolist()), {photo: stratum for _, photo, stratum in sorted(turns)})


def completeness(sample: AlbumSample, labels: Mapping[int, bool]) -> Completeness:
    """Extrapolate the labels of a sample to the whole album.

    Each stratum is a finite population with known numbers of photos that were labelled and that show the
    concept, so the number among its remaining photos is beta-binomial. The strata are independent, so their
    distributions are convolved, exactly.

    Args:
        sample: what `draw_sample` returned.
        labels: index of a photo in the album → whether it shows the concept, for all photos of the sample or
            for the first ones.

    Raises:
        InputError: a stratum that has photos has no label, or a label is of a photo that was not drawn.

    >>> sample = AlbumSample((100, 0, 900), {0: 0, 1: 0, 2: 2, 3: 2})
    >>> print(completeness(sample, {0: True, 1: True, 2: False, 3: False}).found)
    100
    """
    unknown = [photo for photo in labels if photo not in sample.drawn]
    looked = [[labels[photo] for photo, own in sample.drawn.items() if own == part and photo in labels]
              for part in range(len(STRATA))]  # fmt: skip
    unlabelled = [STRATA[part] for part, size in enumerate(sample.sizes) if size and not looked[part]]
    if unknown or unlabelled:
        raise InputError(
            "The labels do not match the sample.",
            got=f"a label for photo {unknown[0]}, which was not drawn" if unknown
            else f"no labels for the photos where it is {', '.join(unlabelled)}",
            expected="yes or no for the drawn photos, starting with the first",
            fix="label drawn photos, at least a few of each part",
        )  # fmt: skip
    drawn, found = [len(own) for own in looked], [sum(own) for own in looked]
    estimates = [
        size * yes / max(count, 1) for size, count, yes in zip(sample.sizes, drawn, found, strict=True)
    ]
    low, high = _total_interval(sample.sizes, drawn, found)
    total = min(max(round(sum(estimates)), low), high)
    return Completeness(
        min(round(estimates[0]), total), total, low, high,
        labelled=sum(drawn), album=sum(sample.sizes),
    )  # fmt: skip


def _stratum(score: HeadScore) -> int:
    return 1 if score.unsure else 0 if score.present else 2


def _neyman_allocation(
    sizes: npt.NDArray[np.int64], likely: Sequence[npt.NDArray[np.float64]], labels: int
) -> npt.NDArray[np.int64]:
    """Number of photos to draw from each stratum."""
    spread = np.array(
        [max(float(np.mean(own * (1 - own))), MIN_VARIANCE) if len(own) else 0.0 for own in likely]
    )
    weights = sizes * np.sqrt(spread)
    least = np.minimum(sizes, MIN_PER_STRATUM)
    shares = np.round(labels * weights / weights.sum()).astype(np.int64)
    counts: npt.NDArray[np.int64] = np.minimum(sizes, np.maximum(shares, least))
    over = int(counts.sum()) - labels  # what the minimum adds to small strata is taken from the largest
    largest = int(counts.argmax())
    counts[largest] = max(counts[largest] - max(over, 0), least[largest])
    return counts


def _total_interval(sizes: Sequence[int], drawn: Sequence[int], found: Sequence[int]) -> tuple[int, int]:
    """The central 95 % interval of the total over all strata."""
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    distribution: npt.NDArray[Any] = np.ones(1)
    for size, looked, yes in zip(sizes, drawn, found, strict=True):
        if size > looked:
            left, no = size - looked, looked - yes
            rest = betabinom.pmf(np.arange(left + 1), left, yes + BETA_PRIOR, no + BETA_PRIOR)
            distribution = np.maximum(fftconvolve(distribution, rest), 0.0)
    cumulative = np.cumsum(distribution) / distribution.sum()
    low, high = np.searchsorted(cumulative, [0.025, 0.975])
    return sum(found) + int(low), sum(found) + int(high)
