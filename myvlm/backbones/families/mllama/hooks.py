"""Puts concept rows behind a picture's states where Mllama's cross-attentions look, by a hook.

The ids stay as they are: no token stands for a row. While tokens are generated the cross-attentions keep the
rows' keys and values in their cache beside the picture's, and only the mask has to know of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.frozen import Attached
from myvlm.errors import BackboneError


class CrossAttentionRows(Attached):
    """Context manager: within it every text token that may look at a picture may look at concept rows too.

    Args:
        language_model: the `MllamaTextModel`.
        rows: the concepts of each of `B` samples. The model may see `B × k` sequences (beams): sequence
            `i` is then sample `i // k`.

    Raises:
        BackboneError: within it, when the model sees other samples or no picture; at its end, when no row
            entered.
    """

    goal = "cross-attention"

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
        if not self._acts():
            return None
        mask, looking = kwargs.get("cross_attention_mask"), kwargs.get("full_text_row_masked_out_mask")
        copies, rest = divmod(0 if mask is None else len(mask), len(self.rows))
        if mask is None or looking is None or rest or not copies:
            raise BackboneError(
                "The model does not see the pictures that the concept rows are for.",
                got="no cross_attention_mask" if mask is None else f"{len(mask)} sequences",
                expected=f"a cross_attention_mask of {len(self.rows)} samples",
                fix="pass what the processor made of one picture for each list of rows",
            )
        given = {**kwargs, "cross_attention_mask": self._widened(mask, looking, copies)}
        states = kwargs.get("cross_attention_states")
        if states is not None:  # else they are in the cache
            self.passes += 1
            states = states.reshape(len(mask), -1, states.shape[-1])
            given["cross_attention_states"] = torch.cat([states, self._beside(states, mask, copies)], dim=1)
        return args, given

    def _widened(self, mask: Tensor, looking: Tensor, copies: int) -> Tensor:
        """An additive mask `B × 1 × S × L` with a column for each row, seen by the tokens that may look at a
        picture: `looking`, `B × 1 × S × 1`, is 1 for these. Those before it see what they saw."""
        columns = torch.arange(max(self.counts), device=mask.device)
        counts = torch.tensor(self.counts, device=mask.device).repeat_interleave(copies)
        own = columns < counts[:, None, None, None]
        seen = own & looking.to(mask.device).bool()
        lowest = torch.finfo(mask.dtype).min
        return torch.cat([mask, mask.new_zeros(seen.shape).masked_fill(~seen, lowest)], dim=-1)

    def _beside(self, states: Tensor, mask: Tensor, copies: int) -> Tensor:
        """`B × R × D`: each sequence's rows as they enter, padded with zeros that nothing sees."""
        entering = []
        for index, own in enumerate(states):
            # Of the last token, which always looks at the picture: empty tiles are no part of it.
            norms = visual_norms(own[mask[index, 0, -1].to(own.device) == 0])
            rows = [concept.entering(norms) for concept in self.rows[index // copies]]
            entering.append(torch.cat(rows).to(own) if rows else own[:0])
        return nn.utils.rnn.pad_sequence(entering, batch_first=True)
