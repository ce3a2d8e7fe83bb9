"""What is compared: a method is taught a subject by a few photos and then speaks of pictures.

The methods of a table share one head a concept, so that they differ in speaking alone; `…_alone` have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

from myvlm.api import MyVLM
from myvlm.evaluation.data.dataset import Photo, Subject
from myvlm.evaluation.methods.personalized import PersonalSpeaker, Teaching
from myvlm.evaluation.methods.rewriting import SMOLLM2, Rewriter, load_rewriter
from myvlm.plugins.registry import Registry


class Method(Protocol):
    """One row of a table."""

    name: str

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        """What speaks of the subject after so many photos.

        Args:
            vlm: the frozen model; its own concepts play no part, and it is as it was afterwards.
            subject: whom or what.
            photos: those it may learn from; the subject's other photos are tests.
            seed: of everything drawn.

        Raises:
            InputError: the method cannot be had with this model, subject or installation.
        """
        ...


@dataclass(frozen=True, eq=False)
class Setting:
    """What the methods of one table have in common, and what some of them need to know.

    Attributes:
        teaching: learns each concept once for all methods.
        subjects: of the whole data set; `another` takes its embedding from one of them.
        keywords: category → the words that `keyword` replaces; where a category is missing, see `baselines`.
        descriptions: subject's name → the words that `text_prompt` says it in; the model's own where missing.
        chat_model: of `llm`: "smollm2", or the name or folder of a chat model of transformers.
    """

    teaching: Teaching = field(default_factory=Teaching)
    subjects: Sequence[Subject] = ()
    keywords: Mapping[str, Sequence[str]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    chat_model: str = SMOLLM2

    @cached_property
    def rewriter(self) -> Rewriter:
        """The chat model, loaded once for all methods.

        Raises:
            InputError: it cannot be loaded.
        """
        return load_rewriter(self.chat_model)


Factory = Callable[[Setting], Method]
Made = TypeVar("Made", bound=Factory)

methods = Registry[Factory](
    "method",
    add="register it with register_method",
    built_in=tuple(f"myvlm.evaluation.methods.{module}" for module in ("baselines", "untrained", "controls")),
)


def register_method(name: str) -> Callable[[Made], Made]:
    """Decorator: make a method known by a name; it decorates what makes the method of a `Setting`.

    Raises:
        NameTakenError: another has the name.

    >>> with methods.restored():
    ...     make = register_method("my-own")(lambda setting: NotImplemented)
    ...     "my-own" in known_methods()
    True
    """

    def register(factory: Made) -> Made:
        methods.register(name, factory)
        return factory

    return register


def known_methods() -> list[str]:
    """The names of all methods, ours first.

    >>> known_methods()[:5]
    ['myvlm', 'plain', 'keyword', 'llm', 'text_prompt']
    """
    return methods.names()


def make_method(name: str, setting: Setting | None = None) -> Method:
    """A method by its name.

    Args:
        name: one of `known_methods()`.
        setting: shared by the methods of one table; the defaults where not given.

    Raises:
        UnknownNameError: there is no such method.
        InputError: it cannot be had.

    >>> make_method("plain").name
    'plain'
    """
    return methods.get(name)(setting or Setting())
