"""Accuracy of heads, and the cost of a library with many of them.

    python benchmarks/heads.py
    MYVLM_PHOTOS=../shared/photos python benchmarks/heads.py --photos [--encoder dinov2]

Measures objects of tinyworld with and without negatives, small objects, calibration, real photos (with
MYVLM_PHOTOS and the extra `photos`), a library of ten thousand concepts, and simulated faces with published
distances. Times are of one process, and CPU time for ratios. The last line is one JSON object.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from dlib_faces import dlib_faces
from lite2 import photos_weighted_accuracy
from photos import photos_none
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.stats import chi
from tally import in_processes

from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.record import json_with_digest
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.heads import FaceHead, ObjectHead, features
from myvlm.heads.encoders import ImageEncoder, get_encoder
from myvlm.heads.faces.encoders import Faces
from myvlm.heads.faces.facenet import FacenetEncoder
from myvlm.images import load_images
from myvlm.tinyworld import FewShot, few_shot, sample_picture
from myvlm.tinyworld.fewshot import pictures

ENCODER = "tinyworld/clip"
NEGATIVES = 20
SMALL = 0.05
Figures = dict[str, float | None]


def main(
    concepts: Annotated[int, typer.Option(help="Concepts of tinyworld a seed.")] = 12,
    seeds: Annotated[int, typer.Option(help="Seeds: 0, 1, …")] = 3,
    tests: Annotated[int, typer.Option(help="Unseen pictures of each kind a concept.")] = 20,
    many: Annotated[int, typer.Option(help="Concepts in the large library.")] = 10_000,
    repeats: Annotated[int, typer.Option(help="Times that the large library is measured.")] = 5,
    splits: Annotated[int, typer.Option(help="Splits of the real photos; 0 leaves them out.")] = 5,
    crops: Annotated[
        str, typer.Option(help="Windows of the real photos: none, as they are filled; or auto.")
    ] = "none",
    people: Annotated[int, typer.Option(help="People with drawn faces.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes, for tinyworld.")] = 1,
    photos: Annotated[bool, typer.Option("--photos", help="Real photos without negatives alone.")] = False,
    encoder: Annotated[str, typer.Option(help="Of --photos: lite2, or dinov2 (dinov2.py).")] = "lite2",
) -> None:
    """Measure, print the table and, as the last line, one JSON object."""
    figures: Figures = {}
    if photos:
        figures |= photos_none(splits, "auto", encoder=encoder)
    if concepts and not photos:
        figures |= tinyworld(concepts, seeds, tests, workers)
    if not photos:
        figures |= photos_weighted_accuracy(splits, crops)
    if many and not photos:
        figures |= large_library(many, repeats)
    if people and not photos:
        figures |= drawn_faces(people)
        for size in (10, 30, 100):
            figures |= dlib_faces(size)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "not measured" if value is None else f"{value:.4g}")
    Console(width=80).print(table)
    print(json.dumps(figures))


# ---------------------------------------------------------------- objects of tinyworld


def tinyworld(concepts: int, seeds: int, tests: int, workers: int) -> Figures:
    """Recall, rejection of look-alikes that differ in one attribute, recall of small objects, calibration."""
    runs = [(number, seed, tests) for number in range(concepts) for seed in range(seeds)]
    found: dict[str, list[float]] = {}
    for _, outcome in in_processes(one_user, runs, "tinyworld", workers=workers):
        for name, values in outcome.items():
            found.setdefault(name, []).extend(values)
    likely = {name: np.array(found.pop(name)) for name in ("likely", "likely_negatives", "truths")}
    figures: Figures = {name: round(statistics.fmean(values), 4) for name, values in found.items()}
    for suffix in ("", "_negatives"):
        error = calibration_error(likely[f"likely{suffix}"], likely["truths"])
        figures[f"calibration_error{suffix}"] = round(error, 4)
    return figures


def one_user(run: tuple[int, int, int]) -> dict[str, list[float]]:
    """Outcomes per picture of one concept: heads without negatives, with them, and without crops."""
    number, seed, tests = run
    kit = few_shot(number, seed=seed, tests=tests + NEGATIVES)
    shown = {"present": pictures(kit.present[:tests]), "other": pictures(kit.other[:tests])}
    shown["look_alike"] = pictures(kit.look_alike[:tests])
    photos, negatives = kit.photos(), pictures(kit.look_alike[tests:])
    head = ObjectHead(ENCODER).fit(photos, category=kit.category)
    taught = ObjectHead(ENCODER).fit(photos, negatives, category=kit.category)
    whole = ObjectHead(ENCODER, crops="none").fit(photos, category=kit.category)
    small = small_pictures(kit, shown["present"], shown["other"])
    found: dict[str, list[float]] = {}
    for suffix, one in (("", head), ("_negatives", taught)):
        scores = {name: one.score(group) for name, group in shown.items()}
        found[f"recall{suffix}"] = [score.present for score in scores["present"]]
        found[f"rejection{suffix}"] = [not score.present for score in scores["look_alike"]]
        found[f"likely{suffix}"] = [score.probability for group in scores.values() for score in group]
    found["truths"] = [float(name == "present") for name, group in shown.items() for _ in group]
    found["small_recall"] = [score.present for score in head.score(small)]
    found["small_recall_no_crops"] = [score.present for score in whole.score(small)]
    return found


def small_pictures(
    kit: FewShot, present: Sequence[Image.Image], other: Sequence[Image.Image]
) -> list[Image.Image]:
    """The concept with a small margin, pasted into large pictures of something else; it fills 5 % of them."""
    made = []
    for scene, picture, background in zip(kit.present, present, other, strict=False):
        thing = scene.find(kit.look)
        assert thing is not None
        left, top, right, bottom = thing.box
        margin = 0.1 * max(right - left, bottom - top)
        edges = (left - margin, top - margin, right + margin, bottom + margin)
        width, height = picture.size
        piece = picture.crop(
            (
                max(int(edges[0]), 0),
                max(int(edges[1]), 0),
                min(int(edges[2]), width),
                min(int(edges[3]), height),
            )
        )
        side = int(np.sqrt((right - left) * (bottom - top) / SMALL))
        large = background.resize((side, side), Image.Resampling.BICUBIC)
        rng = np.random.default_rng(scene.seed % 2**32)
        large.paste(piece, tuple(int(rng.integers(0, max(side - edge, 1))) for edge in piece.size))
        made.append(large)
    return made


def calibration_error(probabilities: np.ndarray, truths: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: |mean probability − share of positives| per bin, weighted by bin size."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    parts = [which == one for one in range(bins)]
    gaps = [
        part.mean() * abs(probabilities[part].mean() - truths[part].mean()) for part in parts if part.any()
    ]
    return float(sum(gaps))


# ---------------------------------------------------------------- a large library


def large_library(count: int, repeats: int) -> Figures:
    """Seconds to load a large library from disk, and CPU time of recognition relative to a library of one.

    `gate_over_encoder` is the recognition time over the encoder's part of it, `gate_windows` the number of
    windows per picture that are encoded.
    """
    kit = few_shot(0)
    head = ObjectHead(ENCODER).fit(kit.photos(), category=kit.category)
    embedding = Embedding(np.ones((1, 192), np.float32), "visual_mean", "Describe the picture.", "f" * 64)
    concept = Concept("c0", kit.category, head, {"tinyworld/llava": embedding}, {"captions": kit.captions()})
    with tempfile.TemporaryDirectory() as folder:
        copies(concept, Path(folder), count)
        wall, cpu = [], []
        for _ in range(3):
            started, busy = time.perf_counter(), time.process_time()
            library = ConceptLibrary.load(folder)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - busy)
    library = ConceptLibrary(different(library.values(), head))
    single, shown = ConceptLibrary([concept]), [sample_picture(seed) for seed in range(8)]
    times: dict[int, list[float]] = {1: [], count: []}
    own: dict[int, list[float]] = {1: [], count: []}
    windows: dict[int, float] = {}
    encoder = Counting(get_encoder(ENCODER))
    for turn in range(repeats + 1):
        for size, one in ((1, single), (count, library)) if turn % 2 else ((count, library), (1, single)):
            encoder.reset()
            seconds = cpu_seconds(one, shown)
            if turn:  # the first turn is for warm-up
                times[size].append(seconds)
                windows[size] = encoder.windows / len(shown)
                own[size].append(seconds / encoder.seconds)
    ratio = statistics.median(times[count]) / statistics.median(times[1])
    busy = time.process_time()
    library.remove(f"c{count - 1}")
    library.recognise(shown)  # features are cached: this measures the gate alone
    change = time.process_time() - busy
    return {
        "gate_ratio": round(ratio, 4),
        "gate_over_encoder": round(statistics.median(own[count]), 4),
        "gate_windows": windows[count],
        "gate_windows_of_one": windows[1],
        "change_cpu_seconds": round(change, 4),
        "load_seconds": round(min(wall), 3),
        "load_cpu_seconds": round(min(cpu), 3),
    }


class Counting:
    """Wraps a shared encoder's `encode` to count the encoded windows and their CPU time."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encode = encoder.encode
        encoder.encode = self  # type: ignore[method-assign,assignment]
        self.reset()

    def reset(self) -> None:
        self.windows, self.seconds = 0, 0.0

    def __call__(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> np.ndarray:
        busy = time.process_time()
        rows = self._encode(images, batch_size=batch_size)
        self.seconds += time.process_time() - busy
        self.windows += len(rows)
        return rows


def different(concepts: Iterable[Concept], learned: ObjectHead) -> list[Concept]:
    """Give each concept's head a random direction with the norm of the learned one.

    Must be called before they are put into a library, which builds its gate at once.
    """
    rng, made, length = np.random.default_rng(0), [], np.linalg.norm(learned.coef_)
    for one in concepts:
        assert isinstance(one.head, ObjectHead)
        drawn = rng.normal(size=learned.coef_.shape)
        one.head.coef_ = (length / np.linalg.norm(drawn) * drawn).astype(np.float32)
        made.append(one)
    return made


def copies(concept: Concept, folder: Path, count: int) -> None:
    """Write `count` copies of a concept, c0, c1, …, that differ only in the identifier."""
    first = concept.save(folder / "c0")
    record = json.loads((first / "concept.json").read_bytes())
    for number in range(1, count):
        word = f"c{number}"
        shutil.copytree(first, folder / word)
        (folder / word / "concept.json").write_bytes(
            json_with_digest({**record, "identifier": word, "spoken": word})
        )


def cpu_seconds(library: ConceptLibrary, shown: Sequence[Image.Image]) -> float:
    features.forget_pictures()
    busy = time.process_time()
    found = library.recognise(shown)
    assert all(len(one.present) <= len(library) for one in found)
    return time.process_time() - busy


# ---------------------------------------------------------------- faces


class DrawnFaces:
    """Simulated face encoder whose descriptors have facenet's published accuracy; see `spread`.

    A picture is one pixel; its colour is the number of a face, 1000 per person.
    """

    id = "drawn"
    threshold = FacenetEncoder.threshold
    threshold_error = FacenetEncoder.threshold_error
    threshold_source = FacenetEncoder.threshold_source

    def __init__(self) -> None:
        self.dim, self.same = spread(self.threshold, 1 - self.threshold_error)

    def faces(self, images: Sequence[Image.Image]) -> list[Faces]:
        rows = [self.descriptor(number_of(image)) for image in images]
        return [Faces(((0.0, 0.0, 1.0, 1.0),), row[None].astype(np.float32)) for row in rows]

    def describe(self, faces: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([self.descriptor(7) for _ in faces]).astype(np.float32)

    def descriptor(self, number: int) -> np.ndarray:
        """Descriptor of a face: mean distance `same` to the person's other faces, √2 to other people's."""
        centre = np.random.default_rng(number // 1000).normal(size=self.dim)
        own = np.random.default_rng([number, 1]).normal(size=self.dim)
        root = np.sqrt(2 * self.dim)
        return (np.sqrt(2 - self.same**2) * centre + self.same * own) / root


def spread(threshold: float, accuracy: float) -> tuple[int, float]:
    """Number of dimensions, and mean distance within a person, that give this accuracy on pairs of faces.

    Unrelated descriptors of length 1 are √2 apart. Distances between normal points in k dimensions follow a
    chi distribution; k and the distance within a person are chosen so that both error rates at the threshold
    (strangers taken for one person, and one person for strangers) are 1 − accuracy.
    """
    dim = round(brentq(lambda k: chi.ppf(1 - accuracy, k) / np.sqrt(k) - threshold / np.sqrt(2), 5, 500))
    return dim, float(threshold * np.sqrt(dim) / chi.ppf(accuracy, dim))


def picture_of(number: int) -> Image.Image:
    return Image.new("RGB", (1, 1), (number >> 16 & 255, number >> 8 & 255, number & 255))


def number_of(image: Image.Image) -> int:
    red, green, blue = image.getpixel((0, 0))
    return int(red << 16 | green << 8 | blue)


def drawn_faces(people: int, keys: int = 4, tests: int = 10) -> Figures:
    """Shares of faces named right and wrong among `people` people, and of strangers who are named.

    For the default threshold, the published threshold for pairs, and one calibrated on other people's faces.
    """
    encoder = DrawnFaces()
    own = [[picture_of(1000 * person + face) for face in range(keys)] for person in range(1, people + 1)]
    faces = [
        picture_of(1000 * person + 500 + face) for person in range(1, people + 1) for face in range(tests)
    ]
    strangers = [picture_of(1000 * (people + 1 + person)) for person in range(people * 5)]
    others = [picture_of(1000 * (people * 6 + 1 + person)) for person in range(people)]
    figures: Figures = {}
    rate = 0.01 / people  # as strict as the number of negatives allows
    plain, published = FaceHead(encoder), FaceHead(encoder, people=None)
    calibrated = FaceHead(encoder, people=None, false_alarm_rate=rate)
    kinds = (("", plain, None), ("_published", published, None), ("_calibrated", calibrated, others))
    for suffix, kind, negatives in kinds:
        heads = [copy(kind).fit(photos, negatives) for photos in own]
        gate = FaceHead.gate(heads)
        present = gate.score(load_images(faces)).present
        truth = np.repeat(np.arange(people), tests)
        right = present[np.arange(len(faces)), truth]
        figures[f"faces_right{suffix}"] = round(float(right.mean()), 4)
        figures[f"faces_wrong{suffix}"] = round(float((present.any(axis=1) & ~right).mean()), 4)
        figures[f"faces_strangers{suffix}"] = round(
            float(gate.score(load_images(strangers)).present.any(axis=1).mean()), 4
        )
    return figures


if __name__ == "__main__":
    run: Callable[..., None] = main
    typer.run(run)
