"""Access to the internals of a backbone, for comparing it with plain transformers in tests.

Nothing here is needed to use a backbone. `myvlm.testing.check_backbone` uses it to verify the contract of
`Backbone` on any family, without knowing how the family inserts concepts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from PIL import Image
from torch import Tensor

Lack = Literal["kept_prefixes", "attention_penalty", "attention_map"]
"""A feature that a family may declare unsupported: a cache of the prefix before the concept, a penalty on the
attention to the concept, attention maps."""
Rows: TypeAlias = Sequence[Sequence[Any]]
"""For each sample the `ConceptRows` of its concepts; `Any`, since `base` imports this file."""


@dataclass(frozen=True, eq=False)
class TaughtText:
    """One sample of a training batch, as token ids.

    Args:
        read: ids before the answer.
        answer: ids of the target answer, including the end of sequence.
        labels: the sample's labels including padding: -100 everywhere except on the answer.
        start: index at which the answer starts in `labels`.
    """

    read: list[int]
    answer: list[int]
    labels: list[int]
    start: int


@dataclass(frozen=True, eq=False)
class Entered:
    """The input of one module, for one sample, at a place where concept rows are inserted.

    Args:
        states: `S × D`, without padding.
        place: index of the first row in `states`, or where it would be if the sample has no rows.
        mapped: `S × K`, the output of a linear layer on `states`, for layers after which rows are rescaled
            again (eq. 3 of https://arxiv.org/abs/2403.14599).
        rescaled: `S × K`, the output of this layer after rescaling.
    """

    states: Tensor
    place: int
    mapped: Tensor | None = None
    rescaled: Tensor | None = None


@contextmanager
def eager_attention(config: Any) -> Iterator[None]:
    """Context manager: the layers that share this configuration compute full attention maps."""
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


class Probe(ABC):
    """Access to the internals of one backbone. No method changes the model, as with `Backbone`.

    Lists have one entry per sample. Rows require grad if a result is to be differentiated.
    """

    @property
    @abstractmethod
    def eos_ids(self) -> list[int]:
        """Ids that end a reply."""

    @property
    def special_ids(self) -> list[int]:
        """Ids with a special meaning if a random model happens to generate them, such as image tokens."""
        return []

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """The inputs of transformers' `generate`, on the model's device; several samples are padded."""

    @abstractmethod
    def reply_ids(self, output: Tensor, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        """The new ids in the output of `generate` for `inputs`, up to but excluding the end of sequence."""

    @abstractmethod
    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        replies: Sequence[Sequence[int]],
    ) -> Tensor:
        """`B × V` float32: next-token logits after each sample's reply so far, in one pass without a cache.

        The samples are padded as in `generate`. If no sample has rows, the plain model is used.
        """

    @abstractmethod
    def taught(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[TaughtText]:
        """The token ids and labels of these samples in training."""

    @abstractmethod
    def pixel_loss(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> Tensor:
        """The model's own cross-entropy of the answers with these rows, in one full pass from pixels."""

    @abstractmethod
    def entered(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> list[list[Entered]]:
        """For each sample, the input of each module into which rows are inserted, in such a pass."""

    @abstractmethod
    def visual_tokens(self, features: Any) -> Tensor:
        """`T × D`: the visual tokens in one result of `encode`, whose norms the rows are rescaled to."""

    def penalty(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> Tensor:
        """`Loss.attention` from the model's own eager attention maps; not called if the family lacks it."""
        raise NotImplementedError

    def arranged(self, features: Any, values: Tensor) -> Tensor:
        """`h × w × …`: values of the `T` visual tokens, arranged over the picture as in `attention_map`."""
        raise NotImplementedError

    def misuses(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows
    ) -> Mapping[str, Callable[[], object]]:
        """Invalid uses of the insertion that must raise an error of `myvlm.errors`, by description.

        Args:
            rows: rows of the concepts of each sample.
        """
        return {}
