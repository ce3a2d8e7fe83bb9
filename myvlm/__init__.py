"""Teach a frozen vision-language model the things in your life.

Importing this package loads no model. torch is imported when one of the names below is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myvlm.api import MyVLM as MyVLM
    from myvlm.concepts.concept import Concept as Concept
    from myvlm.concepts.embedding import Embedding as Embedding
    from myvlm.concepts.library import ConceptLibrary as ConceptLibrary
    from myvlm.errors import MyVLMError as MyVLMError
    from myvlm.heads import Detection as Detection
    from myvlm.learning import LearnSettings as LearnSettings
    from myvlm.learning.dataset import Lesson as Lesson
    from myvlm.results import AttentionMap as AttentionMap
    from myvlm.results import Replies as Replies
    from myvlm.results import Reply as Reply
    from myvlm.speaking.locating import Location as Location

_HOMES = {
    "AttentionMap": "results",
    "Concept": "concepts.concept",
    "ConceptLibrary": "concepts.library",
    "Detection": "heads",
    "Embedding": "concepts.embedding",
    "LearnSettings": "learning",
    "Lesson": "learning.dataset",
    "Location": "speaking.locating",
    "MyVLM": "api",
    "MyVLMError": "errors",
    "Replies": "results",
    "Reply": "results",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("myvlm")
    if name not in _HOMES:
        raise AttributeError(f"module 'myvlm' has no attribute {name!r}")
    import_module("myvlm.runtime.notebook").import_tqdm_quietly()
    value = getattr(import_module(f"myvlm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
