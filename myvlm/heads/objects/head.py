"""The head for objects: a linear probe on the features of an image encoder, fitted to 1 to 5 photos.

It follows MyVLM (arXiv 2403.14599, §3.1), with three changes for users who have only photos of the object:
windows are encoded as well as whole pictures, negatives are supplied rather than asked for, and the threshold
is set by cross-validation.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box
from myvlm.errors import InputError, check_is
from myvlm.heads.base import Tensors, check_fitted, check_one_gate, register_head
from myvlm.heads.correcting import CorrectableHead
from myvlm.heads.detections import UNSURE, FloatArray
from myvlm.heads.encoders import DEFAULT_ENCODER, ImageEncoder, get_encoder
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.features import Crops, encoder_fingerprint, same_weights, windows
from myvlm.heads.fitted import take_tensor
from myvlm.heads.objects.correct import (
    examples_from_photos,
    nearest_probe,
    raised_threshold,
    rows_to_learn_from,
)
from myvlm.heads.objects.everyday import EDITION
from myvlm.heads.objects.fit import LearnedProbe, LinearProbe, learn_probe
from myvlm.heads.objects.gate import SCORES_BY_OTHERS, ObjectGate
from myvlm.heads.objects.prototype import learn_prototype
from myvlm.images import ImageSources, LoadedImage, load_images

_log = logging.getLogger(__name__)

MAX_SCORES_BY_OTHERS = 24
"""Most scores of its photos by other heads that a head keeps."""


class ObjectHead(CorrectableHead[ImageEncoder]):
    """Recognizes one object by a linear probe on features of the windows of a picture.

    Args:
        encoder: name of an image encoder (`OpenClipEncoder`), or an encoder.
        crops: which windows of a picture are encoded, which sets the cost of a score: "none", the whole
            picture only (1 window; no box, and small objects are missed); "auto", a pyramid (35 for a square
            picture, 46 for 3:2, never more than 48); or a number, at most so many. A score encodes the large
            windows, and small ones only where they can change it; each of the two is one batch for all heads
            and pictures. Features of the last 64 pictures are cached. Fitting encodes all windows of every
            photo and negative, and, for a regression, 24 views of each photo.
        false_alarm_rate: fraction of pictures without the object that may be called present.
        C: inverse strength of the probe's regularization, as in scikit-learn. If None, it depends on the
            encoder. With a bank of negatives and whitened features, whose spread is the same in all
            directions: 1, or 0.1 from 3 photos on, where a prior is used (`fit.py`). With a bank but no
            whitening: 10. Without a bank, no regression is fitted: the probe is the mean of the photos
            (`prototype.py`), corrected by those given negatives in which it detects the object.
        seed: seed of the random views drawn while fitting.
        device: where an encoder given by name runs.

    After `fit`:

    - `coef_` (D) and `intercept_`: the probe.
    - `threshold_`, `slope_`, `unsure_` (how close to 0.5 a probability is unsure): calibration.
    - `tail_location_`, `tail_scale_`: how often pictures without the object reach a score, see `Tail`; 0 for
      a regression with an encoder that has no bank.
    - `typical_`: score of a left-out photo; 0 where it is not known.
    - `sure_`: with one photo, the score below which a picture may well show another object of the category;
      else 0.
    - `everyday_`: edition of the everyday photographs that whiten the features; 0 if only the encoder does.
    - `boxes_`: the chosen window in each photo.
    - `figures_`: measurements made while fitting.
    - `examples_`: features kept for corrections.
    """

    kind: ClassVar[str] = "object"
    privacy: ClassVar[str] = (
        "The head is one direction in the feature space of a public image encoder. For corrections, the "
        "features of some windows of each photo are stored with it: they reveal roughly what the windows "
        "show, but are not photos."
    )
    SETTINGS = ("crops", "false_alarm_rate", "C", "seed")
    GATE_SETTINGS = ("crops",)
    CALIBRATION: ClassVar[Mapping[str, str]] = {
        "slope": "slope_",
        "reach": "refine_margin_",  # older files were not calibrated on refined boxes
        "unsure": "unsure_",
        "tail_location": "tail_location_",
        "tail_scale": "tail_scale_",
        "typical": "typical_",
        "sure": "sure_",
        "everyday": "everyday_",
    }

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
    refine_margin_: float
    tail_location_: float
    tail_scale_: float
    typical_: float
    sure_: float
    everyday_: int = 0
    boxes_: list[Box]

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Fit the head to the object that all photos show.

        Args:
            images: 1 or more photos (3 to 5 are best) that show the object; other objects may be in them.
            negatives: pictures that do not show it, best of the same category; none are needed. Those that
                seem to show it are named in a warning and used all the same: look-alikes help most.
            category: the object's category, such as "mug"; helps an encoder that reads text to locate it.

        Raises:
            InputError: a setting is out of range, there is no photo, or a photo is among the negatives too.
        """
        self._check_settings()
        encoder = self._encoder()
        photos = load_images(images)
        others = [] if negatives is None else load_images(negatives)
        _check_apart(photos, others)
        learned = self._learn(encoder, photos, others, category)
        self.coef_ = learned.probe.coef
        self.intercept_ = float(np.float32(learned.probe.intercept))  # as it will be on disk
        self.threshold_, self.slope_ = learned.calibration.threshold, learned.calibration.slope
        self.refine_margin_ = learned.refine_margin
        self.unsure_ = UNSURE
        self.tail_location_, self.tail_scale_ = (
            learned.calibration.tail.location,
            learned.calibration.tail.scale,
        )
        self.typical_, self.sure_ = learned.calibration.typical, learned.calibration.sure
        self.everyday_ = learned.everyday
        self.boxes_, self.figures_ = learned.boxes, learned.figures
        self.encoder_fingerprint_ = encoder_fingerprint(encoder)
        self.examples_ = Examples.of(
            learned.photos, learned.others, start=self._tensors(), threshold=self.threshold_
        )
        suspect_negatives = (
            self._learn_negatives(others) if learned.everyday and others else learned.suspect_negatives
        )
        if suspect_negatives:
            _log.warning(
                "a head fitted without these negatives detects the object in them: %s. If they show it, "
                "leave them out; look-alikes are useful negatives and were used",
                ", ".join(others[index].name for index in suspect_negatives),
            )
        if self.figures_["left_out_found"] < 0.5:
            _log.warning(
                "the head detected the object in only %.0f %% of the left-out photos: pass more or closer "
                "photos, or the category%s",
                100 * self.figures_["left_out_found"],
                "; and check that no negative shows it" if others else "",
            )
        return self

    def meet(self, images: ImageSources, others: Sequence[Self]) -> None:
        """Score this head's training photos with heads of other objects, to estimate their false alarms.

        From these scores a library learns how high its heads score on pictures of other objects. Only some of
        the scores are kept, in `figures_`. The features of the photos are cached since `fit`.

        Args:
            images: the training photos.
            others: heads of the same `gate_key` that are of other categories. Heads fitted with other weights
                of the encoder are ignored.
        """
        now = self.encoder_fingerprint_
        known = [one for one in others if one.tail_scale_ > 0 and same_weights(now, one.encoder_fingerprint_)]
        if not self.everyday_ or not known:
            return
        raw = self.gate(known).raw(load_images(images))[0].astype(np.float64)
        location = np.array([one.tail_location_ for one in known])
        above = ((raw - location) / np.array([one.tail_scale_ for one in known])).ravel()
        some = np.linspace(0, len(above) - 1, min(MAX_SCORES_BY_OTHERS, len(above))).round().astype(int)
        self.figures_[SCORES_BY_OTHERS] = above[some].round(3).tolist()

    @property
    def gate_key(self) -> Hashable:
        """The encoder, the windows, and the whitening."""
        return id(self._encoder()), self.crops, self.everyday_

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> ObjectGate:
        """Build the gate of these heads. Raises NotFittedError, or InputError if `gate_key`s differ."""
        check_one_gate(heads)
        return ObjectGate(heads[0]._encoder(), heads[0].crops, heads)

    def _learn(
        self,
        encoder: ImageEncoder,
        photos: Sequence[LoadedImage],
        others: Sequence[LoadedImage],
        category: str | None,
    ) -> LearnedProbe:
        """Fit a regression if the encoder has a bank of negatives or `C` is given; else a prototype."""
        if self.C is None and encoder.bank() is None:
            return learn_prototype(
                encoder,
                photos,
                category=category,
                crops=self.crops,
                false_alarm_rate=self.false_alarm_rate,
            )
        return learn_probe(
            encoder,
            photos,
            others,
            category=category,
            crops=self.crops,
            false_alarm_rate=self.false_alarm_rate,
            C=self.C,
            seed=self.seed,
        )

    def _learn_negatives(self, others: Sequence[LoadedImage]) -> list[int]:
        """Apply those given negatives in which a prototype detects the object, as corrections.

        A regression on so few negatives detects the object less often, and other objects too:
        benchmarks/RESULTS.md.

        Returns:
            The indices of these negatives.
        """
        suspect_negatives = [number for number, one in enumerate(self.score(others)) if one.present]
        told = self
        for number in suspect_negatives:
            if told.score(others[number])[0].present:
                told = told.corrected(others[number], present=False)
        known = told.known_examples()
        unlike = np.concatenate([known.others, *known.rows]).astype(np.float16)
        self.coef_, self.intercept_, self.threshold_ = told.coef_, told.intercept_, told.threshold_
        self.figures_["negative_pictures"] = len(others)
        self.examples_ = Examples.of(
            known.photos.astype(np.float16), unlike, start=self._tensors(), threshold=self.threshold_
        )
        return suspect_negatives

    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """Return this head with examples made from its photos; for a head whose file does not hold them."""
        check_fitted(self, "threshold_")
        others = [] if negatives is None else load_images(negatives)
        kept = examples_from_photos(self, self._encoder(), load_images(images), others)
        head = copy(self)
        head.examples_ = Examples.of(*kept, start=self._tensors(), threshold=self.threshold_)
        return head

    def _rows_to_learn_from(
        self, photo: LoadedImage, correction: CorrectedPicture, examples: Examples
    ) -> npt.NDArray[np.float16]:
        return rows_to_learn_from(self, self._encoder(), photo, correction, examples)

    def _learn_corrections(self, examples: Examples) -> None:
        start = LinearProbe(self.coef_, self.intercept_)
        if self.typical_ > 0:  # a prototype; a regression was fitted to negatives already
            left_out = self.figures_.get("left_out_scores", [])
            self.threshold_ = raised_threshold(start, self.threshold_, left_out, examples)
        probe = nearest_probe(start, self.threshold_, self.slope_, examples, reach=self.refine_margin_)
        self.coef_, self.intercept_ = probe.coef, probe.intercept

    def _encoder(self) -> ImageEncoder:
        return get_encoder(self.encoder, device=self.device)

    def _check_settings(self) -> None:
        windows(1, 1, self.crops)
        for number in (self.false_alarm_rate, 1 if self.C is None else self.C):
            check_is(number, Real, what="setting of the head", expected="a number")
        if not 0 < self.false_alarm_rate < 1 or not (self.C is None or 0 < self.C < float("inf")):
            raise InputError(
                "A setting of the head is out of range.",
                got=f"false_alarm_rate={self.false_alarm_rate}, C={self.C}",
                expected="0 < false_alarm_rate < 1 and 0 < C",
                fix="leave them at 0.01 and None",
            )

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {"coef": self.coef_, "intercept": np.array([self.intercept_], dtype=np.float32)}

    def _take(self, tensors: Tensors) -> None:
        self.coef_, intercept = take_tensor(tensors, "coef", 1), take_tensor(tensors, "intercept", 1)
        if self.everyday_ not in (0, EDITION):
            raise self._misfit(
                f"everyday photographs of edition {self.everyday_:g}", f"edition {EDITION}, or none"
            )
        sizes = len(self.coef_), len(self.encoder_fingerprint_), len(intercept)
        if sizes[0] != sizes[1] or sizes[2] != 1:
            raise self._misfit(
                f"coef {sizes[0]}, fingerprint {sizes[1]}, intercept {sizes[2]}",
                "coef and encoder fingerprint of one length, one intercept",
            )
        self.intercept_ = float(intercept[0])


def _check_apart(photos: Sequence[LoadedImage], others: Sequence[LoadedImage]) -> None:
    """Raise InputError if a picture is given both as a photo of the object and as a negative."""
    own = {photo.digest: photo.name for photo in photos} if others else {}
    both = [f"{one.name} is {own[one.digest]}" for one in others if one.digest in own]
    if both:
        raise InputError(
            "A photo of the object is among its negatives.",
            got="; ".join(both),
            expected="negatives that do not show it",
            fix="remove it from the negatives",
        )


register_head("object", ObjectHead)
