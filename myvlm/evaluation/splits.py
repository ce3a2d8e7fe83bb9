"""Which photos teach and which test: bootstrap splits by seed (§4 of arXiv 2403.14599). Imports the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from myvlm.evaluation.data import Dataset, Photo, Subject


@dataclass(frozen=True)
class Split:
    """One draw of one subject's photos.

    Attributes:
        train: in the order drawn, so that the first two are those of a run with two photos.
        validation: the photos that test it, the same for any number of training photos.
        absent: pictures without the subject.
    """

    train: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    absent: tuple[Path, ...]


def draw_split(
    dataset: Dataset,
    subject: Subject,
    seed: int,
    *,
    photos: int = 4,
    most_tests: int | None = None,
    most_absent: int = 20,
) -> Split:
    """Draw training photos; all others test. Photos that the data set keeps for a part stay in it.

    Args:
        dataset: its other subjects' photos are pictures without this one, after the subject's own negatives.
        subject: one of them.
        seed: of the draw; the same seed draws the same photos anywhere.
        photos: how many teach; fewer where otherwise none would be left to test.
        most_tests: how many photos test at the most.
        most_absent: how many pictures without the subject there are at the most.

    >>> own = tuple(Photo(file=Path(f"{n}.jpg")) for n in range(10))
    >>> subject = Subject(identifier="sks", category="mug", photos=own)
    >>> split = draw_split(Dataset(subjects=(subject,)), subject, 0)
    >>> len(split.train), len(split.validation), set(split.train) & set(split.validation)
    (4, 6, set())
    """
    random = Random(f"split {subject.name} {seed}")
    pool = [photo for photo in subject.photos if photo.part != "test"]
    kept_for_tests = [photo for photo in subject.photos if photo.part == "test"]
    # where the data set names the tests, its undrawn training photos are none
    count = min(photos, len(pool) - (not kept_for_tests))
    train = random.sample(pool, count)
    rest = kept_for_tests or [photo for photo in pool if photo not in train and photo.part != "train"]
    validation = rest if most_tests is None else random.sample(rest, min(most_tests, len(rest)))
    return Split(tuple(train), tuple(validation), _absent(dataset, subject, random, most_absent))


def _absent(dataset: Dataset, subject: Subject, random: Random, most: int) -> tuple[Path, ...]:
    own = list(subject.negatives)
    others = [p.file for other in dataset.subjects if other.name != subject.name for p in other.photos]
    chosen = random.sample(own, min(most, len(own)))
    more = random.sample(others, min(most - len(chosen), len(others)))
    return tuple(chosen + more)
