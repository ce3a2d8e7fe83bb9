"""Bootstrap splits of a subject's photos into training and validation photos (§4 of arXiv 2403.14599)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Dataset, Photo, Subject
from myvlm.evaluation.data.plan import Plan


@dataclass(frozen=True)
class Split:
    """One random split of a subject's photos.

    Attributes:
        train: training photos in the order drawn; a run with two photos uses the first two.
        validation: photos to test on, the same for any number of training photos.
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
    """Draw training photos and keep the others for validation. Photos with a fixed `part` stay in it.

    Args:
        dataset: the data set; photos of its other subjects serve as pictures without this one, after the
            subject's own negatives.
        subject: one of its subjects.
        seed: random seed; the same seed draws the same photos on any machine.
        photos: number of training photos.
        most_tests: maximum number of validation photos.
        most_absent: maximum number of pictures without the subject.

    Raises:
        InputError: too few photos to train on `photos` of them and keep one for validation.

    >>> own = tuple(Photo(file=Path(f"{n}.jpg")) for n in range(10))
    >>> subject = Subject(identifier="sks", category="mug", photos=own)
    >>> split = draw_split(Dataset(subjects=(subject,)), subject, 0)
    >>> len(split.train), len(split.validation), set(split.train) & set(split.validation)
    (4, 6, set())
    """
    _check_enough(subject, photos)
    random = Random(f"split {subject.name} {seed}")
    pool, kept_for_tests = _training_and_test_pools(subject)
    train = random.sample(pool, photos)
    # if the data set fixes test photos, training photos that were not drawn are not tested on
    rest = kept_for_tests or [photo for photo in pool if photo not in train and photo.part != "train"]
    validation = rest if most_tests is None else random.sample(rest, min(most_tests, len(rest)))
    return Split(tuple(train), tuple(validation), _pictures_without(dataset, subject, random, most_absent))


def check_photos(dataset: Dataset, plan: Plan) -> None:
    """Raise InputError if a subject has too few photos, or a variant needs more than the plan draws."""
    most = max(plan.photos)
    for subject in sorted(dataset.subjects, key=_max_training_photos):
        _check_enough(subject, most)
    for variant in plan.variants:
        if variant.photos and variant.photos > most:
            raise InputError(
                f"The variant {variant.name} needs more photos than are drawn.",
                got=f"{variant.photos} photos",
                expected=f"at most {most}",
                fix=f"draw {variant.photos} (--photos {variant.photos})",
            )


def _check_enough(subject: Subject, photos: int) -> None:
    if photos > (can := _max_training_photos(subject)):
        raise InputError(
            f"{subject.name} has too few photos to learn from {photos}.",
            got=f"{can} of its {len(subject.photos)} photos, with one left for testing",
            expected=f"{photos} or more",
            fix=f"learn from {can} (--photos {can}), or add photos of it" if can else "add photos of it",
        )


def _max_training_photos(subject: Subject) -> int:
    pool, kept_for_tests = _training_and_test_pools(subject)
    return len(pool) - (not kept_for_tests)


def _training_and_test_pools(subject: Subject) -> tuple[list[Photo], list[Photo]]:
    """Photos that may be used for training, and those that the data set reserves for testing."""
    pool = [photo for photo in subject.photos if photo.part != "test"]
    return pool, [photo for photo in subject.photos if photo.part == "test"]


def _pictures_without(dataset: Dataset, subject: Subject, random: Random, most: int) -> tuple[Path, ...]:
    own = list(subject.negatives)
    others = [p.file for other in dataset.subjects if other.name != subject.name for p in other.photos]
    chosen = random.sample(own, min(most, len(own)))
    more = random.sample(others, min(most - len(chosen), len(others)))
    return tuple(chosen + more)
