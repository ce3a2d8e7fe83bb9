"""Which adapter goes with which model: the families of this package and, by entry points, of others."""

from __future__ import annotations

import importlib
import inspect
import logging
from importlib.metadata import entry_points
from typing import Any, TypeVar

from myvlm.backbones.base import Backbone
from myvlm.errors import BackboneError, UnknownBackboneError

ENTRY_POINTS = "myvlm.backbones"
FAMILIES = (  # modules below this one
    *(f"families.{name}" for name in ("llava", "humanvlm", "llava_next", "qwen", "internvl", "gemma3")),
    *(f"families.{name}" for name in ("paligemma", "mistral3", "idefics3", "minigpt.adapter")),
    "qformer.blip2",
)
HOW = "README.md, 'How to extend', says how; examples/04_new_backbone.py does it in one file"

_log = logging.getLogger(__name__)
_known: dict[str, type[Backbone]] = {}
_broken: dict[str, str] = {}
_loaded: set[str] = set()

Family = TypeVar("Family", bound=type[Backbone])


def register_backbone(family: Family) -> Family:
    """Class decorator: make a family known by its `family` name and its `model_types`.

    A model type belongs to one family. Only a subclass that narrows `matches` may share its parent's: it
    is then asked first.

    Raises:
        BackboneError: the name or a model type is missing or taken, or a method is.

    >>> from myvlm.backbones.families.llava import LlavaBackbone
    >>> register_backbone(LlavaBackbone) is LlavaBackbone  # again: nothing happens
    True
    """
    name = getattr(family, "family", "")
    if not name or not family.model_types or inspect.isabstract(family):
        missing = sorted(getattr(family, "__abstractmethods__", ()))
        raise BackboneError(
            f"{family.__name__} is not finished.",
            got=f"family {name!r}, model_types {family.model_types}, missing methods {missing}",
            expected="a family name, at least one model type, every method of Backbone",
            fix=HOW,
        )
    for other in _known.values():
        shared = set(other.model_types) & set(family.model_types)
        same = (other.__module__, other.__qualname__) == (family.__module__, family.__qualname__)
        if not same and (other.family == name or (shared and not _narrows(family, other))):
            raise BackboneError(
                f"{family.__name__} takes a name that {other.__name__} has.",
                got=f"family {name!r}, model types {sorted(family.model_types)}",
                expected=f"others than {other.family!r}, {sorted(other.model_types)}",
                fix="rename the family, or leave out one of the two packages",
            )
    _known[name] = family
    return family


def _narrows(one: type[Backbone], other: type[Backbone]) -> bool:
    """Whether one of two says which models of a known family, whose subclass it is, are its own."""
    return any(
        "matches" in vars(special) and any(general in _known.values() for general in special.__mro__[1:])
        for special in (one, other)
    )


def known_backbones() -> dict[str, type[Backbone]]:
    """The families by name, other packages' included.

    >>> "llava" in known_backbones()
    True
    """
    for file in FAMILIES:
        importlib.import_module(f"myvlm.backbones.{file}")
    for point in entry_points(group=ENTRY_POINTS):
        if point.value not in _loaded:
            _loaded.add(point.value)
            _load(point)
    return dict(sorted(_known.items()))


def _load(point: Any) -> None:
    """Load one entry point; a broken one is named and must not stop the others."""
    try:
        loaded = point.load()
        if inspect.isclass(loaded) and issubclass(loaded, Backbone):
            register_backbone(loaded)
    except Exception as error:
        _broken[point.name] = f"{type(error).__name__}: {error}"
        _log.warning(
            "The backbone %r (%s) cannot be loaded: %s", point.name, point.value, _broken[point.name]
        )


def backbone_for(model: Any, processor: Any, *, name: str | None = None) -> Backbone:
    """The backbone around a transformers model, by its `config.model_type`.

    Args:
        model: a transformers model.
        processor: its processor.
        name: what concept files call it; the checkpoint's own name where not given.

    Raises:
        UnknownBackboneError: no family matches.
        BackboneError: the family matches, but this model of it does not fit.
    """
    families = known_backbones()
    # The most special first: a subclass before the family that it narrows.
    for family in sorted(families.values(), key=lambda family: -len(family.__mro__)):
        if family.matches(model):
            return family(model, processor, name=name)
    types = sorted({kind for family in families.values() for kind in family.model_types})
    broken = "".join(f"; {point} cannot be loaded ({why})" for point, why in _broken.items())
    found = getattr(getattr(model, "config", None), "model_type", None)
    raise UnknownBackboneError(
        "No backbone is known for this model.",
        got=f"{type(model).__name__}, model_type {found!r}",
        expected=f"a model of type {', '.join(types)}{broken}",
        fix=f"install a package that adds the family, or add it: {HOW}",
    )
