"""What is known of the licences of encoders' weights; no model card could be read where this was written."""

from __future__ import annotations

from dataclasses import dataclass

from myvlm.heads.encoders import CPU_ENCODER, CUDA_ENCODER, SHORT_NAMES
from myvlm.heads.faces.registry import DEFAULT_FACE_ENCODER


@dataclass(frozen=True)
class Licence:
    """An encoder's weights.

    Attributes:
        encoder: its id.
        terms: the licence, as far as we know.
        free: whether anybody may use the weights for anything.
        default: where it is what is used if none is named, in words; empty where it never is.
        instead: of weights that are not free, some that are.
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
