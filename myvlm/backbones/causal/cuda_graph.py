"""Runs learning steps on a GPU as a CUDA graph: tails are padded to one shape, then captured and replayed.

A step of a large model launches thousands of small kernels, and the GPU waits for each launch. Steps differ
in shape only by the length of their texts. These are padded, and from the third step on the whole forward and
backward pass is launched at once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from myvlm.backbones.causal.prefix_cache import Prefix, PromptTail, stack_prefixes
from myvlm.errors import first_line

EAGER_STEPS = 2
"""Steps of one shape that run without a graph: capturing one costs some steps' time."""

CAPTURE_MODE: dict[str, Any] = (
    {"capture_error_mode": "thread_local"}
    if "capture_error_mode" in signature(torch.cuda.make_graphed_callables).parameters
    else {}
)
"""Capture options that let other threads use the device meanwhile, for example to generate; empty where torch
has no such option."""

_log = logging.getLogger(__name__)

Run = Callable[..., tuple[Tensor, Tensor]]
"""Maps the tensors of `PromptTail.inputs` and the list of `stack_prefixes` to logits `B × T × V` and the
recorded probabilities, `layers × B × H × Q × R`."""
Capture = Callable[[Callable[..., Any], tuple[Tensor, ...]], Callable[..., Any]]
"""A function like `capture_graph`: takes a function of tensors, and sample arguments whose memory all later
calls use."""


def capture_graph(run: Callable[..., Any], sample: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Capture the forward and the backward pass of `run` as one CUDA graph each.

    Raises:
        RuntimeError: `run` contains an operation that cannot be captured, or memory ran out.
    """
    with torch.cuda.device(sample[0].device), warnings.catch_warnings():
        torch.cuda.empty_cache()  # a graph has its own memory pool, not this cache
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # all of it happens here
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            graphed: Any = torch.cuda.make_graphed_callables(run, sample, num_warmup_iters=1, **CAPTURE_MODE)
        except BaseException:
            # After a failed capture the generator still waits for its end, and could not sample any more.
            generator.graphsafe_set_state(state)
            raise
        torch.cuda.empty_cache()
    return cast(Callable[..., Any], graphed)


class Replay:
    """Runs the model on successive tails, and replays a CUDA graph once their shape repeats.

    Args:
        run: runs the model on a tail and the keys and values before it.
        longest: length of the longest tail after a picture, given the picture's text in the prompt; all tails
            are padded to it.
        room: spare positions of keys and values after the prefixes, given the length of a tail.
        capture: makes a graph of `run`.
    """

    def __init__(
        self,
        run: Run,
        longest: Callable[[str], int],
        room: Callable[[int], int],
        capture: Capture = capture_graph,
    ) -> None:
        self.run, self.longest, self.room, self.capture = run, longest, room, capture
        self._can_capture = True
        self._prefix_length = self._tail_length = self._steps_of_shape = 0
        self._shape: list[torch.Size] = []
        self._graph: Callable[..., tuple[Tensor, Tensor]] | None = None
        self._past: list[Tensor] = []

    @property
    def graphed(self) -> bool:
        """Whether the last tail was replayed as a graph."""
        return self._graph is not None

    def lengths(self, prefixes: Sequence[Prefix]) -> tuple[int, int]:
        """The lengths that a batch's prefixes and tails are padded to."""
        if not self._tail_length:
            self._tail_length = self.longest(prefixes[0].layout.text)
        self._prefix_length = max(self._prefix_length, *map(len, prefixes))
        return self._prefix_length, self._tail_length

    def __call__(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor]:
        """Logits and recorded probabilities, differentiable in the tail's `embeds`."""
        shape = [one.shape for one in tail.inputs]
        self._tail_length = max(self._tail_length, tail.embeds.shape[1])
        if shape != self._shape:
            self._reset(shape)
        self._steps_of_shape += 1
        if self._steps_of_shape == EAGER_STEPS + 1 and self._can_capture:
            self._try_capture(tail, prefixes)
        if self._graph is None:
            return self.run(*tail.inputs, self._stacked(tail, prefixes))
        self._copy_prefixes(prefixes, tail.prefix_length)
        return self._graph(*tail.inputs, *self._past)

    def _reset(self, shape: list[torch.Size]) -> None:
        self._shape, self._steps_of_shape = shape, 0
        self._graph, self._past = None, []

    def _try_capture(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> None:
        """Capture the graph; if the model cannot be captured, later steps run without one."""
        count = len(tail.inputs)

        def run(*given: Tensor) -> tuple[Tensor, Tensor]:
            return self.run(*given[:count], list(given[count:]))

        try:
            embeds, *others = (one.detach().clone() for one in tail.inputs)
            past = self._stacked(tail, prefixes)
            self._graph = self.capture(run, (embeds.requires_grad_(), *others, *past))
            self._past = past
        except RuntimeError as error:  # out of memory, or an operation that cannot be captured
            self._can_capture = False
            reason = f"{type(error).__name__}: {first_line(error)}"
            _log.info("The steps are not replayed as a CUDA graph: %s", reason)

    def _stacked(self, tail: PromptTail, prefixes: Sequence[Prefix]) -> list[Tensor]:
        return stack_prefixes(prefixes, tail.prefix_length, self.room(tail.embeds.shape[1]))

    def _copy_prefixes(self, prefixes: Sequence[Prefix], end: int) -> None:
        """Copy the prefixes' keys and values to where the graph reads them.

        Positions before a shorter prefix keep values of an earlier step; they are masked.
        """
        for sample, prefix in enumerate(prefixes):
            targets = [part[sample, :, end - len(prefix) : end] for part in self._past]
            torch._foreach_copy_(targets, prefix.parts)
