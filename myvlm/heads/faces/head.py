"""The head for people: every training face is a key, and a face is its nearest key's, within a threshold.

After MyVLM (arXiv 2403.14599, §3.1), with facenet-pytorch in place of insightface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box
from myvlm.errors import InputError
from myvlm.heads.base import Tensors, check_one_gate, register_head
from myvlm.heads.calibration import calibrate
from myvlm.heads.correcting import CorrectableHead
from myvlm.heads.detections import UNSURE, FloatArray
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.faces.clustering import bystanders, common_person, distances
from myvlm.heads.faces.correct import face_meant
from myvlm.heads.faces.encoders import FaceEncoder, Faces, find_faces
from myvlm.heads.faces.gate import FaceGate, face_encoder_fingerprint
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER, get_face_encoder
from myvlm.heads.faces.threshold import STRANGERS, limit_for
from myvlm.heads.fitted import take_tensor
from myvlm.images import ImageSources, LoadedImage, load_images

SLOPE_TIMES_THRESHOLD = 40.0
"""The probability's slope times the threshold, where no other faces tell it: 0.98 at nine tenths of the
threshold and 0.02 at eleven. For 0.35 % errors of both kinds at the threshold, as published for the default
encoder, normal distributions give 54; less is claimed here, because a key is not a whole person."""

LIKE_OWN, LIKE_ONE = 1.1, 0.75
"""A face is the person's beyond doubt up to so many times the mean distance of the keys, or parts of the
threshold, whichever is more. At 0.75 one pair of strangers in some 100,000 is, with the published errors."""

SAME_PICTURE = 1e-3
"""Keys nearer than this part of the threshold come from one picture, given twice."""


class FaceHead(CorrectableHead[FaceEncoder]):
    """Recognises one person by the face.

    Args:
        encoder: name of a face encoder, "facenet/vggface2" or "dlib/resnet-v1", or one that you hold.
        threshold: Euclidean distance up to which a face is the person's; if None the encoder's published one,
            made stricter for `people`. It is stated with its source in `figures_`.
        people: how many people a face is told from. The published threshold has the error of one pair of
            faces, and a stranger is held against the keys of all: so it is lowered until a stranger is taken
            for any of them in 1 of 20 cases (`limit_for`). "library" for as many as are scored beside it, a
            number for so many whatever there is, None for the published threshold.
        false_alarm_rate: the part of other people's faces that may be taken for this person, where negatives
            are given.
        device: where an encoder given by name runs.

    After `fit`: `keys_` (K × D, one a training face), `threshold_` and `slope_` (on minus the distance),
    `boxes_` (of the person's face in each photo, None where it was not found), `figures_`. A
    correction is one key more, or a face in `strangers_` (S × D): what is nearer to one of these is not them.
    """

    kind: ClassVar[str] = "face"
    privacy: ClassVar[str] = (
        "The head holds face descriptors, which are biometric data: with them this person can be recognised "
        "in any photo. Ask the person first, keep this folder as you would keep their photos, share it with "
        "nobody who may not recognise them, and erase it when they ask. A face of somebody else that was "
        "said not to be theirs is kept with them."
    )
    SETTINGS = ("threshold", "people", "false_alarm_rate")
    exclusive: ClassVar[bool] = True
    OLDER_SETTINGS: ClassVar[Mapping[str, Any]] = {"people": None}  # they took the published threshold

    def __init__(
        self,
        encoder: str | FaceEncoder = DEFAULT_FACE_ENCODER,
        *,
        threshold: float | None = None,
        people: int | Literal["library"] | None = "library",
        false_alarm_rate: float = 0.01,
        device: str = "cpu",
    ) -> None:
        self.encoder = encoder
        self.threshold = threshold
        self.people = people
        self.false_alarm_rate = false_alarm_rate
        self.device = device

    keys_: FloatArray
    strangers_: FloatArray
    boxes_: list[Box | None]

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Learn the person who is common to the photos; others may be in them too.

        Args:
            images: 1 or more photos (3 to 5 are best, of different days). One alone must show one face only.
            negatives: photos of other people: where their faces pass the threshold, it is lowered. The other
                people in the photos count as negatives too.
            category: what the person is in general; not needed to recognise a face.

        Raises:
            InputError: no photo shows a face, none is common to them or two are, or a negative shows the
                person; each names the photos. A setting is out of range, or the weights are not there.
        """
        self._check_settings()
        encoder = self._encoder()
        photos = load_images(images)
        others = [] if negatives is None else load_images(negatives)
        found = find_faces(encoder, photos)
        limit = encoder.threshold if self.threshold is None else self.threshold
        person = common_person(photos, found, limit)
        keys = _distinct(
            np.stack([found[photo].descriptors[face] for photo, face in sorted(person.faces.items())]), limit
        )
        strangers = bystanders(found, person)
        if others:
            given = find_faces(encoder, others)
            _check_negatives(keys, others, given, limit)
            strangers = np.concatenate([strangers, *(faces.descriptors for faces in given)])
        self.keys_, self.strangers_ = keys, keys[:0]
        self._calibrate(strangers, encoder)
        self.unsure_ = UNSURE
        self.examples_ = None  # they are the keys, until it is corrected
        self.encoder_fingerprint_ = face_encoder_fingerprint(encoder)
        self.boxes_ = [
            found[photo].boxes[person.faces[photo]] if photo in person.faces else None
            for photo in range(len(photos))
        ]
        self.figures_ |= {
            "photos": len(photos),
            "photos_with_the_person": len(person),
            "keys": len(keys),
            "farthest_own_face": _rounded(_own_distances(keys).max()) if len(keys) > 1 else None,
            "nearest_other_face": _rounded(distances(strangers, keys).min()) if len(strangers) else None,
            "other_faces": len(strangers),
        }
        return self

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> FaceGate:
        """Score all people at once. Raises NotFittedError, or InputError if they do not share an encoder."""
        check_one_gate(heads)
        return FaceGate(heads[0]._encoder(), heads)

    def _limit(self, encoder: FaceEncoder) -> tuple[float, str]:
        """The distance up to which a face is the person's, before others' faces are seen; its source."""
        if self.threshold is not None:
            return self.threshold, "given by the user"
        if self.people is None:
            return encoder.threshold, encoder.threshold_source
        return limit_for(encoder, 1 if self.people == "library" else self.people, len(self.keys_))

    @property
    def stricter_in_company(self) -> bool:
        """Whether the more people are scored beside it, the nearer a face must be."""
        return self.threshold is None and self.people == "library"

    def threshold_among(self, people: int, encoder: FaceEncoder, strangers: float = STRANGERS) -> float:
        """The raw threshold beside so many people, itself included: never laxer than its own.

        `strangers` is the part of strangers' faces that may be taken for any of the people.
        """
        if not self.stricter_in_company:
            return self.threshold_
        return max(self.threshold_, -limit_for(encoder, people, len(self.keys_), strangers)[0])

    def _calibrate(self, strangers: FloatArray, encoder: FaceEncoder) -> None:
        """Threshold and slope on minus the distance; the limit stands unless other people's faces pass it."""
        limit, source = self._limit(encoder)
        self.threshold_, self.slope_ = -limit, SLOPE_TIMES_THRESHOLD / limit
        if len(strangers):
            theirs = distances(strangers, self.keys_).min(axis=1)
            if np.quantile(theirs, self.false_alarm_rate, method="lower") < limit:
                own = _own_distances(self.keys_) if len(self.keys_) > 1 else np.array([limit / 2])
                found = calibrate(-own, -theirs, self.false_alarm_rate)
                self.threshold_, self.slope_ = found.threshold, found.slope
                source = (
                    f"calibrated on {len(strangers)} faces of other people for a false-alarm rate of "
                    f"{self.false_alarm_rate:g}; without them {limit:g}: {source}"
                )
        self.figures_ = {"threshold_distance": _rounded(-self.threshold_), "threshold_source": source}

    def _encoder(self) -> FaceEncoder:
        return get_face_encoder(self.encoder, device=self.device)

    def _check_settings(self) -> None:
        wrong = self.threshold is not None and not 0 < self.threshold < float("inf")
        counted = isinstance(self.people, int) and self.people >= 1
        if wrong or not 0 < self.false_alarm_rate < 1 or not (counted or self.people in (None, "library")):
            raise InputError(
                "A setting of the head is out of range.",
                got=f"threshold={self.threshold}, people={self.people}, "
                f"false_alarm_rate={self.false_alarm_rate}",
                expected='a threshold above 0, people from 1 on (or "library", or None), and '
                "0 < false_alarm_rate < 1",
                fix='leave them at None, "library" and 0.01',
            )

    def known_examples(self) -> Examples:
        """What it was learned from: its keys, which a file of any release holds."""
        return self.examples_ or self._own_examples()

    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """Itself: a face's keys are what it was learned from."""
        return self

    def _own_examples(self) -> Examples:
        keys = self.keys_
        return Examples.of(keys[:, None], keys[:0], start={"keys": keys}, threshold=self.threshold_)

    def _rows_to_learn_from(
        self, photo: LoadedImage, correction: CorrectedPicture, examples: Examples
    ) -> FloatArray:
        return face_meant(self._encoder(), photo, correction, self.keys_)

    def _learn_corrections(self, examples: Examples) -> None:
        told = list(zip(examples.corrections, examples.rows, strict=True))
        self.keys_ = np.concatenate([self.keys_, *(face for correction, face in told if correction.present)])
        self.strangers_ = np.concatenate(
            [self.strangers_, *(face for correction, face in told if not correction.present)]
        )

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        strangers = {"strangers": self.strangers_} if len(self.strangers_) else {}
        return {"keys": self.keys_, **strangers}

    def _take(self, tensors: Tensors) -> None:
        self.keys_ = take_tensor(tensors, "keys", 2)
        self.strangers_ = take_tensor(tensors, "strangers", 2) if "strangers" in tensors else self.keys_[:0]
        if {self.keys_.shape[1], self.strangers_.shape[1]} != {len(self.encoder_fingerprint_)}:
            raise self._misfit(
                f"keys {self.keys_.shape}, fingerprint {self.encoder_fingerprint_.shape}",
                "one length of both",
            )


def _check_negatives(
    keys: FloatArray, others: Sequence[LoadedImage], given: Sequence[Faces], limit: float
) -> None:
    """Raise InputError if a negative shows the person: a face as near to all keys as they are to each other.

    Nearness to one key would not do: among hundreds of strangers one is.
    """
    pairs = distances(keys, keys)[np.triu_indices(len(keys), 1)]
    near = min(max(LIKE_OWN * float(pairs.mean()) if len(pairs) else 0.0, LIKE_ONE * limit), limit)
    holding = [
        photo.name
        for photo, faces in zip(others, given, strict=True)
        if len(faces) and distances(faces.descriptors, keys).mean(axis=1).min() <= near
    ]
    if holding:
        raise InputError(
            "A negative shows the person.",
            got=", ".join(holding),
            expected="photos of other people only",
            fix="take it out; if it is a twin, give photos of this person that differ less",
        )


def _own_distances(keys: FloatArray) -> npt.NDArray[np.float64]:
    """K: how far each key is from its nearest other, as if it had been left out."""
    apart = distances(keys, keys)
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart.min(axis=1))


def _distinct(keys: FloatArray, limit: float) -> FloatArray:
    """The keys without those of the same picture given again."""
    kept: list[int] = []
    apart = distances(keys, keys)
    for key in range(len(keys)):
        if all(apart[key, other] > SAME_PICTURE * limit for other in kept):
            kept.append(key)
    return keys[kept]


def _rounded(value: float) -> float:
    return round(float(value), 4)


register_head("face", FaceHead)
