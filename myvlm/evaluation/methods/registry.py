"""Registry of the compared methods: each learns a subject from a few photos, then captions other pictures.

The methods of a table share the concept's head, so that they differ only in their texts; `…_alone` methods
have no head.
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
    """A method of personalization: one row of a table."""

    name: str

    def teach(self, vlm: MyVLM, subject: Subject, photos: Sequence[Photo], *, seed: int) -> PersonalSpeaker:
        """Learn a subject and return a speaker for it.

        Args:
            vlm: the frozen model; its own concepts are ignored, and it is left unchanged.
            subject: the subject to learn.
            photos: the photos to learn from; the subject's other photos are for testing.
            seed: random seed.

        Raises:
            InputError: the method does not work with this model, subject or installation.
        """
        ...


@dataclass(frozen=True, eq=False)
class Setting:
    """Configuration shared by the methods of one table.

    Attributes:
        teaching: learns each concept once for all methods.
        subjects: all subjects of the data set; `another` takes its embedding from one of them.
        keywords: category → words that `keyword` replaces; see `baselines.keywords_of` for other categories.
        descriptions: subject's name → description for `text_prompt`, `introduced` and `visual_memory`; if
            missing, it is taken from the model's captions.
        chat_model: chat model of `llm`: "smollm2", or the name or folder of a chat model of transformers.
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
            InputError: the chat model cannot be loaded.
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
    """Decorator that registers a method: a class or function that makes a `Method` from a `Setting`.

    Raises:
        NameTakenError: another method has this name.

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
    """Names of all registered methods, the built-in ones first.

    >>> known_methods()[:5]
    ['myvlm', 'plain', 'keyword', 'llm', 'text_prompt']
    """
    return methods.names()


def make_method(name: str, setting: Setting | None = None) -> Method:
    """Make a method by its name.

    Args:
        name: one of `known_methods()`.
        setting: configuration shared by the methods of one table; `Setting()` by default.

    Raises:
        UnknownNameError: no method has this name.
        InputError: the method cannot be made in this installation.

    >>> make_method("plain").name
    'plain'
    """
    return methods.get(name)(setting or Setting())
