"""The head for a person whose face is not always visible: it combines a face head with an appearance head.

Only the face identifies the person. Clothes and hair are specific to the training photos: by them, a person
whose face is not visible is proposed for review as `unsure`, and never present.
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
from myvlm.heads.people.gate import PersonGate, body_box
from myvlm.images import ImageSources, LoadedImage, load_images

PARTS = ("face", "look")

LOWERED_LOG_ODDS = 3.0
"""How much the threshold of the appearance head is lowered, in log-odds: all its training photos show the
face, which is not visible where the head is needed, and its proposals are reviewed."""


class PersonHead(ScoredByGate):
    """Recognizes one person by the face, and proposes the person by head and body where no face is visible.

    A body that looks like the person, with no face visible, is `unsure` and not present, whatever its score:
    somebody else may wear the same coat. Where a face is visible, the face alone decides.

    Args:
        encoder: name of a face encoder, or an encoder; see `FaceHead`.
        appearance: name of an image encoder for head and body, or an encoder; see `ObjectHead`.
        threshold, people: settings of the face head; see `FaceHead`.
        device: where encoders given by name run.

    After `fit`: `face_` (a `FaceHead`) and `look_` (an `ObjectHead` of the appearance), both fitted.
    """

    kind: ClassVar[str] = "person"
    privacy: ClassVar[str] = (
        f"{FaceHead.privacy} The person's appearance in the photos, such as hair and clothes, is stored too."
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
        """The gate keys of the face and the appearance: heads with equal keys can share a gate."""
        face, look = (
            (self.face_, self.look_) if hasattr(self, "face_") else (self._new_face(), self._new_look())
        )
        return face.gate_key, look.gate_key

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: str | None = None
    ) -> Self:
        """Fit the face head to the person common to all photos, and the appearance head to the bodies.

        Args:
            images: as for `FaceHead`; the appearance is learned only from photos in which the face is found.
            negatives: photos of other people, for the face head.
            category: the person's category, such as "woman"; helps to locate the body in a photo.

        Raises:
            InputError: as `FaceHead.fit`.
        """
        photos = load_images(images)
        face = self._new_face().fit(photos, negatives)
        bodies = [
            LoadedImage(photo.image.crop(_pixels(body_box(box, photo.image.size))), photo.name)
            for photo, box in zip(photos, face.boxes_, strict=True)
            if box is not None
        ]
        look = self._new_look().fit(bodies, category=category)
        look.threshold_ -= LOWERED_LOG_ODDS / look.slope_
        self.face_, self.look_ = face, look
        return self

    @classmethod
    def gate(cls, heads: Sequence[Self]) -> PersonGate:
        """Build the gate of these heads. Raises NotFittedError, or InputError if `gate_key`s differ."""
        for head in heads:
            check_fitted(head, "face_")
        check_one_gate([head.face_ for head in heads])
        check_one_gate([head.look_ for head in heads])
        encoder = get_face_encoder(heads[0].face_.encoder, device=heads[0].device)
        looks = ObjectHead.gate([one.look_ for one in heads])
        return PersonGate(encoder, FaceHead.gate([one.face_ for one in heads]), looks)

    def state(self) -> tuple[HeadMeta, dict[str, npt.NDArray[Any]]]:
        """Return the state of the face head and of the appearance head, under the names in `PARTS`."""
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
        """Restore a head from `state`. Raises ConceptFileError if numbers and tensors do not fit."""
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
