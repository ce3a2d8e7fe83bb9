"""Collections of models that installed packages provide, found by name.

A package adds a collection under the entry-point group `myvlm.models`: `acme = "acme.models:collection"` lets
`MyVLM.from_pretrained` load `acme/small`. The embedded models, `tinyworld/…`, are provided this way too.
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
    """Models that share a name prefix, and the defaults to use with them.

    Attributes:
        path: maps a name without the prefix to the model's folder, as saved by transformers or open_clip;
            raises `UnknownBackboneError` for an unknown name.
        encoder: full name of the default image encoder for heads used with these models.
        settings: maps a name without the prefix to the default values of `LearnSettings`.
        identifiers: some words that its tokenizers can write, for messages.
        assembled: maps a name without the prefix to a function that builds the model, in float32, and its
            processor, for models whose folder contains only a part of them.
    """

    path: Callable[[str], Path]
    encoder: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identifiers: Sequence[str] = ()
    assembled: Mapping[str, Callable[[], tuple[Any, Any]]] = field(default_factory=dict)


_collections = Registry[ModelCollection](
    "model collection",
    add="install the package that provides it",
    group=ENTRY_POINTS,
    unknown=UnknownBackboneError,
)


def collection_of(name: str) -> tuple[ModelCollection, str] | None:
    """The collection that a model's name belongs to, and the name without the prefix; None if there is none.

    Raises:
        UnknownBackboneError: the package that provides it cannot be loaded.

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
    """Whether a model's name belongs to a collection; the collection's package is not loaded.

    >>> is_collected("tinyworld/llava"), is_collected("llava-hf/llava-1.5-7b-hf")
    (True, False)
    """
    prefix, slash, _ = name.partition("/")
    return bool(slash) and prefix in _collections.names()


@cache  # called for every name of a model or encoder; installed packages do not change meanwhile
def _load(prefix: str) -> ModelCollection | None:
    return _collections.get(prefix) if prefix in _collections.names() else None
