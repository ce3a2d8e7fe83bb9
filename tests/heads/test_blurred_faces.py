"""Faces with little detail are closer to all others, so they must match more closely to be named."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from myvlm.heads import FaceHead
from myvlm.heads.faces.encoders import detail_of, find_faces
from myvlm.heads.faces.threshold import nearer_by_blur
from myvlm.images import load_images
from tests.support.fake_faces import FakeFaces, descriptor, photo, photos
from tests.support.sample_photos import scikit_image_photo

ENCODER = FakeFaces("fake/blurred")
ANNA, BEN = 11, 22


def test_a_small_or_blurred_face_must_be_nearer_to_be_named() -> None:
    head = FaceHead(ENCODER).fit(photos(ANNA))
    gate = FaceHead.gate([head])
    sharp = scikit_image_photo("astronaut.png").crop((175, 76, 266, 167))
    shown = [
        sharp, sharp.filter(ImageFilter.GaussianBlur(1)), sharp.filter(ImageFilter.GaussianBlur(4)),
        sharp.resize((12, 12), Image.Resampling.LANCZOS), Image.new("RGB", (20, 20), "tan"),
    ]  # fmt: skip
    detail = [detail_of(face, (0, 0, *face.size)) for face in shown]
    taken = nearer_by_blur(ENCODER, detail)
    assert taken[[0, 1, 4]].tolist() == [0, 0, 0], "a patch of one colour shows nothing of the kind"
    assert (taken[2:4] > 0.05 * 1.34 * ENCODER.threshold).all()
    # a face halfway between a certain one and a stranger's, in a sharp and in a blurred picture
    own, strange = (descriptor(person, 99) for person in (ANNA, BEN))
    away = np.linspace(0, 1, 200)[:, None]
    faces = np.asarray((1 - away) * own + away * strange, np.float32)
    limits = [
        int((gate._logits(faces, [one] * len(faces))[:, 0] >= 0).sum()) for one in (detail[0], detail[2])
    ]
    assert 0 < limits[1] < limits[0] < 200
    [found] = find_faces(ENCODER, load_images(photo(ANNA, BEN)))
    assert found.detail == (1.0, 1.0)
