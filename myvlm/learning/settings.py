"""Learning settings, validated and stored with each embedding, and their defaults by model family."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myvlm.backbones.base import NormRule
from myvlm.display.page import table
from myvlm.errors import InputError
from myvlm.plugins.model_collections import collection_of


class LearnSettings(BaseModel):
    """Settings of `MyVLM.learn`; what is not set there takes the model's own default.

    The defaults below are the paper's. Models have other defaults that were measured to be better
    (`myvlm.learning.settings.default_settings`).

    Attributes:
        rows: number of concept vectors; the paper uses one.
        steps: optimizer steps (the paper: 75 to 100 for BLIP-2, 100 for LLaVA, 200 for MiniGPT-v2); "auto"
            stops earlier if captions of held-out views already contain the name
            (`myvlm.learning.likelihood`).
        most_steps: maximum number of steps with `steps="auto"`.
        learning_rate: of AdamW. Rows are learned at unit mean square, so it is about the angle of a step in
            radians.
        gradient_clip: maximum norm of a step's gradient; 0 disables clipping.
        regularizer: λ, the weight of the penalty on attention given to the concept (eq. 4 of arXiv
            2403.14599).
        norm: rule for the norm that every forward pass gives the rows (§3.3). Only their direction is
            learned, except with "none".
        start: initial embedding. "words": near the mean of the model's own embeddings of the identifier, the
            category and the other words that its captions use for the object (`described` in `captions`).
            "told": one row per token of "The dotted purple mug is called sks.", whatever `rows` is, in a
            model whose rows stand among word embeddings. Or "random": then the model is not asked for a
            description at all, so replies are not verified and questions use the name.
        views: number of versions of each photo, each encoded once; 1 is the photo alone.
        augment: flip, brightness ±60 % and rotation ±45° in all views but the first, as in the paper; if
            false, the photo is the only view.
        questions_per_step: question/answer pairs drawn per step, if questions are given.
        asked_by: how a question refers to the concept. "name": by its identifier, which the rows explain, as
            in the paper. "description": by the noun phrase of the model's own captions, "the dotted purple
            mug". This needs no rows: the frozen model answers, and does not know learned facts that no
            picture shows. "auto": by description, unless the plain model, asked that way, finds fewer than
            half of the answers given for learning. Replies contain the name in any case.
        verify: whether the plain model checks each reply that was generated with rows, reading the
            description in place of the name. A reply gives way to the plain model's own, with the name in
            place of the description, if it lacks the name or says nothing else, is less likely than every
            training caption, or says the name while the model attends to another object of the category.
            Costs a forward pass per reply and one per phrase for such another object, and a second reply
            where the first gives way.
        budget: bytes for the cached views and a step, on the model's device and in addition to the model;
            "auto" is half of the free memory. Views that do not fit are kept in host memory or recomputed at
            each use: slower, with the same result. The model's own captions and its losses of the photos'
            texts come on top.
        seed: of all random draws.

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
        """Only values that differ from the defaults, so that evaluating the `repr` gives equal settings."""
        return ((name, value) for name, value in self if value != type(self).model_fields[name].default)

    def _repr_html_(self) -> str:
        defaults = {name: one.default for name, one in type(self).model_fields.items()}
        rows = [
            (name, str(value), "" if value == defaults[name] else f"instead of {defaults[name]}")
            for name, value in self
        ]
        return table(rows, heads=["setting", "value", ""])

    def over(self, default: Self) -> Self:
        """Return these settings, with those that were not set explicitly taken from `default`.

        >>> LearnSettings(steps="auto").over(LearnSettings(steps=50, rows=4)).rows
        4
        """
        return default.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    @property
    def longest(self) -> int:
        """Maximum number of steps."""
        return self.most_steps if self.steps == "auto" else self.steps

    def view_seed(self, photo: int) -> int:
        """Return the seed of one photo's views, given the photo's number."""
        return self.seed * 1000 + photo


Settings: TypeAlias = LearnSettings | dict[str, Any]
"""Settings as a user may give them: a `LearnSettings`, or a dict of its attributes."""


def as_settings(given: Settings | None) -> LearnSettings:
    """Return validated settings; with None, none of them is set explicitly.

    Raises:
        InputError: there is no such setting, or its value is invalid.

    >>> as_settings({"rows": 2}) == LearnSettings(rows=2)
    True
    """
    try:
        return LearnSettings.model_validate({} if given is None else given)
    except ValidationError as error:
        wrong = error.errors()[0]
        near = get_close_matches(str(wrong["loc"][0]), LearnSettings.model_fields) if wrong["loc"] else []
        unknown = wrong["type"] == "extra_forbidden"
        raise InputError(
            "The settings for learning are invalid.",
            got=": ".join([*map(str, wrong["loc"][:1]), f"{wrong['input']!r}, {wrong['msg']}"]),
            expected="a LearnSettings, or a dict of its attributes",
            fix=f"write {' or '.join(near)}; or see help(LearnSettings)"
            if near and unknown
            else "see help(LearnSettings)",
        ) from error


MEASURED: dict[str, Any] = {
    "learning_rate": 0.3,  # at the paper's 1.0 names are garbled, at 0.1 they take twice the steps
    "augment": False,  # rotated and darkened views were worse on every model tested
    "steps": "auto",  # one name is learned after 20 steps, another not after 50
    "asked_by": "auto",  # asked by a new name, a small model answers half as many correctly
    "verify": True,  # with rows a small model gets a quarter of the rest wrong, and can tell where
}
"""Defaults for models pretrained by others, where they differ from the paper's.

Measured on `tinyworld/smollm2`; benchmarks/RESULTS.md says on how few users.
"""
TOLD: dict[str, Any] = {
    **MEASURED,
    "start": "told",  # as many names as one row started at words, in half the steps
    "norm": "none",  # at the norm of visual tokens, a sentence's rows distort the rest of the reply
    "learning_rate": 0.1,  # a start that is nearly right needs smaller steps
}
"""The same for causal language models, whose rows stand among word embeddings."""

FAMILY_SETTINGS: dict[str, dict[str, Any]] = {
    "blip2": {"steps": 75, "regularizer": 0.04},
    "instructblip": {},
    "mllama": MEASURED,
    "minigpt_v2": {**TOLD, "most_steps": 200},
}
"""Defaults by family, where they are not `TOLD`. Q-Formers use the paper's: their rows do not stand among
words, and none pretrained by others was measured. Mllama and MiniGPT-v2 use ours."""


def default_settings(backbone: str, *, family: str = "", kind: str = "object") -> LearnSettings:
    """Return the default settings for learning a concept on a backbone.

    A model collection defines the defaults for its own models.

    Args:
        backbone: the backbone's name.
        family: the backbone's family, for names that no model collection has settings for.
        kind: the head's kind; on BLIP-2 objects take 75 steps and all others 100 (§4 of arXiv 2403.14599).

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
