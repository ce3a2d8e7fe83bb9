"""What is compared: a method is taught a subject by a few photos and then speaks of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from myvlm.api import MyVLM
from myvlm.errors import InputError
from myvlm.evaluation.data import Photo, Subject
from myvlm.evaluation.teaching import Personal, Speaker, Teaching, alone


class Method(Protocol):
    """One row of a table."""

    name: str

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Speaker:
        """What speaks of the subject after so many photos; the frozen model is as it was afterwards."""
        ...


@dataclass(frozen=True, eq=False)
class Setting:
    """What the methods of one table have in common."""

    teaching: Teaching = field(default_factory=Teaching)
    subjects: Sequence[Subject] = ()


@dataclass
class MyVLMMethod:
    """The library itself."""

    setting: Setting
    name: str = "myvlm"

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Speaker:
        concept = self.setting.teaching.concept(vlm, subject, photos, seed=seed)
        return Personal(alone(vlm, concept))


@dataclass
class Plain:
    """The control without any concept: the frozen model as it is."""

    setting: Setting
    name: str = "plain"

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Speaker:
        return Personal(alone(vlm))


_KNOWN: dict[str, Callable[[Setting], Method]] = {"myvlm": MyVLMMethod, "plain": Plain}


def known_methods() -> list[str]:
    """The names of all methods, ours first."""
    return list(_KNOWN)


def make_method(name: str, setting: Setting | None = None) -> Method:
    """A method by its name.

    Raises:
        InputError: there is no such method.
    """
    if name not in _KNOWN:
        raise InputError(
            f"There is no method {name!r}.",
            got=repr(name),
            expected=f"one of {', '.join(known_methods())}",
            fix="check the spelling",
        )
    return _KNOWN[name](setting or Setting())
