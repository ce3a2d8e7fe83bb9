"""Which photos teach and which test: bootstrap splits by seed (§4 of arXiv 2403.14599)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Dataset, Photo, Subject
from myvlm.evaluation.data.plan import Plan


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
        photos: how many teach.
        most_tests: how many photos test at the most.
        most_absent: how many pictures without the subject there are at the most.

    Raises:
        InputError: so many cannot teach and leave one to test.

    >>> own = tuple(Photo(file=Path(f"{n}.jpg")) for n in range(10))
    >>> subject = Subject(identifier="sks", category="mug", photos=own)
    >>> split = draw_split(Dataset(subjects=(subject,)), subject, 0)
    >>> len(split.train), len(split.validation), set(split.train) & set(split.validation)
    (4, 6, set())
    """
    _check_enough(subject, photos)
    random = Random(f"split {subject.name} {seed}")
    pool, kept_for_tests = _parts(subject)
    train = random.sample(pool, photos)
    # where the data set names the tests, its undrawn training photos are none
    rest = kept_for_tests or [photo for photo in pool if photo not in train and photo.part != "train"]
    validation = rest if most_tests is None else random.sample(rest, min(most_tests, len(rest)))
    return Split(tuple(train), tuple(validation), _absent(dataset, subject, random, most_absent))


def check_photos(dataset: Dataset, plan: Plan) -> None:
    """Raise InputError where a subject has fewer photos than are to teach, or a variant is to have more."""
    most = max(plan.photos)
    for subject in sorted(dataset.subjects, key=_can_teach):
        _check_enough(subject, most)
    for variant in plan.variants:
        if variant.photos and variant.photos > most:
            raise InputError(
                f"The variant {variant.name} has more photos than are drawn.",
                got=f"{variant.photos} photos",
                expected=f"at most {most}",
                fix=f"let {variant.photos} teach (--photos {variant.photos})",
            )


def _check_enough(subject: Subject, photos: int) -> None:
    if photos > (can := _can_teach(subject)):
        raise InputError(
            f"{subject.name} has too few photos to be taught by {photos}.",
            got=f"{can} of its {len(subject.photos)} photos can teach, with one left to test",
            expected=f"{photos} or more",
            fix=f"let {can} teach (--photos {can}), or add photos of it" if can else "add photos of it",
        )


def _can_teach(subject: Subject) -> int:
    pool, kept_for_tests = _parts(subject)
    return len(pool) - (not kept_for_tests)


def _parts(subject: Subject) -> tuple[list[Photo], list[Photo]]:
    """Photos that may teach, and those that the data set keeps for tests."""
    pool = [photo for photo in subject.photos if photo.part != "test"]
    return pool, [photo for photo in subject.photos if photo.part == "test"]


def _absent(dataset: Dataset, subject: Subject, random: Random, most: int) -> tuple[Path, ...]:
    own = list(subject.negatives)
    others = [p.file for other in dataset.subjects if other.name != subject.name for p in other.photos]
    chosen = random.sample(own, min(most, len(own)))
    more = random.sample(others, min(most - len(chosen), len(others)))
    return tuple(chosen + more)
