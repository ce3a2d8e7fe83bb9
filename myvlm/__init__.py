"""Teach a frozen vision-language model the things in your life.

Importing this downloads nothing and loads no model.
"""

from myvlm.api import MyVLM
from myvlm.concept import Concept, Embedding
from myvlm.errors import MyVLMError
from myvlm.heads import Detection
from myvlm.learning import LearnSettings
from myvlm.library import ConceptLibrary
from myvlm.reply import AttentionMap, Reply

__all__ = [
    "AttentionMap",
    "Concept",
    "ConceptLibrary",
    "Detection",
    "Embedding",
    "LearnSettings",
    "MyVLM",
    "MyVLMError",
    "Reply",
]
