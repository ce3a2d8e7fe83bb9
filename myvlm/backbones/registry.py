"""Selects the adapter for a model: from the families of this package and, by entry points, of others."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from myvlm.backbones.base import Backbone
from myvlm.backbones.causal.general import GeneralBackbone
from myvlm.backbones.parts import check_processor, unwrapped
from myvlm.errors import BackboneError, NameTakenError, UnknownBackboneError
from myvlm.plugins.registry import Registry

ENTRY_POINTS = "myvlm.backbones"
FAMILIES = (  # modules below this one
    *(f"families.{name}" for name in ("llava", "humanvlm", "llava_next", "qwen", "internvl", "gemma3")),
    *(f"families.{name}" for name in ("paligemma", "mistral3", "idefics3", "minigpt.adapter")),
    *(f"families.{name}" for name in ("glm", "molmo", "mllama.adapter")),
    *("qformer.blip2", "qformer.instructblip"),
)
HOW = "see README.md, 'How to extend', and examples/04_new_backbone.py"

Family = TypeVar("Family", bound=type[Backbone])


def _check(family: Any) -> None:
    """Raise unless a family is complete and its model types belong to no other family."""
    whole = inspect.isclass(family) and issubclass(family, Backbone) and not inspect.isabstract(family)
    if not whole or not family.family or not family.model_types:
        missing = sorted(getattr(family, "__abstractmethods__", ()))
        raise BackboneError(
            f"{getattr(family, '__name__', family)} is incomplete.",
            got=f"family {getattr(family, 'family', '')!r}, model_types "
            f"{getattr(family, 'model_types', ())}, missing methods {missing}",
            expected="a family name, at least one model type, every method of Backbone",
            fix=HOW,
        )
    for other in backbones.registered.values():
        shared = set(other.model_types) & set(family.model_types)
        if other.family != family.family and shared and not _narrows(family, other):
            raise NameTakenError(
                f"{family.__name__} claims model types of {other.__name__}.",
                got=f"family {family.family!r}, model types {sorted(family.model_types)}",
                expected=f"model types other than {sorted(other.model_types)} of {other.family!r}",
                fix="narrow `matches` in a subclass of it, or uninstall one of the two packages",
            )


backbones = Registry[type[Backbone]](
    "backbone",
    add=f"install a package that adds it, or add it yourself: {HOW}",
    built_in=tuple(f"myvlm.backbones.{module}" for module in FAMILIES),
    group=ENTRY_POINTS,
    name_of=lambda family: getattr(family, "family", None),
    check=_check,
    unknown=UnknownBackboneError,
)


def register_backbone(family: Family) -> Family:
    """Class decorator that registers a family under its `family` name and its `model_types`.

    A model type belongs to one family. Only a subclass that overrides `matches` may share the model types of
    its parent; it is then tried first.

    Raises:
        BackboneError: the name, a model type or a method is missing.
        NameTakenError: another family has the same name or a model type in common.

    >>> from myvlm.backbones.families.llava import LlavaBackbone
    >>> register_backbone(LlavaBackbone) is LlavaBackbone  # again: nothing happens
    True
    """
    backbones.register(getattr(family, "family", ""), family)
    return family


def _narrows(one: type[Backbone], other: type[Backbone]) -> bool:
    """Whether one of the two families is a subclass of a registered family and overrides `matches`."""
    return any(
        "matches" in vars(special)
        and any(general in backbones.registered.values() for general in special.__mro__[1:])
        for special in (one, other)
    )


def known_backbones() -> dict[str, type[Backbone]]:
    """All families by name, including those of other packages.

    >>> "llava" in known_backbones()
    True
    """
    return dict(sorted(backbones.all().items()))


def backbone_for(model: Any, processor: Any, *, name: str | None = None) -> Backbone:
    """The backbone for a transformers model, chosen by its `config.model_type`.

    If no family matches but transformers lists the model as image-text-to-text, a general adapter is used,
    after a short trial (`myvlm.backbones.causal.general`).

    Args:
        model: a transformers model.
        processor: its processor.
        name: the name of this backbone in concept files; the checkpoint's name by default.

    Raises:
        UnknownBackboneError: no family matches, or the model is a language model without vision.
        BackboneError: the family matches, but does not support this model; or the general adapter's trial
            failed; or the model was compiled in place.
        InputError: a tokenizer or an image processor was passed instead of a processor.
    """
    model = unwrapped(model)
    families = known_backbones()
    # The most specific first: a subclass before its parent.
    for family in sorted(families.values(), key=lambda family: -len(family.__mro__)):
        if family.matches(model):
            check_processor(processor)
            return family(model, processor, name=name)
    if GeneralBackbone.takes(model):
        check_processor(processor)
        return GeneralBackbone(model, processor, name=name)
    types = sorted({kind for family in families.values() for kind in family.model_types})
    found = getattr(getattr(model, "config", None), "model_type", None)
    raise UnknownBackboneError(
        "There is no backbone for this model.",
        got=f"{type(model).__name__}, model_type {found!r}",
        expected=f"a model of type {', '.join(types)}{backbones.broken_note()}",
        fix=f"install a package that adds the family, or add it yourself: {HOW}",
    )
