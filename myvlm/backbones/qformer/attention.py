"""Records the attention of a BLIP-2's language model to the Q-Former's query tokens, at one token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from myvlm.backbones.causal.attention import record_attention
from myvlm.backbones.frozen import in_this_thread
from myvlm.backbones.qformer.hooks import attention_probabilities
from myvlm.errors import BackboneError


@contextmanager
def query_token_attention(
    language_model: Any, *, causal: bool, position: int, image_tokens: int
) -> Iterator[list[Tensor]]:
    """Context manager that records the attention of one position to each query token, in every layer.

    Args:
        language_model: must run once inside, on one sample without padding that begins with the picture.
        causal: whether it is a causal model; otherwise the decoder's cross-attention is recorded.
        position: index of the attending position; in an encoder-decoder model, in the decoder's sequence.
        image_tokens: number of query tokens `Q`.

    Yields: a list that is filled on exit with one tensor `Q` per layer, the mean over heads.

    Raises:
        BackboneError: no layer could be recorded.
    """
    found: list[Tensor] = []
    if causal:
        queries, keys = torch.tensor([[position]]), torch.arange(image_tokens)[None]
        with record_attention(language_model.config, queries=queries, keys=keys) as recorder:
            yield found
        found.extend(layer[0, :, 0].mean(0) for layer in recorder.probabilities)
    else:
        with ExitStack() as hooks:
            for module in language_model.decoder.modules():
                if hasattr(module, "EncDecAttention"):
                    _record_cross_attention(hooks, module.EncDecAttention, found, position, image_tokens)
            yield found
    if not found:
        raise BackboneError(
            "The language model's attention could not be recorded.",
            got="no supported layer",
            expected="OPT with attn_implementation='sdpa', or T5",
            fix="load the model without remote code",
        )


def _record_cross_attention(
    hooks: ExitStack, layer: Any, found: list[Tensor], position: int, image_tokens: int
) -> None:
    """Hook the linear layers of one T5 cross-attention, which has no position bias."""
    queries: list[Tensor] = []

    def see_query(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        queries[:] = [output[:, position : position + 1]]

    def see_key(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        probabilities = attention_probabilities(
            queries[0], output, None, heads=layer.n_heads, scale=layer.scaling
        )
        found.append(probabilities[0, :, 0, :image_tokens].mean(0))

    for linear, hook in ((layer.q, see_query), (layer.k, see_key)):
        hooks.callback(linear.register_forward_hook(in_this_thread(hook)).remove)
