"""Records attention probabilities of chosen positions in a language model, and the penalty on them (§3.3).

Full attention maps are not built. While a recorder is active, transformers' own SDPA runs unchanged. In
addition, one small softmax is computed for the chosen queries, and only the chosen columns are kept. SDPA
cannot cap scores: language models that do (Gemma 2) are computed as in their own eager attention. A
configuration names one implementation for all threads, and each layer reads it at every call. In threads that
do not record, the recording implementation therefore runs the one configured before it, bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import Loss, SampleLosses
from myvlm.backbones.frozen import SharedChange
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import BackboneError, InputError


class RecordedIndices(NamedTuple):
    """Indices of the recorded probabilities, as tensors on one device.

    Args:
        queries: `B × Q` positions along the query axis; 0 at padding.
        keys: `B × 1 × 1 × K` columns along the key axis; 0 at padding.
        padding: `B × 1 × Q × K` bool, True where the query or the key is padding.
    """

    queries: Tensor
    keys: Tensor
    padding: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor) -> Self:
        """Build from `B × Q` and `B × K` indices; -1 is padding."""
        padding = (queries < 0)[:, None, :, None] | (keys < 0)[:, None, None, :]
        return cls(queries.clamp(min=0), keys.clamp(min=0)[:, None, None, :], padding)


@dataclass(eq=False)
class AttentionRecorder:
    """Attention probabilities of chosen queries at chosen keys, one tensor per layer of one forward pass.

    Args:
        config: configuration of the language model; the same object that its layers hold.
        queries: `B × Q` indices of the query positions; -1 is padding.
        keys: `B × K` indices of the key columns; -1 is padding.
        modules: the attention modules to record; None for every module that holds `config`.
        probabilities: one tensor per layer, `B × H × Q × K` float32, differentiable; zero at padding.
        all_queries: whether the tensors are `B × H × S × K`, of all queries, as fused layers produce.
    """

    config: Any
    queries: Tensor
    keys: Tensor
    modules: Collection[Any] | None = None
    probabilities: list[Tensor] = field(default_factory=list)
    all_queries: bool = False
    _biases: dict[Any, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    _indices: dict[torch.device, RecordedIndices] = field(default_factory=dict)

    def indices(self, device: torch.device) -> RecordedIndices:
        """The recorded indices on `device`, built once for all layers there."""
        if device not in self._indices:
            self._indices[device] = RecordedIndices.of(self.queries.to(device), self.keys.to(device))
        return self._indices[device]

    def bias(self, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """`attention_bias` of the recorded queries, built once for all layers that share a mask."""
        length, columns = query.shape[2], key.shape[2]
        cache_key = (id(mask), query.device, length, columns, causal)
        if cache_key not in self._biases:
            queries = self.queries.to(query.device)
            bias = attention_bias(mask, queries, length=length, columns=columns, causal=causal)
            self._biases[cache_key] = mask, bias  # keeps the mask alive, so that its id is not reused
        return self._biases[cache_key][1]

    def records(self, module: Any) -> bool:
        """Whether this attention module is recorded."""
        own = getattr(module, "config", None) is self.config
        return own and (self.modules is None or module in self.modules)

    def stacked(self) -> Tensor:
        """All recorded probabilities, `layers × B × H × Q × K`, on the first layer's device.

        Raises:
            BackboneError: nothing was recorded.
        """
        if not self.probabilities:
            raise BackboneError(
                "The language model's attention could not be recorded.",
                got="no layer that called the configured attention implementation",
                expected="layers that use transformers' AttentionInterface",
                fix="load the model with attn_implementation='sdpa', without remote code",
            )
        device = self.probabilities[0].device
        layers = torch.stack([layer.to(device) for layer in self.probabilities])
        return self.select_queries(layers) if self.all_queries else layers

    def select_queries(self, full: Tensor) -> Tensor:
        """Select the recorded queries from probabilities of all queries, `… × B × H × S × K`."""
        indices = self.indices(full.device)
        rows = indices.queries[:, None, :, None].expand(*full.shape[:-2], -1, full.shape[-1])
        return full.gather(-2, rows).masked_fill(indices.padding, 0.0)


_RECORDER: ContextVar[AttentionRecorder | None] = ContextVar("myvlm_attention_recorder", default=None)


@contextmanager
def record_attention(
    config: Any, *, queries: Tensor, keys: Tensor, modules: Collection[Any] | None = None
) -> Iterator[AttentionRecorder]:
    """Record the attention probabilities of `queries` at `keys` in every layer that holds `config`.

    The layers' output equals SDPA's bit for bit; eager models run SDPA while recording. On exit the previous
    implementation is restored. A nested recorder replaces the outer one until it exits.

    Args:
        config: configuration of the language model (`language_model.config`), not of the vision tower.
        queries: `B × Q` long, positions along the query axis; -1 is padding.
        keys: `B × K` long, columns along the key axis, which a cache makes longer; -1 is padding.
        modules: the attention modules to record; None for all.

    Yields: the `AttentionRecorder`; each layer appends to its `probabilities`.

    Raises:
        InputError: `queries` and `keys` are not two integer matrices with equal numbers of rows.
    """
    if queries.ndim != 2 or keys.ndim != 2 or len(queries) != len(keys) or queries.is_floating_point():
        raise InputError(
            "The positions to record are not two integer matrices of equal height.",
            got=f"queries {tuple(queries.shape)} {queries.dtype}, keys {tuple(keys.shape)} {keys.dtype}",
            expected="queries (B, Q) and keys (B, K), int64",
            fix="pad shorter samples with -1",
        )
    recorder = AttentionRecorder(config, queries, keys, modules)
    token = _RECORDER.set(recorder)
    try:
        with _select_recording(config):
            yield recorder
    finally:
        _RECORDER.reset(token)


@SharedChange
@contextmanager
def _select_recording(config: Any) -> Iterator[None]:
    """Select the recording implementation, and restore the previous one on exit."""
    before = config._attn_implementation
    config._attn_implementation = recording_over(before)
    try:
        yield
    finally:
        config._attn_implementation = before


def recording_over(before: str | None) -> str:
    """Name of the implementation that records in threads with a recorder and runs `before` in all others.

    The first call registers it with transformers. "flash" in the name is replaced: transformers would take it
    for a flash-attention implementation.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    name = f"myvlm_recording_over_{before}".replace("flash", "fast")
    if name not in AttentionInterface():
        # An implementation without a registered mask function gets no mask at all: a padded batch is
        # then wrong, with no error.
        AttentionMaskInterface.register(name, partial(_dispatch_mask, AttentionMaskInterface().get(before)))
        AttentionInterface.register(name, partial(_dispatch_attention, before))
    return name


def _dispatch_mask(before: Callable[..., Any] | None, **arguments: Any) -> Any:
    """SDPA's mask if this thread records, else the mask of the previous implementation, if it has one."""
    from transformers import AttentionMaskInterface

    if _RECORDER.get() is not None:
        return AttentionMaskInterface()["sdpa"](**arguments)
    return before(**arguments) if before else None


def _dispatch_attention(before: str | None, module: Any, *given: Any, **options: Any) -> tuple[Tensor, Any]:
    """Recording SDPA if this thread records, else the previous implementation."""
    layer: Any = type(module)
    run = _recording_sdpa if _RECORDER.get() is not None else _attention_function(before, layer)
    result: tuple[Tensor, Any] = run(module, *given, **options)
    return result


@cache
def _attention_function(implementation: str | None, layer: Any) -> Callable[..., Any]:
    """The function that layers of a class call under this implementation name.

    The eager function is in no registry: it is found in the layers' own module.
    """
    from transformers import AttentionInterface

    for kind in layer.__mro__:
        forward: Any = inspect.unwrap(vars(kind)["forward"]) if "forward" in vars(kind) else None
        for name in forward.__code__.co_names if inspect.isfunction(forward) else ():
            if name.endswith("eager_attention_forward"):
                known = forward.__globals__.get("ALL_ATTENTION_FUNCTIONS", AttentionInterface())
                named: Callable[..., Any] = known.get(implementation, forward.__globals__[name])
                return named
    return AttentionInterface().get(implementation, AttentionInterface()["sdpa"])  # type: ignore[no-any-return]


def _recording_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """SDPA as transformers runs it; in recorded layers, also append the chosen columns to the recorder."""
    from transformers import AttentionInterface

    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    softcap = options.get("softcap")
    if softcap is None:
        output, _ = AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **options)
    else:
        output = soft_capped_attention(
            query, key, value, attention_mask, scale=scale, softcap=softcap, causal=causal
        )
    recorder = _RECORDER.get()
    if recorder is not None and recorder.records(module):
        recorder.probabilities.append(
            attention_columns(
                query,
                key,
                recorder.bias(attention_mask, query, key, causal),
                indices=recorder.indices(query.device),
                scale=scale,
                softcap=softcap,
            )
        )
    return output, None


def soft_capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float,
    causal: bool,
) -> Tensor:
    """Attention with soft-capped scores, see `soft_cap`: `B × S × H × d`.

    Args:
        query, key, value: `B × H × S × d`, `B × G × L × d`, `B × G × L × d`.
        mask, causal: as in `attention_bias`.
    """
    batch, heads, length, _ = query.shape
    columns = key.shape[2]
    every = torch.arange(length, device=query.device).expand(batch, -1)
    bias = attention_bias(mask, every, length=length, columns=columns, causal=causal)
    key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    scores = soft_cap(query @ key.transpose(-1, -2) * scale, softcap)
    probabilities = (scores + bias.to(scores.dtype)).softmax(-1, dtype=torch.float32)
    return (probabilities.to(query.dtype) @ value).transpose(1, 2).contiguous()


def soft_cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Soft-cap scores at ±`softcap`; unchanged if it is None.

    >>> soft_cap(torch.tensor([0.0, 1000.0]), 50.0).tolist(), soft_cap(torch.tensor([9.0]), None).tolist()
    ([0.0, 50.0], [9.0])
    """
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def attention_columns(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    *,
    indices: RecordedIndices,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """The attention probabilities of chosen queries at chosen keys.

    Args:
        query: `B × H × S × d`.
        key: `B × G × L × d`, `G` key/value heads, `H` a multiple of `G`.
        bias: `B × 1 × Q × L` float32, added to the scores; see `attention_bias`.
        indices: positions of `Q` queries and `K` keys.
        scale: factor of the scores.
        softcap: the limit that scores are soft-capped at, if any.

    Returns: `B × H × Q × K` float32; zero at padding.

    >>> one, last = torch.zeros(1, 2, 4, 8), torch.tensor([[3]])
    >>> bias = attention_bias(None, last, length=4, columns=4, causal=True)
    >>> indices = RecordedIndices.of(last, torch.tensor([[0, -1]]))
    >>> attention_columns(one, one, bias, indices=indices, scale=1.0)[0, :, 0].tolist()
    [[0.25, 0.0], [0.25, 0.0]]
    """
    batch, heads, _, width = query.shape
    groups, columns, chosen = key.shape[1], key.shape[2], indices.queries
    picked = query.gather(2, chosen[:, None, :, None].expand(-1, heads, -1, width))
    # Group the query heads that share a key head: the keys need not be repeated.
    grouped = picked.reshape(batch, groups, -1, width)
    half = query.dtype.itemsize == 2
    product = _Float32Product.apply(grouped.flatten(0, 1), key.flatten(0, 1)) if half else grouped @ key.mT
    scores = product.reshape(batch, heads, chosen.shape[1], columns) * scale
    probabilities = (soft_cap(scores, softcap).float() + bias).softmax(-1)
    index = indices.keys.expand(-1, heads, chosen.shape[1], -1)
    return probabilities.gather(-1, index).masked_fill(indices.padding, 0.0)


class _Float32Product(torch.autograd.Function):
    """`N × Q × L` float32 products of half-precision queries `N × Q × d` and keys `N × L × d`.

    In half precision, and before scaling, float16 products can overflow and bfloat16 products can be off by
    whole units. No float32 copy of the keys is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        ctx.save_for_backward(query, key)
        with torch.autocast(query.device.type, enabled=False):  # autocast would make it half precision
            return query.float() @ key.float().mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        gradient = gradient.float()
        grad_query, grad_key = gradient @ key.float(), gradient.mT @ query.float()
        return grad_query.to(query.dtype), grad_key.to(key.dtype)


def attention_bias(
    mask: Tensor | None, queries: Tensor, *, length: int, columns: int, causal: bool
) -> Tensor:
    """The additive mask of chosen queries, to be added to their scores: `B × 1 × Q × L` float32.

    Masked columns get the lowest finite number: with -inf, padding rows that attend to nothing would be NaN.

    Args:
        mask: None, or `B × 1 × S × L`, bool (True attends) or additive, as SDPA takes it.
        queries: `B × Q` positions in `S`; padding, -1, is treated as 0.
        length, columns: `S` and `L`.
        causal: whether `mask=None` means a causal mask.
    """
    rows, lowest = queries.clamp(min=0), torch.finfo(torch.float32).min
    if mask is None:
        # As in SDPA: the causal triangle is aligned to the upper left, and a single query sees all columns.
        position = torch.arange(columns, device=rows.device)
        bias = torch.zeros(len(rows), 1, rows.shape[1], columns, device=rows.device, dtype=torch.float32)
        return bias.masked_fill_(position > rows[:, None, :, None], lowest) if causal and length > 1 else bias
    mask = mask[..., :columns].expand(len(rows), -1, -1, -1)
    picked = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1]))
    if picked.dtype == torch.bool:
        return torch.zeros_like(picked, dtype=torch.float32).masked_fill_(~picked, lowest)
    return picked.float().clamp(min=lowest)


def objective(logits: Tensor, targets: Tensor, probabilities: Tensor, queries: Tensor, keys: Tensor) -> Loss:
    """Cross-entropy of logits `B × N × V` against the `B × N` next tokens, and the attention penalty.

    The penalty is `Σ_layers mean(p²)` over heads, queries and keys, averaged over the samples that have any.

    Args:
        probabilities: `layers × B × H × Q × K` recorded probabilities, zero at padding.
        queries: `B × Q`; -1 is padding.
        keys: `B × K`; -1 is padding.
    """
    targets = targets.to(logits.device)
    # Shared by the batch loss and the per-sample losses: it is as wide as the vocabulary.
    log_probabilities = logits.flatten(0, 1).float().log_softmax(-1)
    token_loss = partial(functional.nll_loss, log_probabilities, targets.flatten(), ignore_index=IGNORED)
    pairs = ((queries >= 0).sum(1) * (keys >= 0).sum(1)).to(logits.device)
    attention = probabilities.pow(2).mean(2).sum((0, 2, 3)).to(logits.device) / pairs.clamp(min=1)

    def by_sample() -> SampleLosses:
        return SampleLosses(token_loss(reduction="none").view_as(targets), targets, attention)

    return Loss(token_loss(), attention.sum() / (pairs > 0).sum().clamp(min=1), by_sample)
