"""Turns at what several threads share and what one of them changes for a moment: tokenizers, models."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from myvlm.backbones.frozen import OF_LAST_INPUT, keeper_of


class Locks:
    """A lock for each object, held by one thread at a time; a forked process begins with free ones.

    >>> locks, thing = Locks(), threading.Event()
    >>> with locks.of(thing), locks.of(thing):  # its holder may take it again
    ...     locks.of(thing) is locks.of(thing)
    True
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # whoever held one is not in the child

    def of(self, thing: object) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(thing, threading.RLock())

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakKeyDictionary[object, threading.RLock] = WeakKeyDictionary()


_TOKENIZERS, _MODELS = Locks(), Locks()


@contextmanager
def tokenizing(tokenizer: Any) -> Iterator[None]:
    """Within it no other thread of ours uses the tokenizer: each call sets whether it pads."""
    with _TOKENIZERS.of(tokenizer):
        yield


@contextmanager
def in_turn(model: Any) -> Iterator[None]:
    """Within it no other thread of ours generates, where the model keeps something of its last input.

    Two replies at once would read each other's. All other models are entered by all threads at once.
    """
    keeper = keeper_of(model)
    with _MODELS.of(keeper) if OF_LAST_INPUT in vars(keeper) else nullcontext():
        yield
