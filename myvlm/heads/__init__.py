"""Recognise: heads say whether a concept is in a picture, how sure they are, and where.

A new recogniser is one new file here, or one in another package; see `registry`.
"""

from myvlm.boxes import Box
from myvlm.heads.base import Detection, Gate, GateScores, Head, HeadMeta, HeadScore
from myvlm.heads.faces.head import FaceHead
from myvlm.heads.objects.head import ObjectHead
from myvlm.heads.registry import head_class, head_kinds, register_head
from myvlm.heads.verdict import Verdict

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
    "Verdict",
    "head_class",
    "head_kinds",
    "register_head",
]
