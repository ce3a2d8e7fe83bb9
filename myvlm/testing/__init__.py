"""The contracts of backbones and heads as tests that anyone can run on their own implementation and model.

A contract is a list of functions, each of which asserts one property of a case: `BACKBONE_CHECKS` of a
`BackboneCase`, `HEAD_CHECKS` of a `HeadCase`. `parametrize_with_checks` makes each of them a pytest test;
`check_backbone` and `check_head` run them all in one call and report every failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from myvlm.backbones.base import Backbone
from myvlm.heads.base import Head
from myvlm.testing.backbone import BACKBONE_CHECKS
from myvlm.testing.backbone_case import BackboneCase
from myvlm.testing.head import HEAD_CHECKS, HeadCase
from myvlm.testing.running import Outcome, parametrize_with_checks, run_checks

__all__ = [
    "BACKBONE_CHECKS",
    "HEAD_CHECKS",
    "BackboneCase",
    "HeadCase",
    "Outcome",
    "check_backbone",
    "check_head",
    "parametrize_with_checks",
    "run_checks",
]


def check_backbone(
    backbone: Backbone, images: Sequence[Image.Image], *, identifier: str = "sks"
) -> list[Outcome]:
    """Check that a backbone keeps the contract of `Backbone`; the model is left unchanged.

    Args:
        backbone: around a model in float32; a small random one will do.
        images: at least three, all different.
        identifier: a word for the concept in prompts and answers.

    Returns: one `Outcome` per check; only what the family declares in `lacks` is skipped.

    Raises:
        AssertionError: checks failed; the message has a line for each, starting with the check's name.
        InputError: the model is not in float32, or there are fewer than three images.
    """
    case = BackboneCase(backbone, images, identifier)
    return run_checks(BACKBONE_CHECKS, case, may_skip=case.lacks.values())


def check_head(
    make: Callable[[], Head],
    photos: Sequence[Image.Image],
    other_photos: Sequence[Image.Image],
    unseen: Sequence[Image.Image],
    *,
    category: str | None = None,
) -> list[Outcome]:
    """Check that a kind of head keeps the contract of `Head`.

    Args:
        make: returns a new, unfitted head, such as `lambda: ObjectHead("tinyworld/clip")`.
        photos: two or more of one object that the head can tell from the other.
        other_photos: two or more of another object.
        unseen: at least three: the first shows the first object, the second the second, the others neither.
        category: the category of the objects, if the head uses it.

    Returns: one `Outcome` per check.

    Raises:
        AssertionError: checks failed; the message has a line for each, starting with the check's name.
        InputError: there are too few pictures.
    """
    return run_checks(HEAD_CHECKS, HeadCase(make, photos, other_photos, unseen, category))
