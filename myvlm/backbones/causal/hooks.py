"""Inserts concept rows into the input of a frozen language model, with two hooks that are always removed.

The prompt contains a run of sentinel ids after its last image placeholder. One hook, on the module that takes
the ids, remembers their positions. The other, before the language model, overwrites the embeddings at those
positions. By then the model has inserted the visual tokens, so their norm can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.frozen import RowInsertion
from myvlm.errors import BackboneError


@dataclass(frozen=True)
class RowPositions:
    """Positions in a batch of ids.

    Args:
        images: `B × S` bool, True at image placeholders.
        batch, column: sequence and position of each concept row, `N` each.
        sample: for each sequence, the index of its sample; beams share one.
    """

    images: Tensor
    batch: Tensor
    column: Tensor
    sample: list[int]


class InsertedRows(RowInsertion):
    """Context manager that replaces sentinel ids in the model's input by concept rows.

    Args:
        reader: the module that takes the ids: the model's input embeddings, or the whole model if it passes
            its embeddings other ids at the positions of images (Gemma 4).
        language_model: the module that takes `inputs_embeds`.
        rows: the concepts of each of `B` samples. The model may run `B × k` sequences (beams): sequence `i`
            then belongs to sample `i // k`.
        image_id: id of the image placeholder.
        sentinel_id: id at the positions of concept rows.
        sentinels: the number of sentinel ids of each sample, if there can be more than its rows: the text
            itself may contain some when the sentinel is the unknown-word token.

    Raises:
        BackboneError: a forward pass gets unexpected ids; or, on exit, none went through the hooks.
    """

    destination = "language model"

    def __init__(
        self,
        reader: nn.Module,
        language_model: nn.Module,
        rows: Sequence[Sequence[ConceptRows]],
        *,
        image_id: int,
        sentinel_id: int,
        sentinels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(language_model)
        self.reader = reader
        self.language_model = language_model
        self.rows = rows
        self.image_id = image_id
        self.sentinel_id = sentinel_id
        self.counts = [sum(concept.count for concept in sample) for sample in rows]
        self.sentinels = list(sentinels) if sentinels is not None else self.counts
        self._positions: RowPositions | None = None

    def _attach(self) -> list[Any]:
        return [
            self.reader.register_forward_pre_hook(self._remember_positions, with_kwargs=True),
            self.language_model.register_forward_pre_hook(self._write_rows, with_kwargs=True),
        ]

    def remove(self) -> None:
        super().remove()
        self._positions = None

    def _remember_positions(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input", kwargs.get("input_ids"))
        if self._is_innermost() and ids is not None and ids.ndim == 2:
            self._positions = self._find_positions(ids)

    def _find_positions(self, ids: Tensor) -> RowPositions | None:
        """The positions of the rows in `ids` (`B·k × S`); None while decoding: the rows are in the cache."""
        if self.passes and ids.shape[1] == 1:
            return None
        images, sentinels = ids == self.image_id, ids == self.sentinel_id
        if self.passes and not bool(images.any() | sentinels.any()):
            return None
        copies, rest = divmod(ids.shape[0], len(self.rows))
        expected = [count for count in self.sentinels for _ in range(copies)]
        found = sentinels.sum(1).tolist()
        if rest or found != expected:
            raise _misplaced(f"{found} sentinel ids", f"{expected}")
        columns = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(images, columns, -1).amax(1).tolist()
        sample = [index // copies for index in range(ids.shape[0])]
        spots = [
            (index, last[index] + 1 + row)
            for index in range(ids.shape[0])
            for row in range(self.counts[sample[index]])
        ]
        batch, column = torch.tensor(spots, dtype=torch.long, device=ids.device).reshape(-1, 2).unbind(1)
        if (
            -1 in last
            or (spots and int(column.max()) >= ids.shape[1])
            or not bool(sentinels[batch, column].all())
        ):
            raise _misplaced(
                "rows in other positions", "every sample's rows right after its last image placeholder"
            )
        return RowPositions(images, batch, column, sample)

    def _write_rows(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._is_innermost() or self._positions is None:
            return None
        positions, self._positions = self._positions, None
        embeds = kwargs.get("inputs_embeds")
        if embeds is None or embeds.shape[:2] != positions.images.shape:
            raise BackboneError(
                "The language model did not receive the embeddings from its embedding table.",
                got=None if embeds is None else tuple(embeds.shape[:2]),
                expected=f"inputs_embeds of {tuple(positions.images.shape)}",
                fix="report the model class: its adapter does not fit this release of transformers",
            )
        self.passes += 1
        if not positions.batch.numel():
            return None
        values = self._values(embeds, positions).to(embeds.dtype)
        return args, {
            **kwargs,
            "inputs_embeds": embeds.index_put((positions.batch, positions.column), values),
        }

    def _values(self, embeds: Tensor, positions: RowPositions) -> Tensor:
        """The rows as they enter the model, `N × D` float32, each with the norm that its concept sets."""
        values: list[Tensor] = []
        for index, sample in enumerate(positions.sample):
            norms = visual_norms(embeds[index, positions.images[index]])
            values.extend(concept.entering(norms) for concept in self.rows[sample])
        return torch.cat(values)


def _misplaced(got: str, expected: str) -> BackboneError:
    return BackboneError(
        "The placeholders for concept rows are in the wrong positions.",
        got=got,
        expected=expected,
        fix="pass the prompt through the backbone's own methods, and do not chunk the prefill",
    )
