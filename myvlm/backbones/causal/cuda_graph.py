"""Learning on a GPU: what follows the prefixes, padded to one shape and replayed as a CUDA graph.

A step of a large model is thousands of small kernels, and a GPU waits for the launch of each. Every step has
the same shape but for the length of its texts, so these are padded, and from the third step on the whole of
forward and backward is launched as one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from myvlm.backbones.causal.prefix_cache import Prefix, PromptTail, stacked

EAGER_STEPS = 2
"""Steps of one shape that are run as they are: recording one costs some."""

BESIDE_OTHERS: dict[str, Any] = (
    {"capture_error_mode": "thread_local"}
    if "capture_error_mode" in signature(torch.cuda.make_graphed_callables).parameters
    else {}
)
"""What another thread does on the device meanwhile, such as speak, is no error of a recording, where torch
can be told so."""

_log = logging.getLogger(__name__)

Run = Callable[..., tuple[Tensor, Tensor]]
"""From the tensors of `PromptTail.inputs` and the list of `stacked` to logits `B × T × V`, and what the
recorder found, `layers × B × H × Q × R`."""
Capture = Callable[[Callable[..., Any], tuple[Tensor, ...]], Callable[..., Any]]
"""As `captured`: from a function of tensors, and arguments whose memory all later calls will use."""


def captured(run: Callable[..., Any], sample: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Forward and backward as a CUDA graph each.

    Raises:
        RuntimeError: there is something in it that a graph cannot hold, or too little memory.
    """
    with torch.cuda.device(sample[0].device), warnings.catch_warnings():
        torch.cuda.empty_cache()  # what the steps before took is of no use to a graph: it has its own memory
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # which all happens in here
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            graphed: Any = torch.cuda.make_graphed_callables(run, sample, num_warmup_iters=1, **BESIDE_OTHERS)
        except BaseException:
            # A recording that breaks off leaves the generator waiting for its end: no more could be sampled.
            generator.graphsafe_set_state(state)
            raise
        torch.cuda.empty_cache()
    return cast(Callable[..., Any], graphed)


class Replay:
    """Runs the model on one tail after the other, of which most have one shape.

    Args:
        run: the model on a tail and the keys and values before it.
        longest: positions of the longest tail that there may be behind a picture, given what stands for
            this in a prompt; all are padded to it.
        room: positions that keys and values have behind the prefixes, given those of a tail.
        capture: makes a graph of `run`.
    """

    def __init__(
        self,
        run: Run,
        longest: Callable[[str], int],
        room: Callable[[int], int],
        capture: Capture = captured,
    ) -> None:
        self.run, self.longest, self.room, self.capture = run, longest, room, capture
        self._able = True
        self._prefix = self._tail = self._met = 0
        self._shape: list[torch.Size] = []
        self._replayed: Callable[..., tuple[Tensor, Tensor]] | None = None
        self._past: list[Tensor] = []

    @property
    def graphed(self) -> bool:
        """Whether the last tail was run as a graph."""
        return self._replayed is not None

    def lengths(self, prefixes: Sequence[Prefix]) -> tuple[int, int]:
        """What the prefixes of a batch and its tails are padded to."""
        if not self._tail:
            self._tail = self.longest(prefixes[0].layout.text)
        self._prefix = max(self._prefix, *map(len, prefixes))
        return self._prefix, self._tail

    def __call__(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor]:
        """Logits and what was recorded; differentiable in the tail's `embeds`."""
        shape = [one.shape for one in tail.inputs]
        self._tail = max(self._tail, tail.embeds.shape[1])
        if shape != self._shape:
            self._forget(shape)
        self._met += 1
        if self._met == EAGER_STEPS + 1 and self._able:
            self._record(tail, prefixes)
        if self._replayed is None:
            return self.run(*tail.inputs, self._stacked(tail, prefixes))
        self._fill(prefixes, tail.prefix_length)
        return self._replayed(*tail.inputs, *self._past)

    def _forget(self, shape: list[torch.Size]) -> None:
        self._shape, self._met = shape, 0
        self._replayed, self._past = None, []

    def _record(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> None:
        """Make the graph; where the model cannot be recorded, its steps go on as they are."""
        count = len(tail.inputs)

        def run(*given: Tensor) -> tuple[Tensor, Tensor]:
            return self.run(*given[:count], list(given[count:]))

        try:
            embeds, *others = (one.detach().clone() for one in tail.inputs)
            past = self._stacked(tail, prefixes)
            self._replayed = self.capture(run, (embeds.requires_grad_(), *others, *past))
            self._past = past
        except RuntimeError as error:  # out of memory, or something that a graph cannot hold
            self._able = False
            _log.info("The steps are not replayed as a graph: %s", str(error).splitlines()[0])

    def _stacked(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> list[Tensor]:
        return stacked(prefixes, tail.prefix_length, self.room(tail.embeds.shape[1]))

    def _fill(self, prefixes: Sequence[Prefix], end: int) -> None:
        """Put the prefixes' keys and values where the graph reads them. What is before a shorter one is from
        a step before, and masked."""
        for sample, prefix in enumerate(prefixes):
            there = [part[sample, :, end - len(prefix) : end] for part in self._past]
            torch._foreach_copy_(there, prefix.parts)
