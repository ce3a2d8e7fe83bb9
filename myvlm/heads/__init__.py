"""Recognition heads: whether a concept is in a picture, with what probability, and where.

A new kind of head is one new file here, or one in another package; see `base`.
"""

from myvlm.boxes import Box
from myvlm.heads.base import Gate, Head, HeadMeta, head_class, head_kinds, register_head
from myvlm.heads.detections import Detection, GateScores, HeadScore, Verdict
from myvlm.heads.faces.head import FaceHead
from myvlm.heads.objects.head import ObjectHead
from myvlm.heads.people.head import PersonHead

__all__ = [
    "Box",
    "Detection",
    "FaceHead",
    "Gate",
    "GateScores",
    "Head",
    "HeadMeta",
    "HeadScore",
    "ObjectHead",
    "PersonHead",
    "Verdict",
    "head_class",
    "head_kinds",
    "register_head",
]
