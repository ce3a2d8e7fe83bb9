"""Teach: photos and captions in, concept embeddings out. Knows backbones, not heads."""

from myvlm.learning.concept_optimizer import LearnResult, Task
from myvlm.learning.dataset import Example, QuestionAnswer, gather_examples
from myvlm.learning.optimise import learn_embedding, learn_embeddings
from myvlm.learning.settings import LearnSettings
from myvlm.learning.views import make_views

__all__ = [
    "Example",
    "LearnResult",
    "LearnSettings",
    "QuestionAnswer",
    "Task",
    "gather_examples",
    "learn_embedding",
    "learn_embeddings",
    "make_views",
]
