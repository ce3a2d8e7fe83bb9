"""The head for a person who is not always seen from the front: the face, and how they look in these photos.

The face alone says who it is. Clothes and hair are the photos' own: by them a person without a visible face
is proposed for review, as `unsure`, and never named.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from myvlm.boxes import Box
from myvlm.heads.base import HeadMeta, Tensors, check_fitted, check_one_gate, register_head
from myvlm.heads.encoders import DEFAULT_ENCODER, ImageEncoder
from myvlm.heads.faces.encoders import FaceEncoder
from myvlm.heads.faces.head import FaceHead
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER, get_face_encoder
from myvlm.heads.fitted import ScoredByGate, misfit
from myvlm.heads.objects.head import ObjectHead
from myvlm.heads.people.gate import PersonGate, around
from myvlm.images import ImageSources, LoadedImage, load_images

PARTS = ("face", "look")

LAXER = 3.0
"""How many log-odds less than a thing that is named a look needs to be proposed: the face, which all photos
show, is not seen, and what is proposed is looked through."""


class PersonHead(ScoredByGate):
    """Recognises one person by the face, and proposes them for review by head and body where no face is seen.

    What looks like the person, with no face in it, is `unsure` and not present, whatever its score: somebody
    in the same coat looks so too. Where there is a face it decides alone.

    Args:
        encoder: name of a face encoder, or one that you hold; see `FaceHead`.
        appearance: name of an image encoder for head and body, or one that you hold; see `ObjectHead`.
        threshold, people: of the face; see `FaceHead`.
        device: where encoders given by name run.

    After `fit`: `face_` (a `FaceHead`) and `look_` (an `ObjectHead`), both fitted.
    """

    kind: ClassVar[str] = "person"
    privacy: ClassVar[str] = (
        f"{FaceHead.privacy} With it is kept how the person looked in the photos: hair, clothes and such."
    )
    biometric: ClassVar[bool] = True
    stricter_in_company: ClassVar[bool] = True

    def __init__(
        self,
        encoder: str | FaceEncoder = DEFAULT_FACE_ENCODER,
        *,
        appearance: str | ImageEncoder = DEFAULT_ENCODER,
        threshold: float | None = None,
        people: int | Literal["library"] | None = "library",
        device: str = "cpu",
    ) -> None:
        self.encoder = encoder
        self.appearance = appearance
        self.threshold = threshold
        self.people = people
        self.device = device

    face_: FaceHead
    look_: ObjectHead

    def __repr__(self) -> str:
        return f"PersonHead({self._new_face()!r}, {self._new_look()!r})"

    @property
    def gate_key(self) -> Hashable:
        """Both encoders, and what else heads of one gate agree in."""
        face, look = (
            (self.face_, self.look_) if hasattr(self, "face_") else (self._new_face(), self._new_look())
        )
        return face.gate_key, look.gate_key

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Learn the person who is common to the photos, by the face, and how they look around it.

        Args:
            images: as for `FaceHead`; photos in which the face is not found say nothing of the look either.
            negatives: photos of other people, for the face.
            category: what the person is in general, such as "woman"; helps to find them in a photo.

        Raises:
            InputError: as `FaceHead.fit`.
        """
        photos = load_images(images)
        face = self._new_face().fit(photos, negatives)
        bodies = [
            LoadedImage(photo.image.crop(_pixels(around(box, photo.image.size))), photo.name)
            for photo, box in zip(photos, face.boxes_, strict=True)
            if box is not None
        ]
        look = self._new_look().fit(bodies, category=category)
        look.threshold_ -= LAXER / look.slope_
        self.face_, self.look_ = face, look
        return self

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> PersonGate:
        """Score all people at once. Raises NotFittedError, or InputError if they share no encoders."""
        for head in heads:
            check_fitted(head, "face_")
        check_one_gate([head.face_ for head in heads])
        check_one_gate([head.look_ for head in heads])
        encoder = get_face_encoder(heads[0].face_.encoder, device=heads[0].device)
        looks = ObjectHead.gate([one.look_ for one in heads])
        return PersonGate(encoder, FaceHead.gate([one.face_ for one in heads]), looks)

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """What was learned of the face and of the look, one beside the other."""
        check_fitted(self, "face_")
        states = {"face": self.face_.state(), "look": self.look_.state()}
        face = states["face"][0]
        meta = HeadMeta(
            kind=self.kind,
            encoder=face.encoder,
            threshold=face.threshold,
            calibration=face.calibration,
            settings={part: one.model_dump(mode="json") for part, (one, _) in states.items()},
            figures=face.figures,
        )
        tensors = {f"{part}.{name}": one for part, (_, own) in states.items() for name, one in own.items()}
        return meta, tensors

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Tensors, *, device: str = "cpu") -> Self:
        """The head that `state` described. Raises ConceptFileError if numbers and tensors do not fit."""
        try:
            face_meta, look_meta = (HeadMeta.model_validate(meta.settings[part]) for part in PARTS)
        except (KeyError, ValidationError) as error:
            raise misfit(cls.kind, f"{type(error).__name__}: {error}", "a face and a look") from error
        kinds = face_meta.kind, look_meta.kind
        if kinds != (FaceHead.kind, ObjectHead.kind):
            raise misfit(cls.kind, f"heads of kinds {kinds}", f"{FaceHead.kind} and {ObjectHead.kind}")
        face = FaceHead.from_state(face_meta, _part(tensors, "face"), device=device)
        look = ObjectHead.from_state(look_meta, _part(tensors, "look"), device=device)
        head = cls(
            face.encoder, appearance=look.encoder, threshold=face.threshold, people=face.people, device=device
        )
        head.face_, head.look_ = face, look
        return head

    def _new_face(self) -> FaceHead:
        return FaceHead(self.encoder, threshold=self.threshold, people=self.people, device=self.device)

    def _new_look(self) -> ObjectHead:
        return ObjectHead(self.appearance, device=self.device)


def _pixels(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, right, bottom


def _part(tensors: Tensors, part: str) -> dict[str, npt.NDArray[Any]]:
    found = {name: np.asarray(one) for name, one in tensors.items() if name.startswith(f"{part}.")}
    return {name.removeprefix(f"{part}."): one for name, one in found.items()}


register_head("person", PersonHead)
