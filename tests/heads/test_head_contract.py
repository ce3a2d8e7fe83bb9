"""The contract of heads: all heads and face encoders and an external head pass it, and broken ones fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from myvlm.errors import InputError
from myvlm.heads import FaceHead, GateScores, HeadMeta, HeadScore, ObjectHead, base
from myvlm.heads.base import check_fitted
from myvlm.heads.encoders import register_encoder
from myvlm.heads.faces.facenet import FacenetEncoder
from myvlm.heads.faces.registry import register_face_encoder
from myvlm.heads.fitted import take_tensor
from myvlm.images import ImageSources, load_images
from myvlm.testing import HEAD_CHECKS, check_head
from tests.support.fake_encoder import ColourEncoder, everyday_bank, scenes
from tests.support.fake_faces import FakeFaces, photo, photos
from tests.support.random_facenet import random_facenet
from tests.support.sample_photos import lfw_face, needs_dlib, scikit_image_photo

COLOURS = ColourEncoder("fake/contract", bank=everyday_bank())
register_encoder("fake/contract", lambda device: COLOURS)
FACES = FakeFaces("fake/contract-faces")
register_face_encoder("fake/contract-faces", lambda device: FACES)
SQUARES = (
    scenes(0, 3),
    scenes(100, 3, "lime"),
    [*scenes(50, 1), *scenes(60, 1, "lime"), *scenes(70, 2, None)],
)


def passed(outcomes: Sequence[Any]) -> list[str]:
    assert [one.check for one in outcomes] == [check.__name__ for check in HEAD_CHECKS]
    return [one.check for one in outcomes if one.passed]


@pytest.mark.parametrize("crops", ["auto", "none"])
def test_objects(crops: str) -> None:
    pictures = SQUARES if crops == "auto" else [[Image.new("RGB", (32, 32), c)] * 2 for c in ("red", "lime")]
    unseen = (
        SQUARES[2] if crops == "auto" else [Image.new("RGB", (32, 32), c) for c in ("red", "lime", "blue")]
    )
    outcomes = check_head(lambda: ObjectHead("fake/contract", crops=crops), *pictures[:2], unseen)  # type: ignore[arg-type]
    assert len(passed(outcomes)) == len(HEAD_CHECKS)


def test_faces() -> None:
    unseen = [photo(11, 44, draw=50), photo(0, 22, draw=51), photo(0), photo(77, draw=52)]
    for settings in ({}, {"people": 100}, {"people": None}):
        assert FaceHead("fake/contract-faces", **settings).stricter_in_company is (not settings)  # type: ignore[arg-type]
        outcomes = check_head(
            lambda settings=settings: FaceHead("fake/contract-faces", **settings),  # type: ignore[misc]
            photos(11),
            photos(22),
            unseen,
        )
        assert len(passed(outcomes)) == len(HEAD_CHECKS)


def people(dim: float = 1.0) -> tuple[list[Image.Image], list[Image.Image], list[Image.Image]]:
    """Photos of the astronaut and of a man, varied by `dim` and a corner, and unseen ones of both."""
    first, second = ([_dimmed(one, dim**k, k) for k in (0, 1, 2)] for one in (_astronaut(), lfw_face(3)))
    nobody = scikit_image_photo("coffee.png").crop((0, 0, 200, 200))
    return first[:2], second[:2], [first[2], second[2], nobody, lfw_face(12)]


def _astronaut() -> Image.Image:
    return scikit_image_photo("astronaut.png").crop((60, 0, 360, 300))


def _dimmed(image: Image.Image, brightness: float, corner: int) -> Image.Image:
    dimmed = ImageEnhance.Brightness(image).enhance(brightness)
    dimmed.putpixel((0, 0), (corner, 200, 0))
    return dimmed


@pytest.mark.slow
def test_faces_by_dlib() -> None:
    needs_dlib()
    outcomes = check_head(lambda: FaceHead("dlib/resnet-v1"), *people(0.9))
    assert len(passed(outcomes)) == len(HEAD_CHECKS)


@pytest.mark.slow
def test_faces_by_facenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights faces still differ, if only by their pixels and at another distance."""
    random_facenet(tmp_path, monkeypatch)
    encoder = FacenetEncoder()
    register_face_encoder("fake/facenet", lambda device: encoder)
    monkeypatch.setattr(encoder, "id", "fake/facenet", raising=False)
    first, second, unseen = people()
    one, other = (encoder.faces([picture])[0].descriptors for picture in unseen[:2])
    limit = 0.5 * float(np.linalg.norm(one - other))
    outcomes = check_head(lambda: FaceHead("fake/facenet", threshold=limit), first, second, unseen)
    assert len(passed(outcomes)) == len(HEAD_CHECKS)


# a head of another package


class MeanColourHead:
    """A minimal head: the distance of a picture's mean colour from that of the photos."""

    kind = "mean_colour"
    privacy = "The head holds one colour, the mean of all photos; nobody is recognised by that."

    def __init__(self, reach: float = 60.0) -> None:
        self.reach = reach

    @property
    def gate_key(self) -> str:
        return "everything"

    def fit(
        self, images: ImageSources, negatives: ImageSources | None = None, *, category: object = None
    ) -> Any:
        photos = load_images(images)
        _ = None if negatives is None else load_images(negatives)
        self.colour_ = np.mean([_mean(one.image) for one in photos], axis=0).astype(np.float32)
        return self

    def score(self, images: ImageSources) -> list[HeadScore]:
        scores = self.gate([self]).score(images)
        return [scores.at(picture, 0) for picture in range(len(scores.present))]

    def state(self) -> tuple[HeadMeta, dict[str, np.ndarray]]:
        check_fitted(self, "colour_")
        settings = {"reach": self.reach}
        meta = HeadMeta(
            kind=self.kind,
            encoder="none",
            threshold=self.reach,
            calibration={},
            settings=settings,
            figures={},
        )  # type: ignore[arg-type]
        return meta, {"colour": self.colour_}

    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Any, *, device: str = "cpu") -> MeanColourHead:
        if "reach" not in meta.settings:
            from myvlm.errors import ConceptFileError

            raise ConceptFileError("No reach.", got=meta.settings, expected="reach", fix="learn it again")
        head = cls(float(meta.settings["reach"]))  # type: ignore[arg-type]
        head.colour_ = take_tensor(tensors, "colour", 1)
        return head

    @classmethod
    def gate(cls, heads: Sequence[MeanColourHead]) -> Any:
        if not heads:
            raise InputError("No heads.", got=0, expected="1 or more", fix="pass heads")
        for head in heads:
            check_fitted(head, "colour_")
        return _MeanColourGate(heads)


class _MeanColourGate:
    def __init__(self, heads: Sequence[MeanColourHead]) -> None:
        self.colours = np.stack([head.colour_ for head in heads])
        self.reach = np.array([head.reach for head in heads])

    def score(self, images: ImageSources) -> GateScores:
        seen = np.stack([_mean(one.image) for one in load_images(images)])
        apart = np.linalg.norm(seen[:, None] - self.colours, axis=-1)
        likely = 1 / (1 + np.exp(np.clip(apart / self.reach - 1, -30, 30) * 5))
        boxes = np.full((*likely.shape, 4), np.nan, np.float32)
        return GateScores(likely.astype(np.float32), apart <= self.reach, boxes)


def _mean(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64).mean(axis=(0, 1))


PLAIN = (
    [Image.new("RGB", (24, 24), (200 + shade, 0, 0)) for shade in (0, 10)],
    [Image.new("RGB", (24, 24), (0, 200 + shade, 0)) for shade in (0, 10)],
    [Image.new("RGB", (24, 24), colour) for colour in ((195, 5, 0), (5, 195, 0), (0, 0, 255))],
)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that a package is installed whose entry point is the mean colour head."""
    point = EntryPoint("mean_colour", "their_package:MeanColourHead", "myvlm.heads")
    monkeypatch.setattr(EntryPoint, "load", lambda self: MeanColourHead)
    monkeypatch.setattr("myvlm.plugins.registry.entry_points", lambda group: [point])
    with base.heads.restored():
        yield


@pytest.mark.usefixtures("outside")
def test_a_head_of_another_package() -> None:
    assert len(passed(check_head(MeanColourHead, *PLAIN))) == len(HEAD_CHECKS)


def test_too_few_pictures() -> None:
    with pytest.raises(InputError, match="1, 2 and 3"):
        check_head(MeanColourHead, PLAIN[0][:1], *PLAIN[1:])


# each broken head fails the check that is meant for it


class Keeps(MeanColourHead):
    def __init__(self, reach: float = 60.0) -> None:
        self.radius = reach

    refine_margin_: float


class Leaks(MeanColourHead):
    def fit(self, images: Any, negatives: Any = None, *, category: object = None) -> Any:
        super().fit(images, negatives)
        self.reach += 1
        return self


class Draws(MeanColourHead):
    def score(self, images: Any) -> list[HeadScore]:
        torch.rand(1)
        return super().score(images)


class Random(MeanColourHead):
    def fit(self, images: Any, negatives: Any = None, *, category: object = None) -> Any:
        super().fit(images, negatives)
        self.colour_ = self.colour_ + np.random.default_rng().normal(size=3).astype(np.float32)
        return self


class Outside(MeanColourHead):
    def score(self, images: Any) -> list[HeadScore]:
        loaded = load_images(images)
        found = super().score(images)
        boxes = [(0.0, 0.0, one.image.width + 1.0, 5.0) for one in loaded]
        return [HeadScore(s.probability, s.present, box) for s, box in zip(found, boxes, strict=True)]


class Rounds(MeanColourHead):
    @classmethod
    def from_state(cls, meta: HeadMeta, tensors: Any, *, device: str = "cpu") -> Any:
        head = super().from_state(meta, tensors)
        head.colour_ = head.colour_ + 1
        return head


class Forgets(MeanColourHead):
    def fit(self, images: Any, negatives: Any = None, *, category: object = None) -> Any:
        return super().fit(images)


class Crowded(MeanColourHead):
    @classmethod
    def gate(cls, heads: Any) -> Any:
        gate = super().gate(heads)
        gate.reach = gate.reach / len(heads)
        return gate


SPOILT = {
    Keeps: "init_only_stores",
    Leaks: "fit_returns_itself",
    Draws: "score_changes_nothing",
    Random: "fit_returns_itself",
    Outside: "scores_are_whole",
    Rounds: "state_round_trip_is_exact",
    Forgets: "bad_pictures_are_named",
    Crowded: "gate_is_the_single_heads",
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_broken_promise_is_named(spoilt: type[MeanColourHead], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.heads.registered, "mean_colour", spoilt)
    with pytest.raises(AssertionError, match=f"^{SPOILT[spoilt]}: "):
        check_head(spoilt, *PLAIN)
