"""The contracts of this library as tests that anyone can run, on their own adapter and model.

A contract is a list of functions, one a promise, each of which asserts on a case: `BACKBONE_CHECKS` on a
`BackboneCase`, `HEAD_CHECKS` on a `HeadCase`. `parametrize_with_checks` makes each of them a test of pytest;
`check_backbone` and `check_head` run them all in one call and name all that failed.
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
    """Prove that a backbone keeps every promise of `Backbone`; the model is left as it was.

    Args:
        backbone: around a model in float32; a small random one will do.
        images: at least three, all different.
        identifier: a word that stands for a concept in prompts and answers.

    Returns: one `Outcome` a check; skipped is only what the family declares in `lacks`.

    Raises:
        AssertionError: promises are broken; the message has a line for each, the check's name in front.
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
    """Prove that a kind of head keeps every promise of `Head`.

    Args:
        make: gives a new head that has learned nothing, such as `lambda: ObjectHead("tinyworld/clip")`.
        photos: two or more of one thing that the head can tell from the other.
        other_photos: two or more of another thing.
        unseen: the first shows the first thing, the second the second, the others neither; at least three.
        category: what the things are in general, if the head wants to know.

    Returns: one `Outcome` a check.

    Raises:
        AssertionError: promises are broken; the message has a line for each, the check's name in front.
        InputError: there are too few pictures.
    """
    return run_checks(HEAD_CHECKS, HeadCase(make, photos, other_photos, unseen, category))
