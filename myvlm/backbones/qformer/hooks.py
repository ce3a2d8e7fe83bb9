"""Inserts concept rows into the input of a Q-Former, by hooks that are always removed.

The rows are appended to `encoder_hidden_states`. In every cross-attention layer their keys and values are
rescaled, at full width, to the mean norm of the picture's own (eq. 3 of https://arxiv.org/abs/2403.14599).
The attention of the queries is recomputed here, since transformers drops it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.frozen import RowInsertion, device_of
from myvlm.errors import BackboneError

SMALLEST = 1e-12
"""Lower bound for norms as divisors: rows that pad a batch are zero, and their keys may be too."""


@dataclass(frozen=True, eq=False)
class AppendedColumns:
    """The `R` columns appended to the `T` features of each picture of a batch; some may be padding.

    Args:
        tokens: number of features `T`.
        mask: `B × (T + R)` bool, false on padding.
        kept: `B × R` bool, true for rows whose keys and values are not rescaled (norm rule `none`, padding).
        by_first: `B × R` bool, true for rows whose keys and values get the norm of the picture's first.
    """

    tokens: int
    mask: Tensor
    kept: Tensor
    by_first: Tensor


class QFormerRows(RowInsertion):
    """Context manager: the Q-Former's queries also attend to concept rows.

    Args:
        qformer: a `Blip2QFormerModel`.
        rows: for each of the `B` pictures of its input, the rows of the concepts in it.
        record: whether to keep the attention of every query in `probabilities`.

    Attributes:
        probabilities: with `record`, one tensor `B × H × Q × (T + R)` per layer, at least float32.

    Raises:
        BackboneError: inside the block, if the Q-Former gets unexpected inputs; on exit, if it never ran.
    """

    destination = "Q-Former"

    def __init__(
        self,
        qformer: Any,
        rows: Sequence[Sequence[ConceptRows]],
        *,
        record: bool = False,
    ) -> None:
        super().__init__(qformer)
        self.qformer = qformer
        self.rows = rows
        self.record = record
        self.counts = [sum(concept.count for concept in sample) for sample in rows]
        self.probabilities: list[Tensor] = []
        self._appended: AppendedColumns | None = None
        self._query: Tensor | None = None

    @property
    def layers(self) -> list[Any]:
        """The cross-attention modules, each with linear layers `query`, `key` and `value`."""
        layers = self.qformer.encoder.layer
        return [layer.crossattention.attention for layer in layers if layer.has_cross_attention]

    def _attach(self) -> list[Any]:
        handles = [self.qformer.register_forward_pre_hook(self._append, with_kwargs=True)]
        for layer in self.layers:
            handles += [
                layer.query.register_forward_hook(self._record_query),
                layer.key.register_forward_hook(partial(self._rescale_key, layer)),
                layer.value.register_forward_hook(self._rescale_value),
            ]
        return handles

    def remove(self) -> None:
        super().remove()
        self._appended = self._query = None

    def _append(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._is_innermost():
            return None
        images = kwargs.get("encoder_hidden_states")
        if images is None or len(images) != len(self.rows):
            raise BackboneError(
                "The Q-Former did not receive the pictures for the concept rows.",
                got="no encoder_hidden_states" if images is None else f"{len(images)} pictures",
                expected=f"{len(self.rows)} pictures, as encoder_hidden_states",
                fix="pass as many pictures as lists of rows",
            )
        self.passes += 1
        # The Q-Former may be in float32 when the vision tower is not; it would do the same cast itself.
        images = images.to(dtype_of(self.qformer))
        beside = self._padded_rows(images)
        self._appended = self._appended_columns(images, kwargs.get("encoder_attention_mask"))
        return args, {
            **kwargs,
            "encoder_hidden_states": torch.cat([images, beside], dim=1),
            "encoder_attention_mask": self._appended.mask.long(),
        }

    def _padded_rows(self, images: Tensor) -> Tensor:
        """`B × R × D`: each picture's rescaled rows, padded with zeros."""
        entering = []
        for image, concepts in zip(images, self.rows, strict=True):
            norms = visual_norms(image)
            rows = [concept.entering(norms) for concept in concepts]
            entering.append(torch.cat(rows).to(images) if rows else images.new_zeros(0, images.shape[-1]))
        return nn.utils.rnn.pad_sequence(entering, batch_first=True)

    def _appended_columns(self, images: Tensor, mask: Tensor | None) -> AppendedColumns:
        """The columns after these `B × T × D` features; `mask` is `B × T`, 1 where these are visible."""
        most, device = max(self.counts), images.device
        rules = [
            [concept.norm for concept in concepts for _ in range(concept.count)] for concepts in self.rows
        ]
        table = [[*own, *["padding"] * (most - len(own))] for own in rules]

        def where(*names: str) -> Tensor:
            picked = [[rule in names for rule in own] for own in table]
            return torch.tensor(picked, dtype=torch.bool, device=device).reshape(len(table), most)

        seen = torch.ones(images.shape[:2], dtype=torch.bool, device=device) if mask is None else mask.bool()
        return AppendedColumns(
            images.shape[1],
            torch.cat([seen.to(device), ~where("padding")], dim=1),
            where("none", "padding"),
            where("first_patch"),
        )

    def _record_query(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.record and self._is_innermost():
            self._query = output

    def _rescale_key(
        self, layer: Any, module: nn.Module, args: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        if not self._is_innermost() or self._appended is None:
            return None
        key = rescaled(output, self._appended)
        if self._query is not None:
            query, self._query = self._query, None
            found = attention_probabilities(
                query, key, self._appended.mask, heads=layer.num_attention_heads, scale=layer.scaling
            )
            self.probabilities.append(found)
        return key

    def _rescale_value(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self._is_innermost() or self._appended is None:
            return None
        return rescaled(output, self._appended)

    def penalty(self) -> Tensor:
        """`Σ_layers mean(p²)` over heads, queries and a sample's rows (eq. 4); mean over samples with any."""
        if not self.probabilities:
            raise BackboneError(
                "The Q-Former's attention could not be recorded.",
                got="no cross-attention that called its linear layers",
                expected="layers with `query`, `key` and `value`, as in transformers' Blip2QFormerModel",
                fix="load the model without remote code",
            )
        device = self.probabilities[0].device
        counts = torch.tensor(self.counts, device=device)
        total = torch.zeros((), device=device, dtype=torch.float32)
        if not bool(counts.any()):
            return total
        most = max(self.counts)
        for probabilities in self.probabilities:
            # Padding is masked out: its probability is zero and does not change the sum.
            squares = probabilities[..., -most:].pow(2).mean((1, 2)).sum(1).to(device)
            total = total + (squares / counts.clamp(min=1))[counts > 0].mean()
        return total


def rescaled(states: Tensor, appended: AppendedColumns) -> Tensor:
    """Rescale the rows' keys or values in `B × (T + R) × A` to the mean norm of the picture's own (eq. 3).

    >>> states = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, 8.0]]])  # two of the picture, one of a concept
    >>> no = torch.tensor([[False]])
    >>> rescaled(states, AppendedColumns(2, torch.ones(1, 3).bool(), kept=no, by_first=no))[0, 2].tolist()
    [0.0, 2.0]
    """
    own, concept = states[:, : appended.tokens], states[:, appended.tokens :]
    wide = torch.promote_types(states.dtype, torch.float32)
    sizes = own.detach().to(wide).norm(dim=-1)
    kept, by_first = appended.kept.to(states.device), appended.by_first.to(states.device)
    targets = torch.where(by_first, sizes[:, :1], sizes.mean(1, keepdim=True))
    length = concept.to(wide).norm(dim=-1).clamp(min=SMALLEST)
    scaled = (concept.to(wide) * (targets / length)[..., None]).to(states.dtype)
    return torch.cat([own, torch.where(kept[..., None], concept, scaled)], dim=1)


def attention_probabilities(
    query: Tensor, key: Tensor, mask: Tensor | None, *, heads: int, scale: float
) -> Tensor:
    """The attention probabilities of a cross-attention, from its projected queries and keys.

    Args:
        query: `B × Q × A`, before the split into heads.
        key: `B × L × A`.
        mask: `B × L` bool, true where a key is visible; None if all are.
        heads: number of heads `H`.
        scale: factor of the scores.

    Returns: `B × H × Q × L`, at least float32.

    >>> query, key = torch.zeros(1, 1, 4), torch.zeros(1, 2, 4)
    >>> attention_probabilities(query, key, None, heads=2, scale=1.0).flatten().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    def split(states: Tensor) -> Tensor:
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        return wide.reshape(*wide.shape[:2], heads, -1).transpose(1, 2)

    scores = split(query) @ split(key).transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None].to(scores.device), -torch.inf)
    return scores.softmax(-1)


def value_path(qformer: Any, projection: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """`W × D`: the linear map from a feature to the language model along the values of all cross-attentions.

    Args:
        qformer: a `Blip2QFormerModel` that attends to features of width `D`.
        projection: the linear layer from its queries to the language model's width `W`.
        dtype: dtype of the input of `projection`; the Q-Former's may differ.
    """
    layers = [layer.crossattention for layer in qformer.encoder.layer if layer.has_cross_attention]
    value, wide = layers[0].attention.value, dtype_of(qformer)
    width = projection.out_features
    # By autograd and not from the weights, since these may be quantised or offloaded to disk.
    start = torch.zeros(width, value.in_features, dtype=wide, device=device_of(value), requires_grad=True)
    with torch.enable_grad():
        handed = projection(sum(at.output.dense(at.attention.value(start)) for at in layers).to(dtype))
    [path] = torch.autograd.grad(handed, start, torch.eye(width, dtype=dtype, device=handed.device))
    return path.float()


def dtype_of(qformer: Any) -> torch.dtype:
    """The floating point type of a Q-Former: that of its first layer norm, which may be in its embeddings."""
    holder = qformer if hasattr(qformer, "layernorm") else qformer.embeddings
    dtype: torch.dtype = holder.layernorm.weight.dtype
    return dtype


def features_of_words(path: Tensor, words: Tensor) -> Tensor:
    """Features that a value path maps to word embeddings `words` (`N × W`): `N × D`, unit mean square.

    Solved by ridge regression; the ridge is the path's mean squared singular value. It prevents huge features
    along directions that the path hardly passes on.

    >>> features_of_words(torch.diag(torch.tensor([1.0, 1.0, 0.0])), torch.tensor([[3.0, 4.0, 5.0]])) ** 2
    tensor([[1.0800, 1.9200, 0.0000]])
    """
    gram = path @ path.T
    ridge = gram.trace() / len(gram) * torch.eye(len(gram)).to(gram)
    found: Tensor = torch.linalg.solve(gram + ridge, words.T.to(gram)).T @ path
    return functional.normalize(found, dim=-1) * math.sqrt(path.shape[1])
