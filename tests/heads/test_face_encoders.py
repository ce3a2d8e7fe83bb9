"""Both face encoders on a real photo: scikit-image's astronaut with MTCNN and with dlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch.models import inception_resnet_v1
from PIL import Image, ImageEnhance, ImageOps

from myvlm.boxes import iou
from myvlm.errors import InputError, MissingPackageError
from myvlm.heads import FaceHead
from myvlm.heads.faces import dlib as face_dlib
from myvlm.heads.faces.dlib import DlibEncoder
from myvlm.heads.faces.encoders import FaceEncoder
from myvlm.heads.faces.facenet import FacenetEncoder
from myvlm.images import load_images
from tests.support.random_facenet import no_network, random_facenet
from tests.support.sample_photos import FACE, lfw_face, needs_dlib, scikit_image_photo

FACELESS = ("coffee.png", "chelsea.png")


@pytest.fixture
def astronaut() -> Image.Image:
    return scikit_image_photo("astronaut.png")


def variants(photo: Image.Image) -> list[Image.Image]:
    """The same face as other photos might show it: darker, mirrored, rotated a little, smaller."""
    far = Image.new("RGB", photo.size, (90, 90, 90))
    far.paste(photo.resize((340, 340)), (100, 120))
    return [photo, ImageEnhance.Brightness(photo).enhance(0.6), ImageOps.mirror(photo), photo.rotate(12), far]


# detection


def test_mtcnn_finds_the_face_and_needs_no_fetched_weights(astronaut: Image.Image) -> None:
    encoder = FacenetEncoder()
    [box] = encoder.find(astronaut)
    assert iou(box, FACE) > 0.7
    [large] = encoder.find(astronaut.resize((2048, 2048)))
    assert iou(tuple(edge / 4 for edge in large), FACE) > 0.7  # type: ignore[arg-type]
    [mirrored] = encoder.find(ImageOps.mirror(astronaut))
    assert iou(mirrored, (512 - FACE[2], FACE[1], 512 - FACE[0], FACE[3])) > 0.7


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (19, 500), (20, 20), (5000, 1), (64, 64)])
def test_pictures_too_small_for_a_face_have_none(size: tuple[int, int]) -> None:
    [faces] = FacenetEncoder().faces([Image.new("RGB", size, (120, 90, 60))])
    assert len(faces) == 0
    assert faces.descriptors.shape == (0, 512)


def test_no_face_is_found_where_none_is() -> None:
    assert [FacenetEncoder().find(scikit_image_photo(name)) for name in FACELESS] == [[], []]


def test_building_draws_no_random_numbers_of_the_callers() -> None:
    before = torch.random.get_rng_state()
    FacenetEncoder().find(Image.new("RGB", (64, 64)))
    assert torch.equal(before, torch.random.get_rng_state())


# facenet's weights


def test_weights_that_cannot_be_fetched_say_which_file_to_put_where(
    astronaut: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception_resnet_v1, "download_url_to_file", no_network)
    place = tmp_path / "checkpoints" / "20180402-114759-vggface2.pt"
    with pytest.raises(InputError, match=r"cannot be downloaded(.|\n)*no network") as caught:
        FaceHead(FacenetEncoder()).fit(astronaut)
    assert caught.value.expected == str(place)
    assert "dlib/resnet-v1" in str(caught.value.fix)
    assert "20180402-114759-vggface2.pt" in str(caught.value.fix)
    place.write_bytes(b"cut short")
    with pytest.raises(InputError, match="cannot be read") as caught:
        FaceHead(FacenetEncoder()).fit(astronaut)
    assert caught.value.expected == str(place)


def test_facenet_learns_and_finds_the_face_again(
    astronaut: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_facenet(tmp_path, monkeypatch)
    encoder = FacenetEncoder()
    head = FaceHead(encoder).fit(variants(astronaut)[:2])
    assert head.keys_.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(head.keys_, axis=1), 1, atol=1e-5)
    assert head.boxes_[0] is not None
    assert iou(head.boxes_[0], FACE) > 0.7
    [same, nobody] = head.score([astronaut, scikit_image_photo("coffee.png")])
    assert (same.present, nobody.present, nobody.box) == (True, False, None)
    assert same.box == head.boxes_[0]
    random_before = torch.random.get_rng_state()
    assert np.allclose(encoder.faces([astronaut])[0].descriptors, head.keys_[:1], atol=1e-5)
    assert torch.equal(random_before, torch.random.get_rng_state())


# dlib


@pytest.fixture(scope="module")
def dlib_encoder() -> DlibEncoder:
    needs_dlib()
    return DlibEncoder()


def test_dlib_knows_the_astronaut_again_and_nobody_else(
    dlib_encoder: FaceEncoder, astronaut: Image.Image
) -> None:
    seen = variants(astronaut)
    head = FaceHead(dlib_encoder).fit(seen[:3])
    assert head.keys_.shape == (3, 128)
    assert head.boxes_[0] is not None
    assert iou(head.boxes_[0], FACE) > 0.5
    again = head.score(seen[3:])
    assert [one.verdict for one in again] == ["present", "present"]
    assert all(one.box is not None for one in again)
    nobody = head.score([scikit_image_photo(name) for name in FACELESS])
    assert [(one.present, one.box) for one in nobody] == [(False, None)] * 2
    assert head.figures_["threshold_distance"] == 0.6
    assert "99.38 %" in head.figures_["threshold_source"]


def test_dlib_tells_real_people_apart_in_one_picture(
    dlib_encoder: FaceEncoder, astronaut: Image.Image
) -> None:
    """Four people are learned; a group picture shows three of them and a stranger."""
    faces = [lfw_face(number) for number in (0, 3, 8)]
    people = [astronaut, *faces]
    heads = [FaceHead(dlib_encoder).fit([one, ImageEnhance.Brightness(one).enhance(0.8)]) for one in people]
    group = Image.new("RGB", (1280, 320))
    for place, one in enumerate([faces[1], faces[2], lfw_face(12), faces[0]]):
        group.paste(one, (320 * place, 0))
    scores = FaceHead.gate(heads).score(load_images(ImageEnhance.Brightness(group).enhance(0.9)))
    assert scores.present.tolist() == [[False, True, True, True]]
    for person, place in ((1, 3), (2, 0), (3, 1)):
        box = scores.at(0, person).box
        assert box is not None
        assert iou(box, (320 * place + 80, 80, 320 * place + 240, 240)) > 0.5


@pytest.mark.slow
def test_dlib_keeps_the_faces_of_strangers_apart(dlib_encoder: FaceEncoder, astronaut: Image.Image) -> None:
    head = FaceHead(dlib_encoder).fit(astronaut)
    strangers = [lfw_face(number) for number in range(0, 60, 2)]
    scores = head.score(strangers)
    assert sum(one.box is not None for one in scores) > 20
    assert not any(one.present for one in scores)


@pytest.mark.parametrize("size", [(1, 1), (19, 500), (5000, 1), (64, 64)])
def test_dlib_has_no_faces_in_pictures_of_nothing(dlib_encoder: FaceEncoder, size: tuple[int, int]) -> None:
    [faces] = dlib_encoder.faces([Image.new("RGB", size, (120, 90, 60))])
    assert len(faces) == 0
    assert faces.descriptors.shape == (0, 128)


def test_dlib_scales_boxes_of_large_pictures(dlib_encoder: FaceEncoder, astronaut: Image.Image) -> None:
    [small, large] = dlib_encoder.faces([astronaut, astronaut.resize((2048, 2048))])
    assert iou(tuple(edge / 4 for edge in large.boxes[0]), small.boxes[0]) > 0.7  # type: ignore[arg-type]
    assert np.linalg.norm(large.descriptors[0] - small.descriptors[0]) < 0.3


def test_the_68_point_file_is_never_opened(
    dlib_encoder: DlibEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    find: Callable[[str], Path] = face_dlib._model_file
    monkeypatch.setattr(face_dlib, "_model_file", lambda name: asked.append(name) or find(name))
    DlibEncoder().faces([Image.new("RGB", (64, 64))])
    assert asked == ["shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_dlib.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"not installed(.|\n)*myvlm\[dlib\]"):
        FaceHead(DlibEncoder()).fit(Image.new("RGB", (64, 64)))
