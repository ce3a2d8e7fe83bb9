"""The head for objects: a linear probe on the features of an image encoder, learned from 1 to 5 photos.

After MyVLM (arXiv 2403.14599, §3.1), with three changes for a user who has photos of one mug and of nothing
else: windows as well as whole pictures are looked at, negatives are found rather than asked for, and the
threshold is set by photos and pictures that were left out.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from myvlm.errors import ConceptFileError, InputError
from myvlm.heads.base import (
    FloatArray,
    GateScores,
    HeadMeta,
    HeadScore,
    Tensors,
    check_fitted,
    take_tensor,
)
from myvlm.heads.calibration import sigmoid
from myvlm.heads.encoders import DEFAULT_ENCODER, ImageEncoder, PictureFeatures, features, get_encoder, whiten
from myvlm.heads.fingerprint import check_encoder_fingerprint, encoder_fingerprint
from myvlm.heads.objects.fit import learn_probe
from myvlm.heads.objects.refine import AT_MOST, refine_boxes
from myvlm.heads.registry import register_head
from myvlm.heads.verdict import UNSURE, within
from myvlm.heads.windows import Box, Crops, spread, windows
from myvlm.images import ImageSource, ImageSources, LoadedImage, load_images

_log = logging.getLogger(__name__)


class ObjectHead:
    """Recognises one object by a linear probe on the windows of a picture.

    Args:
        encoder: name of an image encoder (`OpenClipEncoder`), or one that you hold.
        crops: which windows of a picture are encoded, which is the cost of a score: "none", the whole picture
            only (1 window; no box, and small objects are missed); "auto", a pyramid (35 for a square picture,
            46 for 3:2, never more than 48); or a number, at most so many. All windows go in one batched pass,
            whatever the number of heads, and the last 64 pictures are remembered. Learning encodes those of
            every photo and negative, and 24 views of each photo.
        false_alarm_rate: the part of pictures without the object that may be called present.
        C: inverse strength of the probe's regularisation, as in scikit-learn; None for 1 where the encoder's
            features are whitened, whose spread is the same in all directions, and 10 where they are not.
        seed: of the views drawn while learning.
        device: where an encoder given by name runs.

    After `fit`: `coef_` (D) and `intercept_` of the probe; `threshold_`, `slope_` and `unsure_` (how near to
    0.5 a probability is unsure) of its calibration; `boxes_` (where the object was taken to be in each
    photo); `figures_` (what was measured on the way).
    """

    kind: ClassVar[str] = "object"
    privacy: ClassVar[str] = (
        "The head is one direction among the features of a public image encoder; it holds no photo."
    )

    def __init__(
        self,
        encoder: str | ImageEncoder = DEFAULT_ENCODER,
        *,
        crops: Crops = "auto",
        false_alarm_rate: float = 0.01,
        C: float | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.encoder = encoder
        self.crops = crops
        self.false_alarm_rate = false_alarm_rate
        self.C = C
        self.seed = seed
        self.device = device

    coef_: FloatArray
    intercept_: float
    threshold_: float
    slope_: float
    refine_margin_: float
    unsure_: float
    encoder_fingerprint_: FloatArray
    boxes_: list[Box]
    figures_: dict[str, Any]

    def __repr__(self) -> str:
        name = self.encoder if isinstance(self.encoder, str) else self.encoder.id
        return f"ObjectHead({name!r}, crops={self.crops!r})"

    @property
    def gate_key(self) -> Hashable:
        return (id(self._encoder()), self.crops)

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Learn the object that all photos show.

        Args:
            images: 1 or more photos (3 to 5 are best) that show one object among others.
            negatives: pictures that do not show it, best of the same category; none are needed. Those that
                seem to show it are named in a warning, and kept: look-alikes are the most useful.
            category: what it is in general, such as "mug"; helps an encoder that reads text to find it.

        Raises:
            InputError: a setting is out of range, there is no photo, or a photo is among the negatives too.
        """
        self._check_settings()
        encoder = self._encoder()
        photos = load_images(images)
        others = [] if negatives is None else load_images(negatives)
        _check_apart(photos, others)
        learned = learn_probe(
            encoder,
            photos,
            others,
            category=category,
            crops=self.crops,
            false_alarm_rate=self.false_alarm_rate,
            C=self.C,
            seed=self.seed,
        )
        self.coef_, self.intercept_ = learned.probe.coef, learned.probe.intercept
        self.threshold_, self.slope_ = learned.calibration.threshold, learned.calibration.slope
        self.refine_margin_ = learned.refine_margin
        self.unsure_ = UNSURE
        self.boxes_, self.figures_ = learned.boxes, learned.figures
        self.encoder_fingerprint_ = encoder_fingerprint(encoder)
        if learned.doubtful:
            _log.warning(
                "a head that was not shown them finds the object in these negatives: %s. If they show it, "
                "take them out; look-alikes are what negatives are for, and were learned from",
                ", ".join(others[index].name for index in learned.doubtful),
            )
        if self.figures_["left_out_found"] < 0.5:
            _log.warning(
                "the head knew the object again in only %.0f %% of the photos it was not shown: "
                "give it more photos, from nearer, or tell it the category"
                "%s",
                100 * self.figures_["left_out_found"],
                "; and look whether a negative shows it" if others else "",
            )
        return self

    def score(self, images: ImageSources) -> list[HeadScore]:
        """Probability, presence and likeliest box for each picture. Raises NotFittedError before `fit`."""
        scores = self.gate([self]).score(images)
        return [scores.at(picture, 0) for picture in range(len(scores.probabilities))]

    def heat_map(self, image: ImageSource, *, cells: int = 24) -> FloatArray:
        """Where in a picture the object is seen: h × w float32 from 0 to 1, `cells` along the longer side.

        Each cell is the mean probability of the windows over it, small ones counting more; with crops="none"
        that is one number everywhere. It costs no pass beyond that of `score`.

        Raises:
            NotFittedError: before `fit`.
            ImageError, InputError: the picture cannot be read.
        """
        [picture] = features(self._encoder(), load_images(image), self.crops)
        return self.gate([self]).heat_map(picture, cells)

    def decision_function(self, images: ImageSources) -> npt.NDArray[np.float32]:
        """N raw scores: each picture's best window, before calibration; present from `threshold_` on."""
        return self.gate([self]).raw(images)[0][:, 0]

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """What was learned: `coef` (D), `intercept` (1) and `witness` (D), and the numbers around them."""
        check_fitted(self, "coef_")
        meta = HeadMeta(
            kind=self.kind,
            encoder=self._encoder().id,
            threshold=self.threshold_,
            calibration={"slope": self.slope_}
            | ({"reach": self.refine_margin_} if self.refine_margin_ else {})
            | ({"unsure": self.unsure_} if self.unsure_ else {}),
            settings={
                "crops": self.crops,
                "false_alarm_rate": self.false_alarm_rate,
                "C": self.C,
                "seed": self.seed,
            },
            figures=self.figures_,
        )
        intercept = np.array([self.intercept_], dtype=np.float32)
        return meta, {"coef": self.coef_, "intercept": intercept, "witness": self.encoder_fingerprint_}

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Tensors, *, device: str = "cpu") -> Self:
        """The head that `state` described. Raises ConceptFileError if numbers and tensors do not fit."""
        try:
            settings: dict[str, Any] = meta.settings
            head = cls(
                meta.encoder,
                crops=settings["crops"],
                false_alarm_rate=settings["false_alarm_rate"],
                C=settings["C"],
                seed=settings["seed"],
                device=device,
            )
            head._check_settings()
            head.slope_ = meta.calibration["slope"]
        except (KeyError, TypeError, InputError) as error:
            raise _misfit(f"{type(error).__name__}: {error}", "the settings of an object head") from error
        head.coef_ = take_tensor(tensors, "coef", 1)
        head.encoder_fingerprint_ = take_tensor(tensors, "witness", 1)
        intercept = take_tensor(tensors, "intercept", 1)
        if len(head.coef_) != len(head.encoder_fingerprint_) or len(intercept) != 1:
            fingerprint = len(head.encoder_fingerprint_)
            sizes = f"coef {len(head.coef_)}, witness {fingerprint}, intercept {len(intercept)}"
            raise _misfit(sizes, "coef and witness of one length, one intercept")
        head.intercept_, head.threshold_ = float(intercept[0]), meta.threshold
        # Older files were not calibrated on refined boxes.
        head.refine_margin_ = meta.calibration.get("reach", 0.0)
        head.unsure_ = meta.calibration.get("unsure", 0.0)  # older files know no "unsure"
        head.figures_ = dict(meta.figures)
        return head

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> ObjectGate:
        """Score all heads at once. Raises NotFittedError, or InputError if they do not share an encoder."""
        _check_alike(heads)
        return ObjectGate(heads[0]._encoder(), heads[0].crops, heads)

    def _encoder(self) -> ImageEncoder:
        return get_encoder(self.encoder, device=self.device)

    def _check_settings(self) -> None:
        windows(1, 1, self.crops)
        if not 0 < self.false_alarm_rate < 1 or not (self.C is None or 0 < self.C < float("inf")):
            raise InputError(
                "A setting of the head is out of range.",
                got=f"false_alarm_rate={self.false_alarm_rate}, C={self.C}",
                expected="0 < false_alarm_rate < 1 and 0 < C",
                fix="leave them at 0.01 and None",
            )


class ObjectGate:
    """M probes as one M × D matrix: whatever their number, one encoder pass and one matrix product.

    Args:
        encoder: of all of them.
        crops: the windows of all of them.
        heads: fitted.
        before: a gate of the same encoder and windows, whose rows of these heads are taken over.
    """

    _coef: FloatArray
    _unchecked: list[FloatArray]
    _probes: list[FloatArray]

    def __init__(
        self,
        encoder: ImageEncoder,
        crops: Crops,
        heads: Sequence[ObjectHead],
        before: ObjectGate | None = None,
    ) -> None:
        self._encoder, self._crops = encoder, crops
        # The arrays themselves are kept: a head that is fitted again, or has another probe, has another one.
        self._probes = [head.coef_ for head in heads]
        known = {} if before is None else {id(probe): row for row, probe in enumerate(before._probes)}
        rows = np.array([known.get(id(probe), -1) for probe in self._probes])
        new = np.flatnonzero(rows < 0).tolist()
        lengths = {len(self._probes[row]) for row in new} | ({before._coef.shape[1]} if before else set())
        if len(lengths) != 1:
            raise _misfit(f"lengths {sorted(lengths)}", f"the one feature length of {encoder.id}")
        if before is None:
            self._coef = np.stack(self._probes)
        else:
            self._coef = before._coef[rows]
            for row in new:
                self._coef[row] = self._probes[row]
        kept_and_checked = before is not None and not before._unchecked
        self._unchecked = [
            heads[row].encoder_fingerprint_ for row in (new if kept_and_checked else range(len(heads)))
        ]
        self._intercept = np.array([head.intercept_ for head in heads], dtype=np.float32)
        self._threshold = np.array([head.threshold_ for head in heads])
        self._refine_margin = np.array([head.refine_margin_ for head in heads])
        self._slope = np.array([head.slope_ for head in heads])
        self._unsure = np.array([head.unsure_ for head in heads])

    def renewed(self, heads: Sequence[ObjectHead]) -> ObjectGate:
        """The gate of these heads: the rows of those that are in this one are copied, not made again.

        Raises:
            NotFittedError, InputError: see `ObjectHead.gate`.
            ConceptFileError: their features are of another length.
        """
        have = set(map(id, self._probes))
        new = [head for head in heads if id(getattr(head, "coef_", None)) not in have]
        _check_alike(new, (id(self._encoder), self._crops))
        return ObjectGate(self._encoder, self._crops, heads, self)

    def score(self, images: ImageSources) -> GateScores:
        """N pictures → N × M probabilities, presence and boxes; no boxes where only whole pictures count."""
        raw, boxes = self.raw(images)
        above = raw.astype(np.float64) - self._threshold
        likely = sigmoid(self._slope * above)
        return GateScores(likely.astype(np.float32), above >= 0, boxes, within(likely, self._unsure))

    def raw(self, images: ImageSources) -> tuple[FloatArray, FloatArray]:
        """N × M raw scores, each of a picture's best window, and N × M × 4 boxes of those windows."""
        self._check_weights()
        loaded = load_images(images)
        pictures = features(self._encoder, loaded, self._crops)
        stacked = np.concatenate([picture.features for picture in pictures])
        scores = whiten(self._encoder, stacked) @ self._coef.T + self._intercept
        ends = np.cumsum([len(picture.features) for picture in pictures])[:-1]
        best = [_best(own, picture) for own, picture in zip(np.split(scores, ends), pictures, strict=True)]
        raw, boxes = np.stack([score for score, _ in best]), np.stack([box for _, box in best])
        if self._crops == "none" or self._crops == 1:
            boxes[:] = np.nan
        else:
            self._look_closer(loaded, raw, boxes)
        return raw, boxes

    def _look_closer(self, images: Sequence[LoadedImage], raw: FloatArray, boxes: FloatArray) -> None:
        """Raise scores, and move boxes, to the best variation of windows from `reach` below the threshold on.

        A window that several heads like is looked at once, and of a picture only the three most liked.
        """
        above = raw - self._threshold
        near = (above >= -self._refine_margin) & (self._refine_margin > 0)
        liked: list[tuple[int, Box, list[int]]] = []
        for picture in np.flatnonzero(near.any(axis=1)).tolist():
            heads_by_box: dict[Box, list[int]] = {}
            for head in sorted(
                np.flatnonzero(near[picture]).tolist(), key=lambda head: -above[picture, head]
            ):
                left, top, right, bottom = boxes[picture, head].tolist()
                heads_by_box.setdefault((left, top, right, bottom), []).append(head)
            liked += [(picture, box, heads) for box, heads in list(heads_by_box.items())[:AT_MOST]]
        looks = refine_boxes(self._encoder, [images[i] for i, _, _ in liked], [box for _, box, _ in liked])
        for (picture, _, heads), look in zip(liked, looks, strict=True):
            scores = whiten(self._encoder, look.features) @ self._coef[heads].T + self._intercept[heads]
            for head, score, box in zip(heads, *_best(scores, look), strict=True):
                if score > raw[picture, head]:
                    raw[picture, head], boxes[picture, head] = score, box

    def heat_map(self, picture: PictureFeatures, cells: int) -> FloatArray:
        """The map of the gate's first head; see `ObjectHead.heat_map`."""
        self._check_weights()
        raw = whiten(self._encoder, picture.features) @ self._coef[0] + self._intercept[0]
        return spread(sigmoid(self._slope[0] * (raw - self._threshold[0])), picture.boxes, cells)

    def _check_weights(self) -> None:
        if self._unchecked:
            check_encoder_fingerprint(self._encoder, self._unchecked)
            self._unchecked = []


def _check_alike(heads: Sequence[ObjectHead], *gate_keys: Hashable) -> None:
    """Raise unless all are fitted, and share one encoder and one choice of windows (that of `gate_keys`)."""
    for head in heads:
        check_fitted(head, "coef_")
    if len({head.gate_key for head in heads}.union(gate_keys)) != 1:
        raise InputError(
            "Heads of one gate share one encoder and one choice of windows.",
            got=", ".join(map(repr, heads)) or "no heads",
            expected="equal `gate_key`",
            fix="make one gate for each value of `gate_key`",
        )


def _check_apart(photos: Sequence[LoadedImage], others: Sequence[LoadedImage]) -> None:
    """Raise InputError if a picture is both a photo of the object and a picture without it."""
    own = {photo.digest: photo.name for photo in photos}
    both = [f"{one.name} is {own[one.digest]}" for one in others if one.digest in own]
    if both:
        raise InputError(
            "A photo of the object is among its negatives.",
            got="; ".join(both),
            expected="negatives that do not show it",
            fix="take it out of the negatives",
        )


def _best(scores: FloatArray, picture: PictureFeatures) -> tuple[FloatArray, FloatArray]:
    """C × M scores of a picture's windows → for each head the best score and its box."""
    winner = scores.argmax(axis=0)
    boxes = np.asarray(picture.boxes, dtype=np.float32)
    return scores[winner, np.arange(scores.shape[1])], boxes[winner]


def _misfit(got: str, expected: str) -> ConceptFileError:
    return ConceptFileError(
        "The parts of this object head do not fit together.",
        got=got,
        expected=expected,
        fix="use an unaltered copy of the concept folder, or learn it again",
    )


register_head("object", ObjectHead)
