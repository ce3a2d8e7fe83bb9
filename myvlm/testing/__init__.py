"""The contracts of this library as tests that anyone can run, on their own adapter and model.

A contract is a list of functions, one a promise, each of which asserts on a case; `run_checks` runs
it. `check_backbone` is the contract of backbones (`myvlm.testing.backbone`), `check_head` that of heads
(`myvlm.testing.head`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from unittest import SkipTest

import torch
from PIL import Image

from myvlm.backbones.base import Backbone
from myvlm.errors import InputError
from myvlm.heads.base import Head
from myvlm.testing.backbone import BACKBONE_CHECKS
from myvlm.testing.backbone_qformer import case_of
from myvlm.testing.head import HEAD_CHECKS, HeadCase

__all__ = ["BACKBONE_CHECKS", "HEAD_CHECKS", "Outcome", "check_backbone", "check_head", "run_checks"]

Case = TypeVar("Case")


@dataclass(frozen=True)
class Outcome:
    """A check that did not fail: passed, or skipped for a reason."""

    check: str
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran."""
        return self.skipped is None


def run_checks(checks: Sequence[Callable[[Case], None]], case: Case) -> list[Outcome]:
    """Run each check on one case; a check that raises `unittest.SkipTest` has nothing to check there.

    Raises:
        AssertionError: at the first check that fails, with its name in front.

    >>> def is_even(number): assert number % 2 == 0, f"{number} is odd"
    >>> run_checks([is_even], 4)
    [Outcome(check='is_even', skipped=None)]
    >>> run_checks([is_even], 5)
    Traceback (most recent call last):
    AssertionError: is_even: AssertionError: 5 is odd
    """
    outcomes = []
    for check in checks:
        name = check.__name__
        try:
            check(case)
        except SkipTest as reason:
            outcomes.append(Outcome(name, str(reason)))
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        else:
            outcomes.append(Outcome(name))
    return outcomes


def check_backbone(
    backbone: Backbone, images: Sequence[Image.Image], *, identifier: str = "sks"
) -> list[Outcome]:
    """Prove that a backbone keeps every promise of `Backbone`; the model is left as it was.

    Args:
        backbone: around a model in float32; a small random one will do.
        images: at least three, all different.
        identifier: a word that stands for a concept in prompts and answers.

    Returns: one `Outcome` a check.

    Raises:
        AssertionError: a promise is broken; the message begins with the check's name.
        InputError: the model is not in float32, or there are fewer than three images.
    """
    if backbone.dtype != torch.float32 or len(images) < 3:
        raise InputError(
            "The contract is checked in float32, with at least three images.",
            got=f"{backbone.dtype}, {len(images)} images",
            expected="torch.float32, 3 images or more",
            fix="load the model with dtype='float32'",
        )
    return run_checks(BACKBONE_CHECKS, case_of(backbone, images, identifier))


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
        AssertionError: a promise is broken; the message begins with the check's name.
        InputError: there are too few pictures.
    """
    if min(len(photos), len(other_photos)) < 2 or len(unseen) < 3:
        raise InputError(
            "The contract of heads is checked with photos of two things, and unseen pictures.",
            got=f"{len(photos)}, {len(other_photos)} and {len(unseen)}",
            expected="2 photos or more of each, 3 unseen pictures or more",
            fix="pass more pictures",
        )
    return run_checks(HEAD_CHECKS, HeadCase(make, photos, other_photos, unseen, category))
