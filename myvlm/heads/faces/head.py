"""The head for faces: nearest-neighbour recognition with the training faces as keys, within a threshold.

It follows MyVLM (arXiv 2403.14599, §3.1), with facenet-pytorch in place of insightface.
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
from myvlm.heads.faces.correct import descriptor_of_corrected_face
from myvlm.heads.faces.encoders import FaceEncoder, Faces, find_faces
from myvlm.heads.faces.gate import FaceGate, face_encoder_fingerprint
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER, get_face_encoder
from myvlm.heads.faces.threshold import STRANGERS, limit_for
from myvlm.heads.fitted import take_tensor
from myvlm.images import ImageSources, LoadedImage, load_images

SLOPE_TIMES_THRESHOLD = 40.0
"""Slope times threshold where it cannot be fitted to other faces: the probability is 0.98 at 0.9 times the
threshold and 0.02 at 1.1 times. For 0.35 % errors of both kinds at the threshold, as published for the
default encoder, normal distributions give 54; the value is lower because a few keys do not represent a person
fully."""

NEAR_OF_MEAN, NEAR_OF_THRESHOLD = 1.1, 0.75
"""A face is certainly the person's up to the first times the mean distance of the keys, or the second times
the threshold, whichever is larger. With the published errors, one pair of strangers in some 100,000 is within
0.75 times the threshold."""

SAME_PICTURE = 1e-3
"""Keys nearer to each other than this fraction of the threshold are of one picture that was given twice."""


class FaceHead(CorrectableHead[FaceEncoder]):
    """Recognizes one person by the face.

    Args:
        encoder: name of a face encoder, "facenet/vggface2" or "dlib/resnet-v1", or an encoder.
        threshold: Euclidean distance up to which a face is the person's; if None, the encoder's published
            threshold, made stricter for `people`. It is stated with its source in `figures_`.
        people: number of people to choose the threshold for. The published threshold has its error rate for
            one pair of faces, but a stranger's face is compared with the keys of all people. So the threshold
            is lowered until a stranger is taken for any of them in 1 of 20 cases (`limit_for`). "library" for
            as many people as are scored together, a number for that many, None for the published threshold.
        false_alarm_rate: fraction of other people's faces that may be taken for this person, used if faces of
            other people are known (negatives, and other people in the photos).
        device: where an encoder given by name runs.

    After `fit`: `keys_` (K × D, one per training face), `threshold_` and `slope_` (of minus the distance),
    `boxes_` (of the person's face in each photo, None where it was not found), `figures_`. A correction adds
    a key, or a face to `strangers_` (S × D): a face nearer to one of these than to the keys is rejected.
    """

    kind: ClassVar[str] = "face"
    privacy: ClassVar[str] = (
        "The head contains face descriptors, which are biometric data: with them this person can be "
        "recognised in any photo. Ask the person first, keep this folder as safe as their photos, share it "
        "only with people who may recognise them, and erase it when they ask. Faces of others that were "
        "marked as not theirs are stored with them."
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
        """Fit the head to the person who is common to the photos; other people may be in them too.

        Args:
            images: 1 or more photos (3 to 5 are best, of different days). A single photo must show one face
                only.
            negatives: photos of other people: if their faces pass the threshold, it is made stricter. Other
                people in the photos count as negatives too.
            category: the person's category; not used.

        Raises:
            InputError: no photo shows a face, no face or more than one is common to the photos, or a negative
                shows the person; the message names the photos. Or a setting is out of range, or the weights
                cannot be loaded.
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
        self.examples_ = None  # until a correction, the keys are the examples
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
        """Build the gate of these heads. Raises NotFittedError, or InputError if `gate_key`s differ."""
        check_one_gate(heads)
        return FaceGate(heads[0]._encoder(), heads)

    def _limit(self, encoder: FaceEncoder) -> tuple[float, str]:
        """The distance up to which a face is the person's, before calibration on other faces; its source."""
        if self.threshold is not None:
            return self.threshold, "given by the user"
        if self.people is None:
            return encoder.threshold, encoder.threshold_source
        return limit_for(encoder, 1 if self.people == "library" else self.people, len(self.keys_))

    @property
    def stricter_in_company(self) -> bool:
        """Whether the threshold gets stricter the more people are scored together."""
        return self.threshold is None and self.people == "library"

    def threshold_among(self, people: int, encoder: FaceEncoder, strangers: float = STRANGERS) -> float:
        """Return the raw threshold for a gate of so many people, itself included; never laxer than its own.

        `strangers` is the fraction of strangers' faces that may be taken for any of the people.
        """
        if not self.stricter_in_company:
            return self.threshold_
        return max(self.threshold_, -limit_for(encoder, people, len(self.keys_), strangers)[0])

    def _calibrate(self, strangers: FloatArray, encoder: FaceEncoder) -> None:
        """Set threshold and slope of minus the distance; calibrate if other people's faces pass the limit."""
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
        """Return the examples; if there are none, make them from the keys, which all files hold."""
        return self.examples_ or self._own_examples()

    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """Return this head: the keys are its examples."""
        return self

    def _own_examples(self) -> Examples:
        keys = self.keys_
        return Examples.of(keys[:, None], keys[:0], start={"keys": keys}, threshold=self.threshold_)

    def _rows_to_learn_from(
        self, photo: LoadedImage, correction: CorrectedPicture, examples: Examples
    ) -> FloatArray:
        return descriptor_of_corrected_face(self._encoder(), photo, correction, self.keys_)

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
                "equal lengths",
            )


def _check_negatives(
    keys: FloatArray, others: Sequence[LoadedImage], given: Sequence[Faces], limit: float
) -> None:
    """Raise InputError if a negative shows the person: a face about as near to the keys as they are together.

    The distance to a single key is no evidence: of hundreds of strangers, one is near some key.
    """
    pairs = distances(keys, keys)[np.triu_indices(len(keys), 1)]
    near = min(
        max(NEAR_OF_MEAN * float(pairs.mean()) if len(pairs) else 0.0, NEAR_OF_THRESHOLD * limit), limit
    )
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
            fix="leave it out; if it shows a twin, pass photos of this person that differ less",
        )


def _own_distances(keys: FloatArray) -> npt.NDArray[np.float64]:
    """K distances of each key to its nearest other key, as if it had been left out."""
    apart = distances(keys, keys)
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart.min(axis=1))


def _distinct(keys: FloatArray, limit: float) -> FloatArray:
    """Drop keys that come from a picture that was given twice."""
    kept: list[int] = []
    apart = distances(keys, keys)
    for key in range(len(keys)):
        if all(apart[key, other] > SAME_PICTURE * limit for other in kept):
            kept.append(key)
    return keys[kept]


def _rounded(value: float) -> float:
    return round(float(value), 4)


register_head("face", FaceHead)
