"""Teach: photos and captions in, one concept embedding out. Knows backbones, not heads."""

from myvlm.learning.examples import Example, QuestionAnswer, gather_examples
from myvlm.learning.optimise import Learned, learn_embedding
from myvlm.learning.settings import LearnSettings
from myvlm.learning.views import make_views

__all__ = [
    "Example",
    "LearnSettings",
    "Learned",
    "QuestionAnswer",
    "gather_examples",
    "learn_embedding",
    "make_views",
]
