"""What a family shows of its inside, so that a contract can compare it with plain transformers.

Nothing here is needed to use a backbone. `myvlm.testing.check_backbone` asks for it, and so can prove the
promises of `Backbone` on a family whose mechanism it has never seen.
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
"""What a family may declare that it cannot do: keep what stands before the concept, penalise the attention
that the concept gets, say where the model looks."""
Rows: TypeAlias = Sequence[Sequence[Any]]
"""For each sample the concepts in it: `ConceptRows` of `base`, which imports this file."""


@dataclass(frozen=True, eq=False)
class TaughtText:
    """One sample of a batch as learning lays it out.

    Args:
        read: ids that stand before the answer.
        answer: ids that are to be learned, the end of sequence last.
        labels: the sample's row of labels, padding included: -100 everywhere but on the answer.
        start: where the answer starts among the labels.
    """

    read: list[int]
    answer: list[int]
    labels: list[int]
    start: int


@dataclass(frozen=True, eq=False)
class Entered:
    """What one module read of one sample, at a place where concept rows enter.

    Args:
        states: `S × D`, padding left out.
        place: how many of them stand before the rows; where rows would stand if there are none.
        mapped: `S × K`, what a linear map makes of `states` by itself, where rows are rescaled once more
            behind it (eq. 3 of https://arxiv.org/abs/2403.14599).
        rescaled: `S × K`, what it was made to give instead.
    """

    states: Tensor
    place: int
    mapped: Tensor | None = None
    rescaled: Tensor | None = None


@contextmanager
def eager_attention(config: Any) -> Iterator[None]:
    """Within it the layers that hold a configuration build their attention maps."""
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


class Probe(ABC):
    """The inside of one backbone. Each method leaves the model as it was, like those of `Backbone`.

    Lists have one entry a sample. Rows require grad where a result is to be differentiated.
    """

    @property
    @abstractmethod
    def eos_ids(self) -> list[int]:
        """Ids that end a reply."""

    @property
    def special_ids(self) -> list[int]:
        """Ids that mean more than text when a random model happens to say them, such as an image's."""
        return []

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """What `generate` of plain transformers is given, on the model's device; several samples padded."""

    @abstractmethod
    def reply_ids(self, output: Tensor, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        """The new ids in what `generate` made of `inputs`, without end of sequence and what follows it."""

    @abstractmethod
    def next_logits(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        rows: Rows,
        replies: Sequence[Sequence[int]],
    ) -> Tensor:
        """`B × V` float32: the logits behind each sample's reply so far, by one full pass without a cache.

        The samples are padded as `generate` pads them. Where no sample has rows, by the plain model.
        """

    @abstractmethod
    def taught(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[TaughtText]:
        """What learning gives the model to read, and the labels."""

    @abstractmethod
    def pixel_loss(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> Tensor:
        """The model's own cross-entropy of the answers with these rows, from pixels and by one full pass."""

    @abstractmethod
    def entered(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> list[list[Entered]]:
        """For each sample, what each module read at which rows enter, during such a pass."""

    @abstractmethod
    def visual_tokens(self, features: Any) -> Tensor:
        """`T × D`: the visual tokens in one of what `encode` gives, whose norms rows are rescaled to."""

    def penalty(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Rows,
    ) -> Tensor:
        """`Loss.attention` from the model's own eager attention maps; not asked of a family that lacks it."""
        raise NotImplementedError

    def arranged(self, features: Any, values: Tensor) -> Tensor:
        """`h × w × …`: values of the `T` visual tokens, arranged over the picture as `attention_map` does."""
        raise NotImplementedError

    def misuses(
        self, images: Sequence[Image.Image], prompts: Sequence[str], rows: Rows
    ) -> Mapping[str, Callable[[], object]]:
        """Uses of the mechanism that must raise an error of `myvlm.errors`, by what is wrong with them.

        Args:
            rows: one for each sample.
        """
        return {}
