"""Appends concept rows to the picture's states that Mllama's cross-attentions attend to, by a hook.

The token ids do not change, as no token stands for a row. During generation the cross-attentions keep keys
and values of rows in their cache, as those of the picture, so only the mask has to be extended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.frozen import RowInsertion
from myvlm.errors import BackboneError


class CrossAttentionRows(RowInsertion):
    """Context manager: every text token that may attend to a picture may attend to concept rows too.

    Args:
        language_model: the `MllamaTextModel`.
        rows: rows of the concepts in each of `B` samples. The model may get `B × k` sequences (beams):
            sequence `i` then belongs to sample `i // k`.

    Raises:
        BackboneError: inside the block, if the model gets other samples or no picture; on exit, if no rows
            were inserted.
    """

    destination = "cross-attention"

    def __init__(self, language_model: nn.Module, rows: Sequence[Sequence[ConceptRows]]) -> None:
        super().__init__(language_model)
        self.language_model = language_model
        self.rows = rows
        self.counts = [sum(concept.count for concept in sample) for sample in rows]

    def _attach(self) -> list[Any]:
        return [self.language_model.register_forward_pre_hook(self._append, with_kwargs=True)]

    def _append(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._is_innermost():
            return None
        mask, looking = kwargs.get("cross_attention_mask"), kwargs.get("full_text_row_masked_out_mask")
        copies, rest = divmod(0 if mask is None else len(mask), len(self.rows))
        if mask is None or looking is None or rest or not copies:
            raise BackboneError(
                "The model did not receive the pictures for the concept rows.",
                got="no cross_attention_mask" if mask is None else f"{len(mask)} sequences",
                expected=f"a cross_attention_mask of {len(self.rows)} samples",
                fix="pass the processor's output for one picture per list of rows",
            )
        given = {**kwargs, "cross_attention_mask": self._extended_mask(mask, looking, copies)}
        states = kwargs.get("cross_attention_states")
        if states is not None:  # otherwise they are in the cache
            self.passes += 1
            states = states.reshape(len(mask), -1, states.shape[-1])
            given["cross_attention_states"] = torch.cat(
                [states, self._padded_rows(states, mask, copies)], dim=1
            )
        return args, given

    def _extended_mask(self, mask: Tensor, looking: Tensor, copies: int) -> Tensor:
        """Extend an additive mask `B × 1 × S × L` by a column per row, visible to the tokens that may attend
        to a picture: `looking`, `B × 1 × S × 1`, is 1 for these. Earlier tokens are not affected."""
        columns = torch.arange(max(self.counts), device=mask.device)
        counts = torch.tensor(self.counts, device=mask.device).repeat_interleave(copies)
        own = columns < counts[:, None, None, None]
        seen = own & looking.to(mask.device).bool()
        lowest = torch.finfo(mask.dtype).min
        return torch.cat([mask, mask.new_zeros(seen.shape).masked_fill(~seen, lowest)], dim=-1)

    def _padded_rows(self, states: Tensor, mask: Tensor, copies: int) -> Tensor:
        """`B × R × D`: each sequence's rescaled rows, padded with zeros, which the mask hides."""
        entering = []
        for index, own in enumerate(states):
            # The mask of the last token, which always attends to the picture, excludes empty tiles.
            norms = visual_norms(own[mask[index, 0, -1].to(own.device) == 0])
            rows = [concept.entering(norms) for concept in self.rows[index // copies]]
            entering.append(torch.cat(rows).to(own) if rows else own[:0])
        return nn.utils.rnn.pad_sequence(entering, batch_first=True)
