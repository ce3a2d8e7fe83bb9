"""The key/value cache of the prefix before a concept's rows, computed once per view and shared by all steps.

In a causal language model nothing before the rows depends on them. Each view's system text and image tokens
run once, without gradient. A step runs only the concept's rows, the prompt and the answer, and gives the same
loss and gradient as the full pass.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.causal.features import Features, Layout, encoder_outputs
from myvlm.backbones.causal.prompts import TeacherForced
from myvlm.backbones.frozen import device_of, in_this_thread
from myvlm.errors import BackboneError

PREFIX_BYTES_PER_BATCH = 2**30
"""Bytes of prefixes in one batch of `generation_batches`; more if `images_at_once` prefixes are larger."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """One view's cached prefix of `P` positions.

    Args:
        ids: the `P` ids, image placeholders included.
        layout: how its picture is represented in the prompt.
        keys, values: one tensor per layer, `H × P × d`.
        norms: for each norm rule, the norm that rows are set to; float32 scalars.
    """

    ids: list[int]
    layout: Layout
    keys: list[Tensor]
    values: list[Tensor]
    norms: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> list[Tensor]:
        """Keys and values of each layer in turn: keys, values, keys, values, …"""
        return [part for pair in zip(self.keys, self.values, strict=True) for part in pair]

    @property
    def nbytes(self) -> int:
        """Size of the cache in bytes."""
        return sum(part.nbytes for part in self.parts)


def cache_argument(model: Any) -> str:
    """Name of the forward's cache argument: `cache`, or `past_key_values` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def prefill(
    model: Any,
    language_model: nn.Module,
    ids: list[int],
    feature: Features,
    arguments: Mapping[str, Tensor],
    *,
    image_id: int,
) -> Prefix:
    """Run one prefix through the model and keep its keys and values.

    Args:
        model: a model whose forward takes `mm_encoder_outputs`.
        language_model: its submodule that takes `inputs_embeds`.
        ids: `P` ids that end with the image's last placeholder, `image_id`.
        feature: the image's encoded features.
        arguments: the model's further per-token inputs for these ids.
    """
    from transformers import DynamicCache

    device = device_of(model.get_input_embeddings())
    # Not built from the model's configuration: such a cache drops positions outside a sliding window.
    cache: Any = DynamicCache()
    entered: list[Tensor] = []
    see = in_this_thread(lambda _, args, kwargs: entered.append(kwargs["inputs_embeds"][0]))
    handle = language_model.register_forward_pre_hook(see, with_kwargs=True)
    own = torch.tensor([ids], device=device)
    with contextlib.ExitStack() as after, torch.no_grad():
        after.callback(handle.remove)
        model(
            input_ids=own,
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
        visual_norms(entered[0][(own[0] == image_id).to(entered[0].device)]),
    )


@dataclass(frozen=True, eq=False)
class PromptTail:
    """A batch of tails: everything after the prefixes, which are padded on the left to `P` positions.

    Args:
        embeds: `B × T × D`, concept rows inserted; differentiable in their directions.
        mask: `B × (P + T)`, 0 at padding.
        positions: position ids, `… × B × T`.
        queries: `B × Q` positions in the tail after the last concept row; -1 is padding.
        keys: `B × R` columns of the concept rows, counted from the start of the prefix; -1 is padding.
        labels: `B × T`.
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    queries: Tensor
    keys: Tensor
    labels: Tensor

    @property
    def prefix_length(self) -> int:
        """`P`."""
        return self.mask.shape[1] - self.embeds.shape[1]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The tensors that the model and the recorder take."""
        return self.embeds, self.mask, self.positions, self.queries, self.keys


def tail_of(
    model: Any,
    prefixes: Sequence[Prefix],
    batch: TeacherForced,
    rows: Sequence[Sequence[ConceptRows]],
    positions: Tensor | None = None,
    *,
    at_least: tuple[int, int] = (0, 0),
) -> PromptTail:
    """Build the tail of a teacher-forced batch; shorter prefixes are padded on the left.

    Args:
        positions: `… × B × S` position ids of the whole batch, if they are not 0, 1, 2 ….
        at_least: minimum lengths that prefixes and tails are padded to.

    Raises:
        BackboneError: a sample does not begin with its prefix.
    """
    table = model.get_input_embeddings()
    device, starts = device_of(table), [len(prefix) for prefix in prefixes]
    for prefix, ids in zip(prefixes, batch.ids.tolist(), strict=True):
        _check_begins_with(prefix, ids)
    tails = batch.attention_mask.sum(1) - torch.tensor(starts)
    length = max(at_least[1], int(tails.max()))
    ids, mask = _shift(batch.ids, starts, 0, length), _shift(batch.attention_mask, starts, 0, length)
    places, longest = _columns_in_tail(batch.rows, starts), max(at_least[0], *starts)
    prefix_mask = torch.tensor([[0] * (longest - start) + [1] * start for start in starts])
    if positions is None:
        positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    embeds = table(ids.to(device))
    later, spots = _columns_in_tail(batch.later, starts), (places >= 0).nonzero(as_tuple=True)
    if len(spots[0]):
        columns = places[spots].to(device)
        entering = [c.entering(p.norms) for p, own in zip(prefixes, rows, strict=True) for c in own]
        values = torch.cat(entering)
        embeds = embeds.index_put((spots[0].to(device), columns), values.to(device, embeds.dtype))
    return PromptTail(
        embeds,
        torch.cat([prefix_mask, mask], dim=1).to(device),
        _shift_positions(positions.cpu(), starts, length).to(device),
        _pad_columns(later, length).to(device),
        torch.where(places >= 0, places + longest, -1).to(device),
        _shift(batch.labels, starts, -100, length).to(device),
    )


def _check_begins_with(prefix: Prefix, ids: Sequence[int]) -> None:
    """Raise BackboneError unless a prompt begins with its prefix."""
    if ids[: len(prefix)] != prefix.ids:
        raise BackboneError(
            "The prompt does not begin with the kept prefix.",
            got=f"ids {ids[: len(prefix)][:8]} …",
            expected=f"ids {prefix.ids[:8]} …",
            fix="use a template that puts the image before the instruction",
        )


def stack_prefixes(prefixes: Sequence[Prefix], longest: int, room: int = 0) -> list[Tensor]:
    """A batch's `Prefix.parts`, padded on the left: `B × H × (longest + room) × d`, `room` uninitialized."""
    joined = []
    for parts in zip(*(prefix.parts for prefix in prefixes), strict=True):
        if not room and all(part.shape[1] == longest for part in parts):
            joined.append(torch.stack(parts))
            continue
        heads, _, width = parts[0].shape
        made = parts[0].new_empty(len(parts), heads, longest + room, width)
        before = made[:, :, :longest]
        if all(part.shape[1] == longest for part in parts):
            torch.stack(parts, out=before)
        else:
            for own, part in zip(before, parts, strict=True):
                own[:, : longest - part.shape[1]] = 0
                own[:, longest - part.shape[1] :] = part
        joined.append(made)
    return joined


def generation_batches(
    model: Any, samples: Sequence[tuple[Prefix, list[int]]], *, pad_id: int, at_least: int
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of `generate` for prompts with cached prefixes, one batch at a time.

    Padding is placed before shorter prefixes, and between a prefix and a shorter rest of its prompt.

    Args:
        samples: for each prompt, its prefix and all of its ids.
        at_least: samples per batch; more if they fit into `PREFIX_BYTES_PER_BATCH`.

    Raises:
        BackboneError: a prompt does not begin with its prefix.
    """
    device = device_of(model.get_input_embeddings())
    step = max(at_least, PREFIX_BYTES_PER_BATCH // samples[0][0].nbytes)
    for batch in (samples[start : start + step] for start in range(0, len(samples), step)):
        longest = max(len(prefix) for prefix, _ in batch)
        length = max(len(ids) - len(prefix) for prefix, ids in batch)
        rows, masks = [], []
        for prefix, ids in batch:
            _check_begins_with(prefix, ids)
            before, tail = longest - len(prefix), ids[len(prefix) :]
            between = length - len(tail)
            rows.append([pad_id] * before + prefix.ids + [pad_id] * between + tail)
            masks.append([0] * before + [1] * len(prefix) + [0] * between + [1] * len(tail))
        yield {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(masks, device=device),
            cache_argument(model): cache_of(
                stack_prefixes([prefix for prefix, _ in batch], longest), longest
            ),
        }


def cache_of(past: list[Tensor], prefix_length: int) -> Any:
    """Build a new cache from the tensors of `stack_prefixes`.

    Args:
        past: keys and values. The list is emptied, so that a layer's tensors can be freed once the layer has
            appended to them.
        prefix_length: number of prefix positions. If there is room after them, a layer's `joined` holds its
            keys and values with that room, for a tail to be written into.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer: Any = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = (
            part[:, :, :prefix_length] for part in (keys, values)
        )  # `update` would copy them
        if keys.shape[2] > prefix_length:
            layer.joined = keys, values
        cache.layers.append(layer)
    past.clear()
    return cache


def _pad_columns(columns: Tensor, width: int) -> Tensor:
    """Pad `B × N` columns to `B × width` with -1."""
    return functional.pad(columns, (0, width - columns.shape[1]), value=-1)


def _shift(table: Tensor, starts: Sequence[int], fill: int, length: int) -> Tensor:
    """Each sample's columns from its start on, `B × length`, padded on the right with `fill`."""
    shifted = table.new_full((len(table), length), fill)
    for own, row, start in zip(shifted, table, starts, strict=True):
        kept = row[start : start + length]
        own[: len(kept)] = kept
    return shifted


def _shift_positions(positions: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """`_shift` for position ids `… × B × S`: families with 2-D image positions have several per token."""
    if positions.ndim == 2:
        return _shift(positions, starts, 0, length)
    return torch.stack([_shift(axis, starts, 0, length) for axis in positions])


def _columns_in_tail(columns: Tensor, starts: Sequence[int]) -> Tensor:
    """Convert columns `B × N` of whole samples to columns of their tails; -1 stays -1."""
    return torch.where(columns >= 0, columns - torch.tensor(starts)[:, None], -1)
