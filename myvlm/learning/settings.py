"""How a concept is learned, in one validated object that is kept in the concept's file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myvlm.backbones.base import NormRule
from myvlm.display.page import table
from myvlm.errors import InputError
from myvlm.plugins.model_collections import collection_of


class LearnSettings(BaseModel):
    """Settings of `MyVLM.learn`, which takes what is not set from the model's own defaults.

    Those were measured to be better (`myvlm.learning.settings.default_settings`); the defaults here are the
    paper's.

    Attributes:
        rows: concept vectors; one is the paper's.
        steps: optimiser steps (the paper: 75 to 100 for BLIP-2, 100 for LLaVA, 200 for MiniGPT-v2); "auto"
            stops earlier where held-out views already say the name (`myvlm.learning.likelihood`).
        most_steps: with `steps="auto"`, the steps after which it stops in any case.
        learning_rate: of AdamW on a direction of unit mean square: about the angle, in radians, of a step.
        gradient_clip: largest norm of a step's gradient; 0 for none.
        regularizer: λ, the weight of the attention given to the concept (eq. 4 of arXiv 2403.14599).
        norm: what the rows' norm is set to at every forward (§3.3); only the direction is learned.
        start: where the optimiser begins: "words", among the model's own embeddings of the identifier, the
            category and what else its captions call the thing (`described` in `captions`); "told", with a
            row for each token of "The dotted purple mug is called sks.", whatever `rows` is, in a model whose
            rows are words; or "random".
        views: augmented versions of each photo, encoded once; 1 is the photo alone.
        augment: flip, brightness ±60 % and rotation ±45° in all views but the first (the paper's).
        questions_per_step: question/answer pairs drawn a step, where there are any.
        asked_by: what stands for the concept in a question. Its "name", which the rows explain: the paper's.
            Or the "description" that the model's own captions give, "the dotted purple mug", which needs no
            rows: the answer is the frozen model's, and what was taught that no picture shows is not known.
            "auto": the description, unless the model itself, asked so, finds fewer than half of the answers
            that are given to learn from. Replies say the name in any case.
        verify: whether a reply behind rows is read again by the plain model, the description in the name's
            place, and gives way to the model's own words, the name in the description's, where the model
            finds it less likely than each of the captions that were learned, or that says the name looking at
            another of the category. A pass of the model a reply, one for each such phrase, and a second reply
            where the first gives way.
        budget: bytes for the kept views and a step, on the model's device beside the model; "auto" is half of
            what is free. What does not fit is kept in the host's memory or computed again at each use:
            slower, with the same result. The model's own captions and its view of the photos come on top.
        seed: of everything drawn.

    >>> LearnSettings(rows=4).rows
    4
    >>> LearnSettings(steps="auto").longest
    100
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=1, ge=1, le=64)
    steps: Annotated[int, Field(ge=1)] | Literal["auto"] = 100
    most_steps: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1.0, gt=0)
    gradient_clip: float = Field(default=0.0, ge=0)
    regularizer: float = Field(default=0.25, ge=0)
    norm: NormRule = "visual_mean"
    start: Literal["words", "told", "random"] = "words"
    views: int = Field(default=8, ge=1)
    augment: bool = True
    questions_per_step: int = Field(default=1, ge=0)
    asked_by: Literal["name", "description", "auto"] = "name"
    verify: bool = False
    budget: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    seed: int = Field(default=0, ge=0, le=2**63 - 1)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What differs from the defaults: `repr` of it makes it again."""
        return ((name, value) for name, value in self if value != type(self).model_fields[name].default)

    def _repr_html_(self) -> str:
        defaults = {name: one.default for name, one in type(self).model_fields.items()}
        rows = [
            (name, str(value), "" if value == defaults[name] else f"instead of {defaults[name]}")
            for name, value in self
        ]
        return table(rows, heads=["setting", "value", ""])

    def over(self, default: Self) -> Self:
        """These settings where they were set, and the default's where they were not.

        >>> LearnSettings(steps="auto").over(LearnSettings(steps=50, rows=4)).rows
        4
        """
        return default.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    @property
    def longest(self) -> int:
        """Steps after which learning ends in any case."""
        return self.most_steps if self.steps == "auto" else self.steps

    def view_seed(self, photo: int) -> int:
        """The seed of one photo's views, by the photo's number."""
        return self.seed * 1000 + photo


Settings: TypeAlias = LearnSettings | dict[str, Any]
"""How a user may say it: as `LearnSettings`, or by the names of its attributes."""


def as_settings(given: Settings | None) -> LearnSettings:
    """The settings that were said; none is set where nothing was.

    Raises:
        InputError: there is no such setting, or it cannot be that.

    >>> as_settings({"rows": 2}) == LearnSettings(rows=2)
    True
    """
    try:
        return LearnSettings.model_validate({} if given is None else given)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(
            "A concept cannot be learned with these settings.",
            got=": ".join([*map(str, wrong["loc"][:1]), f"{wrong['input']!r}, {wrong['msg']}"]),
            expected="a LearnSettings, or a dict of its attributes",
            fix="help(LearnSettings) says what they are",
        ) from error


MEASURED: dict[str, Any] = {
    "learning_rate": 0.3,  # at the paper's 1.0 names come out garbled, at 0.1 they take twice the steps
    "augment": False,  # turned and darkened views were worse on every model that was looked at
    "steps": "auto",  # one name is said after 20 steps, another not after 50
    "asked_by": "auto",  # of a new name a small model answers half as many questions right
    "verify": True,  # rows bend a quarter of what else a small model says, and it can tell which
}
"""What a model that somebody else trained learns with; all else is the paper's.

Measured on `tinyworld/smollm2`; benchmarks/RESULTS.md says on how few users.
"""
TOLD: dict[str, Any] = {
    **MEASURED,
    "start": "told",  # half the steps of one row among the words for as many names
    "norm": "none",  # at visual tokens' norm a sentence's rows bend the rest of what is said
    "learning_rate": 0.1,  # a start that is nearly right wants smaller steps
}
"""The same where rows stand among words: a causal language model."""

FAMILY_SETTINGS: dict[str, dict[str, Any]] = {
    "blip2": {"steps": 75, "regularizer": 0.04},
    "instructblip": {},
    "mllama": MEASURED,
    "minigpt_v2": {**TOLD, "most_steps": 200},
}
"""Defaults by family, where they are not `TOLD`: the paper's for Q-Formers, which take no rows among words
and of which none that somebody else trained was measured; ours for Mllama and MiniGPT-v2."""


def default_settings(backbone: str, *, family: str = "", kind: str = "object") -> LearnSettings:
    """How a concept is learned on a backbone where nothing else is said.

    Args:
        backbone: its name.
        family: of the backbone, where the name says nothing.
        kind: of the head; on BLIP-2 objects take 75 steps and all others 100 (§4 of arXiv 2403.14599).

    What is better for a collection's own models it says itself.

    >>> default_settings("tinyworld/llava").learning_rate
    0.02
    >>> default_settings("Salesforce/blip2-opt-2.7b", family="blip2").steps
    75
    >>> default_settings("llava-hf/llava-1.5-7b-hf", family="llava").steps
    'auto'
    """
    found = collection_of(backbone)
    if found and (own := found[0].settings.get(found[1])):
        return LearnSettings.model_validate(own)
    chosen = dict(FAMILY_SETTINGS.get(family, TOLD))
    if family == "blip2" and kind != "object":
        chosen["steps"] = 100
    return LearnSettings.model_validate(chosen)
