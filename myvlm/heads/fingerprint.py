"""Fingerprint of an image encoder: its features of one fixed picture.

A probe on the features of other weights is noise that looks like an answer. So each head keeps the features
of one drawn picture; they agree across devices and number formats, not across weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from myvlm.errors import ConceptFileError
from myvlm.heads.base import FloatArray
from myvlm.heads.encoders import ImageEncoder, features, whiten
from myvlm.images import LoadedImage

MIN_COSINE = 0.98
"""Least cosine between the features of one picture under one set of weights."""


def encoder_fingerprint(encoder: ImageEncoder) -> FloatArray:
    """D: the whitened features of the drawn picture. They are remembered like any picture's."""
    drawn: FloatArray = features(encoder, [LoadedImage(drawn_picture(), "witness")], "none")[0].features
    whitened: FloatArray = whiten(encoder, drawn)[0]
    return whitened


def check_encoder_fingerprint(encoder: ImageEncoder, kept: Sequence[FloatArray]) -> None:
    """Raise ConceptFileError unless the encoder still sees the drawn picture as it did for every head."""
    now = encoder_fingerprint(encoder)
    sizes = {len(one) for one in kept}
    alike = float((np.stack(kept) @ now).min()) if sizes == {len(now)} else None
    if alike is None or alike < MIN_COSINE:
        raise ConceptFileError(
            f"A head was learned with other weights of {encoder.id} than those loaded now.",
            got=f"feature lengths {sorted(sizes)}" if alike is None else f"a cosine of {alike:.3f}",
            expected=f"feature length {len(now)}" if alike is None else f"at least {MIN_COSINE}",
            fix="load the weights it was learned with, or learn the concept again",
        )


def drawn_picture() -> Image.Image:
    """A ramp, a disc and a chequer, drawn with integers only so that it is the same everywhere."""
    down, across = np.mgrid[0:96, 0:96]
    red = (across * 255) // 95
    green = np.where((across - 30) ** 2 + (down - 60) ** 2 < 400, 220, 40)
    blue = np.where((across // 12 + down // 12) % 2 == 0, 200, 60)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))
