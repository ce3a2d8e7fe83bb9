"""Attention supervision: a model in training should attend from the positions where a name is due to its
rows.

From text alone, models learn late that an object in the picture and a row elsewhere belong together: until
some head attends correctly by chance, there is no gradient towards it. Here the renderer's ground truth
supervises the attention directly. It is enough if one head of all layers attends correctly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.pretrain.lessons import PREFIX, Hint, PackedTexts
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.causal.attention import record_attention

LEAST = 1e-9
"""Keeps the logarithm finite where the attention is zero."""
NOBODY = -1
"""Marks positions without a row, and rows without an object."""


def owners(
    hints: Sequence[Sequence[Hint]], beside: Sequence[Sequence[ConceptRows]], of: Callable[[Hint], int]
) -> Tensor:
    """Number the owner of each row (B × R), as `of` numbers its hint; 0 and padding become `NOBODY`.

    >>> one, two = ConceptRows(torch.ones(1, 4)), ConceptRows(torch.ones(2, 4))
    >>> hints = [[Hint("sks", "sks", 3)], [Hint("vex", "vex", 0), Hint("mug dax", "dax", 1)]]
    >>> owners(hints, [[two], [one, two]], lambda hint: hint.thing).tolist()
    [[3, 3, -1], [-1, 1, 1]]
    """
    own = [
        torch.tensor(
            [of(hint) or NOBODY for hint, rows in zip(*pair, strict=True) for _ in range(rows.count)]
        )
        for pair in zip(hints, beside, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(
        [one.long() for one in own], batch_first=True, padding_value=NOBODY
    )


def not_found(probabilities: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Mean over queries of −log of the attention to the wanted rows, summed over all heads and layers.

    If the attention to all rows together exceeds 1, the term is the wanted row's share of it.

    Args:
        probabilities: B × H × Q × K per layer, restricted to the rows.
        wanted: B × Q × K bool. Queries without a wanted row are ignored.

    >>> half, right = torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[True, False]]])
    >>> round(float(not_found([half], right)), 3), round(float(not_found([half[:, :1]], right)), 3)
    (0.693, 0.693)
    >>> sure = torch.tensor([[[[0.9, 0.0]], [[0.3, 0.0]]]])
    >>> round(float(not_found([sure], right)), 3), round(float(not_found([sure[:, 1:]], right)), 3)
    (-0.0, 1.204)
    """
    total = torch.stack([layer.sum(1) for layer in probabilities]).sum(0)
    found = ((total * wanted).sum(-1) / total.sum(-1).clamp(min=1.0))[wanted.any(-1)]
    return -(found + LEAST).log().mean() if len(found) else total.sum() * 0.0


def astray(probabilities: Sequence[Tensor], idle: Tensor) -> Tensor:
    """Mean over idle queries of −log of the attention that goes to no row, averaged over heads and layers.

    Args:
        probabilities: B × H × Q × K per layer, restricted to the rows.
        idle: B × Q bool, the queries from which no row is wanted.

    >>> half = torch.tensor([[[[0.25, 0.25], [0.0, 0.0]]]])
    >>> [abs(round(float(astray([half], torch.tensor([one]))), 3)) for one in ([True, False], [False, True])]
    [0.693, 0.0]
    """
    mean = torch.stack([layer.sum(-1).mean(1) for layer in probabilities]).mean(0)
    away = 1 - mean[idle].clamp(max=1 - LEAST)
    return -(away + LEAST).log().mean() if len(away) else mean.sum() * 0.0


class Looking:
    """Record and score the attention of a batch's texts to the rows after their picture.

    - From positions where a caption is about to name an object: in the layers after the first `known`, which
      work out which object comes next.
    - From every occurrence of a name, in a question or an answer: in the first `known` layers.
    - From positions where a caption is about to describe an object without a name: no attention to any row.
    """

    def __init__(
        self,
        hints: Sequence[Sequence[Hint]],
        beside: Sequence[Sequence[ConceptRows]],
        texts: PackedTexts,
        words: Mapping[str, int],
        *,
        known: int,
    ) -> None:
        self.known = known
        self.probabilities: list[Tensor] = []
        things = owners(hints, beside, lambda hint: hint.thing)
        names = owners(hints, beside, lambda hint: words[hint.name])
        due = texts.begins[:, :, None] == things[:, None]
        said = texts.ids[:, :, None] == names[:, None]
        bare = (texts.begins > 0) & ~due.any(-1) & (names != NOBODY).any(1, keepdim=True)
        wants = (due | said).any(-1) | bare
        # The watched positions of each picture, padded with -1.
        most = max(1, int(wants.sum(1).max()))
        places = wants.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        wanted = wants.gather(1, places)
        first, columns = len(PREFIX), things.shape[1]
        self.queries = torch.where(wanted, places + first + columns, -1)
        self.keys = torch.arange(first, first + columns).expand(len(wants), -1)
        each = places[:, :, None].expand(-1, -1, columns)
        self.due, self.said = (one.gather(1, each) & wanted[:, :, None] for one in (due, said))
        self.bare = bare.gather(1, places) & wanted

    @contextmanager
    def at(self, config: Any) -> Iterator[None]:
        """Record the language model's attention inside this context."""
        with record_attention(config, queries=self.queries, keys=self.keys) as recorder:
            yield
        self.probabilities = recorder.probabilities

    def loss(self) -> Tensor:
        """`not_found` for due and repeated names plus `astray` for objects without a name."""
        late, early = self.probabilities[self.known :], self.probabilities[: self.known]
        due, said, bare = (one.to(late[0].device) for one in (self.due, self.said, self.bare))
        return not_found(late, due) + not_found(early, said) + astray(late, bare)
