"""Waiting times of a user besides a learning step: a whole `learn`, the gate, a token; and kernels per layer.

`learning_step.py --preset cpu` measures them on `tinyworld/llava` and reports them with its figures.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from random_models import Preset
from torch.utils._python_dispatch import TorchDispatchMode

from myvlm import MyVLM
from myvlm.heads.features import forget_pictures
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

SMALL, LARGE = (336, 336), (4000, 3000)
"""Photo sizes: input of a vision tower, and of a phone camera."""
NO_LAUNCH = (
    "empty",
    "new_empty",
    "detach",
    "alias",
    "lift",
    "_unsafe_view",
    "scalar_tensor",
    "is_",
    "_local",
)
"""Operations that start no kernel on a GPU, besides those that return views."""

Step = Callable[[torch.Tensor], torch.Tensor]


class Launches(TorchDispatchMode):
    """Counts the operations that would each launch a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        self.count += not view and not func.__name__.startswith(NO_LAUNCH)
        return func(*args, **(kwargs or {}))


def launches_per_layer(preset: Preset, step_of: Callable[[Preset], tuple[Step, int]]) -> int:
    """Number of kernels of one decoder layer in a bfloat16 step, forward and backward.

    It is the difference between models of three layers and of two.

    Args:
        preset: a small preset will do: widths do not matter.
        step_of: returns the step of a preset, and the width of the row that it takes.
    """
    counts = []
    for layers in (2, 3):
        step, width = step_of(
            dataclasses.replace(preset, configuration=_of_depth(preset, layers), dtype=torch.bfloat16)
        )
        direction = torch.ones(1, width, requires_grad=True)
        for launches in (Launches(), Launches()):  # the first is for warm-up
            with launches:
                torch.autograd.grad(step(direction), [direction])
        counts.append(launches.count)
    return counts[1] - counts[0]


def _of_depth(preset: Preset, layers: int) -> Callable[[], Any]:
    def configuration() -> Any:
        made = preset.configuration()
        made.text_config.num_hidden_layers = layers
        return made

    return configuration


def waiting(repeats: int) -> dict[str, float]:
    """Seconds of `learn` without captions, for small and large photos; the gate's share; time per token."""
    vlm, kit, other = MyVLM.from_pretrained("tinyworld/llava", device="cpu"), few_shot(0), few_shot(1)
    learned(vlm, other, other.photos(), SMALL, settings={"steps": 1, "views": 1})
    figures = {
        "learn_whole_seconds": learned(vlm, kit, kit.photos(), SMALL),
        "learn_whole_seconds_12mp": learned(vlm, kit, kit.photos(), LARGE),
    }
    vlm.learn(kit.identifier, kit.photos(), category=kit.category, progress=False)
    return figures | speaking(vlm, pictures(kit.present), repeats)


class Named(Protocol):
    """A concept to learn: an identifier and a category."""

    @property
    def identifier(self) -> str: ...
    @property
    def category(self) -> str: ...


def learned(
    vlm: MyVLM, kit: Named, photos: Sequence[Image.Image], size: tuple[int, int], **options: Any
) -> float:
    """Seconds to learn a concept, including its head and, if needed, captions; the concept is removed again.

    Args:
        size: size to which the photos are resized first.
        options: options of `learn`, such as captions.
    """
    sized = [photo.resize(size, Image.Resampling.LANCZOS) for photo in photos]
    forget_pictures()
    begun = now()
    vlm.learn(kit.identifier, sized, category=kit.category, progress=False, **options)
    seconds = now() - begun
    vlm.concepts.remove(kit.identifier)
    return round(seconds, 3)


def now() -> float:
    """Clock time in seconds, after waiting for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def speaking(vlm: MyVLM, shown: Sequence[Image.Image], repeats: int, **generation: Any) -> dict[str, float]:
    """Time of the gate relative to the caption that follows it, and milliseconds per token with rows."""
    gates, captions, tokens = [], [], []
    for _ in range(repeats):
        for picture in shown:
            forget_pictures()
            begun = now()
            vlm.concepts.recognise(picture)
            gates.append(now() - begun)
            begun = now()  # the gate's features are cached
            reply = vlm.caption(picture, **generation)
            captions.append(now() - begun)
            tokens.append(1000 * captions[-1] / len(reply.token_ids))
    gate, caption = statistics.median(gates), statistics.median(captions)
    return {
        "gate_ratio_of_caption": round(gate / caption, 3),
        "ms_per_token": round(statistics.median(tokens), 2),
    }
