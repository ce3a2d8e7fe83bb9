"""The key/value cache of what stands before the concept: computed once a view, shared by every step.

In a causal language model nothing before the concept depends on it. Each view's system text and image
tokens run once, without gradient; a step runs only the concept's rows, the prompt and the answer, with the
same loss and gradient as the full pass. Imports torch, its neighbours here and the errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.features import Features, Layout, encoder_outputs
from myvlm.backbones.placement import device_of
from myvlm.backbones.prompter import TeacherForced
from myvlm.errors import BackboneError


@dataclass(frozen=True, eq=False)
class Prefix:
    """One view's prefix of `P` positions.

    Args:
        ids: the `P` ids, image placeholders included.
        layout: how its picture stands in the prompt.
        keys: a layer's cached keys each, `H × P × d`; `values` likewise.
        norms: what a row's norm can be set to, by rule, float32 scalars.
    """

    ids: list[int]
    layout: Layout
    keys: list[Tensor]
    values: list[Tensor]
    norms: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the cache."""
        return sum(part.nbytes for part in (*self.keys, *self.values))


def cache_argument(model: Any) -> str:
    """What the model's forward calls the cache: `cache`, in releases before 5.24 `past_key_values`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def prefill(model: Any, ids: list[int], feature: Features, arguments: Mapping[str, Tensor]) -> Prefix:
    """Run one prefix through the model and keep its keys and values.

    Args:
        model: a model whose forward takes `mm_encoder_outputs`.
        ids: `P` ids that end with the image's last placeholder.
        feature: the image's projected visual tokens.
        arguments: what else the model is given of these ids.
    """
    from transformers import DynamicCache

    device = device_of(model.get_input_embeddings())
    # Without the model's configuration: one made from it drops what is outside a sliding window.
    cache: Any = DynamicCache()
    with torch.no_grad():
        model(
            input_ids=torch.tensor([ids], device=device),
            mm_encoder_outputs=encoder_outputs([feature], device),
            logits_to_keep=1,
            use_cache=True,
            **{cache_argument(model): cache},
            **arguments,
        )
    return Prefix(
        ids,
        feature.layout,
        [layer.keys[0] for layer in cache.layers],
        [layer.values[0] for layer in cache.layers],
        visual_norms(feature.tokens),
    )


@dataclass(frozen=True, eq=False)
class Tail:
    """A batch of what follows its prefixes, ready for the model.

    Args:
        embeds: `B × T × D`, the rows in their places; differentiable in the directions.
        inputs: the model's other arguments: mask, positions, cache.
        labels: `B × T`.
        queries: `B × Q` positions in the tail after the last concept row; -1 is none.
        keys: `B × R` columns of the concept's rows, cache included; -1 is none.
    """

    embeds: Tensor
    inputs: dict[str, Any]
    labels: Tensor
    queries: Tensor
    keys: Tensor


def tail_of(
    model: Any,
    prefixes: Sequence[Prefix],
    batch: TeacherForced,
    rows: Sequence[Sequence[ConceptRows]],
    positions: Tensor | None = None,
) -> Tail:
    """The tail of a teacher-forced batch behind its prefixes; shorter prefixes are padded on the left.

    Args:
        positions: `… × B × S` position ids of the whole batch, where they are not 0, 1, 2 ….

    Raises:
        BackboneError: a sample does not begin with its prefix.
    """
    table = model.get_input_embeddings()
    device, starts = device_of(table), [len(prefix) for prefix in prefixes]
    for prefix, ids in zip(prefixes, batch.ids.tolist(), strict=True):
        if ids[: len(prefix)] != prefix.ids:
            raise BackboneError(
                "A prompt does not begin with the prefix that was kept.",
                got=f"ids {ids[: len(prefix)][:8]} …",
                expected=f"ids {prefix.ids[:8]} …",
                fix="use a template that puts the image before the instruction",
            )
    ids, mask = _shift(batch.ids, starts, 0), _shift(batch.attention_mask, starts, 0)
    places, longest = _relative(batch.rows, starts), max(starts)
    seen = torch.tensor([[0] * (longest - start) + [1] * start for start in starts])
    if positions is None:
        positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    embeds = table(ids.to(device))
    spots = (places >= 0).nonzero(as_tuple=True)
    if len(spots[0]):
        columns = places[spots].to(device)
        entering = [c.entering(p.norms) for p, own in zip(prefixes, rows, strict=True) for c in own]
        values = torch.cat(entering)
        embeds = embeds.index_put((spots[0].to(device), columns), values.to(device, embeds.dtype))
    return Tail(
        embeds,
        {
            "attention_mask": torch.cat([seen, mask], dim=1).to(device),
            "position_ids": _shift_positions(positions.cpu(), starts).to(device),
            cache_argument(model): _cache(prefixes, longest),
            "use_cache": True,
        },
        _shift(batch.labels, starts, -100),
        _relative(batch.later, starts),
        torch.where(places >= 0, places + longest, -1),
    )


def _cache(prefixes: Sequence[Prefix], longest: int) -> Any:
    """A fresh cache of the batch, `B × H × longest × d` a layer: forward passes append to it in place."""
    from transformers import DynamicCache

    def padded(part: Tensor) -> Tensor:
        return functional.pad(part, (0, 0, longest - part.shape[1], 0))

    cache = DynamicCache()
    for layer in range(len(prefixes[0].keys)):
        keys = torch.stack([padded(prefix.keys[layer]) for prefix in prefixes])
        cache.update(keys, torch.stack([padded(prefix.values[layer]) for prefix in prefixes]), layer)
    return cache


def _shift(table: Tensor, starts: Sequence[int], fill: int) -> Tensor:
    """Every sample's columns from its start on, padded on the right."""
    rows = [row[start:] for row, start in zip(table, starts, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def _shift_positions(positions: Tensor, starts: Sequence[int]) -> Tensor:
    """`… × B × T` from `… × B × S`: several position ids a token in families with two-dimensional images."""
    if positions.ndim == 2:
        return _shift(positions, starts, 0)
    return torch.stack([_shift(axis, starts, 0) for axis in positions])


def _relative(columns: Tensor, starts: Sequence[int]) -> Tensor:
    """Columns `B × N` of whole samples as columns of their tails; -1 stays -1."""
    return torch.where(columns >= 0, columns - torch.tensor(starts)[:, None], -1)
