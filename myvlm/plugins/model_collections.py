"""Collections of models that installed packages bring, found by name.

A package adds one under the entry-point group `myvlm.models`: `acme = "acme.models:collection"` makes
`acme/small` a name that `MyVLM.from_pretrained` takes. The embedded models, `tinyworld/…`, come this way too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from myvlm.errors import UnknownBackboneError
from myvlm.plugins.registry import Registry

ENTRY_POINTS = "myvlm.models"


@dataclass(frozen=True)
class ModelCollection:
    """Models that share a prefix, and what is best used with them.

    Attributes:
        path: name without the prefix → folder of the model, as transformers or open_clip saves it; raises
            `UnknownBackboneError` for a name that it has not.
        encoder: the image encoder for heads beside its models, by its full name.
        settings: name without the prefix → what `LearnSettings` are where the user sets nothing.
        identifiers: some words that its tokenizers can write, for messages.
        assembled: name without the prefix → what puts a model, in float32, and its processor together, for
            those whose folder holds only a part of them.
    """

    path: Callable[[str], Path]
    encoder: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identifiers: Sequence[str] = ()
    assembled: Mapping[str, Callable[[], tuple[Any, Any]]] = field(default_factory=dict)


_collections = Registry[ModelCollection](
    "collection of models",
    add="install the package that brings it",
    group=ENTRY_POINTS,
    unknown=UnknownBackboneError,
)


def collection_of(name: str) -> tuple[ModelCollection, str] | None:
    """The collection that a model's name belongs to, and the name without the prefix; None for all others.

    Raises:
        UnknownBackboneError: the package that brings it cannot be loaded.

    >>> found = collection_of("tinyworld/llava")
    >>> found and (found[0].encoder, found[1])
    ('tinyworld/clip', 'llava')
    >>> collection_of("llava-hf/llava-1.5-7b-hf") is None
    True
    """
    prefix, slash, rest = name.partition("/")
    loaded = _load(prefix) if slash else None
    return None if loaded is None else (loaded, rest)


def is_collected(name: str) -> bool:
    """Whether a model's name belongs to a collection; its package is not loaded for it.

    >>> is_collected("tinyworld/llava"), is_collected("llava-hf/llava-1.5-7b-hf")
    (True, False)
    """
    prefix, slash, _ = name.partition("/")
    return bool(slash) and prefix in _collections.names()


@cache  # read for every name of a model or encoder; packages are not installed meanwhile
def _load(prefix: str) -> ModelCollection | None:
    return _collections.get(prefix) if prefix in _collections.names() else None
