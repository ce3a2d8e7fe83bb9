"""Licences of encoder weights, as far as known: they were recorded without access to the model cards."""

from __future__ import annotations

from dataclasses import dataclass

from myvlm.heads.encoders import CPU_ENCODER, CUDA_ENCODER, SHORT_NAMES
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER


@dataclass(frozen=True)
class Licence:
    """The licence of an encoder's weights.

    Attributes:
        encoder: the encoder's id.
        terms: the licence, as far as known.
        free: whether anybody may use the weights for any purpose.
        default: in words, for what the encoder is the default; empty where it is not a default.
        instead: for weights that are not free, the id of an encoder whose weights are.
    """

    encoder: str
    terms: str
    free: bool
    default: str = ""
    instead: str = ""


LICENCES = (
    Licence(CPU_ENCODER, "MIT", True, "objects, on a CPU"),
    Licence(CUDA_ENCODER, "Apache-2.0", True, "objects, on a GPU"),
    Licence("ViT-SO400M-16-SigLIP2-384@webli", "Apache-2.0", True),
    Licence(SHORT_NAMES["dinov2"], "Apache-2.0", True),
    Licence(SHORT_NAMES["paper"], "Apple's, for research only", False, instead=CUDA_ENCODER),
    Licence(
        DEFAULT_FACE_ENCODER,
        "MIT; trained on VGGFace2, which has terms of its own",
        False,
        "faces",
        instead="dlib/resnet-v1",
    ),
    Licence("dlib/resnet-v1", "CC0", True),
)
