"""Learn concept embeddings from a few photos and captions, on a frozen model.

The optimizer depends on backbones only; `teach` and `relearn` fit the concepts' heads as well.
"""

from myvlm.learning.concept_optimizer import LearnRequest, LearnResult
from myvlm.learning.dataset import Example, QuestionAnswer, gather_examples, make_views
from myvlm.learning.optimise import learn_embedding, learn_embeddings
from myvlm.learning.settings import LearnSettings

__all__ = [
    "Example",
    "LearnRequest",
    "LearnResult",
    "LearnSettings",
    "QuestionAnswer",
    "gather_examples",
    "learn_embedding",
    "learn_embeddings",
    "make_views",
]
