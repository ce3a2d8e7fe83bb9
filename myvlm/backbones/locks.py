"""Turns at what several threads share and what one of them changes for a moment: tokenizers, models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from myvlm.backbones.frozen import OF_LAST_INPUT, keeper_of
from myvlm.locks import Locks

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
