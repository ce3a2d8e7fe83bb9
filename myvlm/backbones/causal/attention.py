"""Records what chosen positions attend to in a language model, and the loss that keeps it low (§3.3).

Whole attention maps are not built. While a recorder is active, transformers' own SDPA runs unchanged, and
beside it one small softmax for the chosen queries, of which only the chosen columns are kept. SDPA cannot cap
scores: a language model that does (Gemma 2) runs as its own eager attention does. A configuration names one
implementation for all threads, and each layer reads it anew: in threads that do not record, what is named
meanwhile runs what was named before, to the bit.
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
from myvlm.backbones.frozen import ChangedWhileUsed
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import BackboneError, InputError


class Places(NamedTuple):
    """Which probabilities are recorded, on one device.

    Args:
        queries: `B × Q` positions along the query axis, 0 for none.
        keys: `B × 1 × 1 × K` columns along the key axis, 0 for none.
        none: `B × 1 × Q × K` bool, where the query or the key is none.
    """

    queries: Tensor
    keys: Tensor
    none: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor) -> Self:
        """From `B × Q` and `B × K` indices, -1 for none."""
        none = (queries < 0)[:, None, :, None] | (keys < 0)[:, None, None, :]
        return cls(queries.clamp(min=0), keys.clamp(min=0)[:, None, None, :], none)


@dataclass(eq=False)
class AttentionRecorder:
    """The probabilities that chosen queries gave to chosen keys, layer by layer, in one forward pass.

    Args:
        config: configuration object of the language model, the very one that its layers hold.
        queries: `B × Q` indices of the query positions; -1 is none.
        keys: `B × K` indices of the key columns; -1 is none.
        modules: the attentions that are recorded; None for every one that holds `config`.
        probabilities: one tensor a layer, `B × H × Q × K` float32, differentiable; zero at a -1.
        of_every_query: whether they are `B × H × S × K` of all queries instead, as fused layers give them.
    """

    config: Any
    queries: Tensor
    keys: Tensor
    modules: Collection[Any] | None = None
    probabilities: list[Tensor] = field(default_factory=list)
    of_every_query: bool = False
    _biases: dict[Any, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    _places: dict[torch.device, Places] = field(default_factory=dict)

    def places(self, device: torch.device) -> Places:
        """The recorded places, made once for all layers of a device."""
        if device not in self._places:
            self._places[device] = Places.of(self.queries.to(device), self.keys.to(device))
        return self._places[device]

    def bias(self, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """`attention_bias` of the recorded queries; layers that are given one mask have it made once."""
        length, columns = query.shape[2], key.shape[2]
        wanted = (id(mask), query.device, length, columns, causal)
        if wanted not in self._biases:
            queries = self.queries.to(query.device)
            bias = attention_bias(mask, queries, length=length, columns=columns, causal=causal)
            self._biases[wanted] = mask, bias  # the mask is held, so that no other gets its id
        return self._biases[wanted][1]

    def records(self, module: Any) -> bool:
        """Whether an attention is one of those that are recorded."""
        own = getattr(module, "config", None) is self.config
        return own and (self.modules is None or module in self.modules)

    def stacked(self) -> Tensor:
        """All that was recorded, `layers × B × H × Q × K`, on the first layer's device.

        Raises:
            BackboneError: nothing was.
        """
        if not self.probabilities:
            raise BackboneError(
                "The language model's attention could not be recorded.",
                got="no layer called the attention that its configuration names",
                expected="layers that look their attention up in transformers' AttentionInterface",
                fix="load the model with attn_implementation='sdpa', without remote code",
            )
        device = self.probabilities[0].device
        layers = torch.stack([layer.to(device) for layer in self.probabilities])
        return self.picked(layers) if self.of_every_query else layers

    def picked(self, every: Tensor) -> Tensor:
        """Of probabilities of every query, `… × B × H × S × K`, those that are recorded."""
        places = self.places(every.device)
        rows = places.queries[:, None, :, None].expand(*every.shape[:-2], -1, every.shape[-1])
        return every.gather(-2, rows).masked_fill(places.none, 0.0)


_RECORDER: ContextVar[AttentionRecorder | None] = ContextVar("myvlm_attention_recorder", default=None)


@contextmanager
def record_attention(
    config: Any, *, queries: Tensor, keys: Tensor, modules: Collection[Any] | None = None
) -> Iterator[AttentionRecorder]:
    """Within it, every layer that holds `config` records the probability that `queries` give to `keys`.

    The output of the layers is bit for bit SDPA's; eager models run SDPA meanwhile. Afterwards the
    configured implementation is what it was. A nested recorder records instead of the outer one.

    Args:
        config: configuration of the language model (`language_model.config`), not of the vision tower.
        queries: `B × Q` long, positions along the query axis; -1 is none.
        keys: `B × K` long, columns along the key axis (with a cache that is longer); -1 is none.
        modules: the attentions to record, where not all of them are meant.

    Yields: the `AttentionRecorder`; its `probabilities` are filled layer by layer.

    Raises:
        InputError: `queries` and `keys` are not two integer matrices of one height.
    """
    if queries.ndim != 2 or keys.ndim != 2 or len(queries) != len(keys) or queries.is_floating_point():
        raise InputError(
            "The positions to record are not two integer matrices of one height.",
            got=f"queries {tuple(queries.shape)} {queries.dtype}, keys {tuple(keys.shape)} {keys.dtype}",
            expected="queries (B, Q) and keys (B, K), int64",
            fix="pad shorter samples with -1",
        )
    recorder = AttentionRecorder(config, queries, keys, modules)
    token = _RECORDER.set(recorder)
    try:
        with _switched(config):
            yield recorder
    finally:
        _RECORDER.reset(token)


@ChangedWhileUsed
@contextmanager
def _switched(config: Any) -> Iterator[None]:
    """Within it the recording implementation is selected."""
    before = config._attn_implementation
    config._attn_implementation = recording_over(before)
    try:
        yield
    finally:
        config._attn_implementation = before


def recording_over(before: str | None) -> str:
    """The implementation that records, in threads that do, and in all others is the one before.

    It is made known to transformers when it is first asked for. Its name holds no "flash": transformers would
    take it for one of that kind.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    name = f"myvlm_recording_over_{before}".replace("flash", "fast")
    if name not in AttentionInterface():
        # Without a mask function of its own an implementation gets no mask at all, and a padded
        # batch is wrong without any error.
        AttentionMaskInterface.register(name, partial(_mask, AttentionMaskInterface().get(before)))
        AttentionInterface.register(name, partial(_attention, before))
    return name


def _mask(before: Callable[..., Any] | None, **arguments: Any) -> Any:
    """SDPA's mask where this thread records, else that of the implementation before, if it has any."""
    from transformers import AttentionMaskInterface

    if _RECORDER.get() is not None:
        return AttentionMaskInterface()["sdpa"](**arguments)
    return before(**arguments) if before else None


def _attention(before: str | None, module: Any, *given: Any, **options: Any) -> tuple[Tensor, Any]:
    """The recording SDPA where this thread records, else the implementation before."""
    layer: Any = type(module)
    run = _recording_sdpa if _RECORDER.get() is not None else _named(before, layer)
    result: tuple[Tensor, Any] = run(module, *given, **options)
    return result


@cache
def _named(implementation: str | None, layer: Any) -> Callable[..., Any]:
    """What layers of a class call under that name; the eager one is of their own file, and in no registry."""
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
    """SDPA as transformers runs it; beside it, for the layers of the recorder's model, the chosen columns."""
    from transformers import AttentionInterface

    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    softcap = options.get("softcap")
    if softcap is None:
        output, _ = AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **options)
    else:
        output = capped_attention(
            query, key, value, attention_mask, scale=scale, softcap=softcap, causal=causal
        )
    recorder = _RECORDER.get()
    if recorder is not None and recorder.records(module):
        recorder.probabilities.append(
            attention_columns(
                query,
                key,
                recorder.bias(attention_mask, query, key, causal),
                places=recorder.places(query.device),
                scale=scale,
                softcap=softcap,
            )
        )
    return output, None


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float,
    causal: bool,
) -> Tensor:
    """Attention whose scores are capped, as `capped` does it: `B × S × H × d`.

    Args:
        query, key, value: `B × H × S × d`, `B × G × L × d`, `B × G × L × d`.
        mask, causal: as in `attention_bias`.
    """
    batch, heads, length, _ = query.shape
    columns = key.shape[2]
    every = torch.arange(length, device=query.device).expand(batch, -1)
    bias = attention_bias(mask, every, length=length, columns=columns, causal=causal)
    key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    scores = capped(query @ key.transpose(-1, -2) * scale, softcap)
    probabilities = (scores + bias.to(scores.dtype)).softmax(-1, dtype=torch.float32)
    return (probabilities.to(query.dtype) @ value).transpose(1, 2).contiguous()


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores that no longer grow beyond a limit; themselves where there is none.

    >>> capped(torch.tensor([0.0, 1000.0]), 50.0).tolist(), capped(torch.tensor([9.0]), None).tolist()
    ([0.0, 50.0], [9.0])
    """
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def attention_columns(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    *,
    places: Places,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """The attention probabilities of some queries at some keys.

    Args:
        query: `B × H × S × d`.
        key: `B × G × L × d`, `G` key/value heads, `H` a multiple of `G`.
        bias: `B × 1 × Q × L` float32, what is added to the scores: `attention_bias`.
        places: of `Q` queries and `K` keys.
        scale: factor of the scores.
        softcap: what the scores are capped at, if at anything.

    Returns: `B × H × Q × K` float32; zero where there is none.

    >>> one, last = torch.zeros(1, 2, 4, 8), torch.tensor([[3]])
    >>> bias = attention_bias(None, last, length=4, columns=4, causal=True)
    >>> places = Places.of(last, torch.tensor([[0, -1]]))
    >>> attention_columns(one, one, bias, places=places, scale=1.0)[0, :, 0].tolist()
    [[0.25, 0.0], [0.25, 0.0]]
    """
    batch, heads, _, width = query.shape
    groups, columns, chosen = key.shape[1], key.shape[2], places.queries
    picked = query.gather(2, chosen[:, None, :, None].expand(-1, heads, -1, width))
    # Query heads side by side over their shared key head: no repeated copy of the keys.
    grouped = picked.reshape(batch, groups, -1, width)
    half = query.dtype.itemsize == 2
    product = _ProductInFull.apply(grouped.flatten(0, 1), key.flatten(0, 1)) if half else grouped @ key.mT
    scores = product.reshape(batch, heads, chosen.shape[1], columns) * scale
    probabilities = (capped(scores, softcap).float() + bias).softmax(-1)
    index = places.keys.expand(-1, heads, chosen.shape[1], -1)
    return probabilities.gather(-1, index).masked_fill(places.none, 0.0)


class _ProductInFull(torch.autograd.Function):
    """`N × Q × L` float32 products of queries `N × Q × d` and keys `N × L × d` in half precision.

    In their own precision, and before they are scaled, those of float16 can be infinite and those of bfloat16
    off by whole units. Of the keys no wider copy is kept for the way back.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        ctx.save_for_backward(query, key)
        with torch.autocast(query.device.type, enabled=False):  # which would make it half again
            return query.float() @ key.float().mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        gradient = gradient.float()
        of_query, of_key = gradient @ key.float(), gradient.mT @ query.float()
        return of_query.to(query.dtype), of_key.to(key.dtype)


def attention_bias(
    mask: Tensor | None, queries: Tensor, *, length: int, columns: int, causal: bool
) -> Tensor:
    """What a mask adds to the scores of some queries: `B × 1 × Q × L` float32.

    The lowest finite number, not -inf, forbids: a padding row that attends to nothing stays a number.

    Args:
        mask: None, or `B × 1 × S × L`, bool (True attends) or additive, as SDPA takes it.
        queries: `B × Q` positions in `S`; -1, which is none, is taken as 0.
        length, columns: `S` and `L`.
        causal: whether a missing mask means a causal one.
    """
    rows, lowest = queries.clamp(min=0), torch.finfo(torch.float32).min
    if mask is None:
        # As SDPA does it: the causal triangle starts at the upper left, and one query alone sees all.
        position = torch.arange(columns, device=rows.device)
        bias = torch.zeros(len(rows), 1, rows.shape[1], columns, device=rows.device, dtype=torch.float32)
        return bias.masked_fill_(position > rows[:, None, :, None], lowest) if causal and length > 1 else bias
    mask = mask[..., :columns].expand(len(rows), -1, -1, -1)
    picked = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1]))
    if picked.dtype == torch.bool:
        return torch.zeros_like(picked, dtype=torch.float32).masked_fill_(~picked, lowest)
    return picked.float().clamp(min=lowest)


def objective(logits: Tensor, targets: Tensor, given: Tensor, queries: Tensor, keys: Tensor) -> Loss:
    """Cross-entropy of logits `B × N × V` against the `B × N` tokens that follow, and the penalty.

    This is `Σ_layers mean(p²)` over heads, queries and keys, the mean over the samples that have any.

    Args:
        given: `layers × B × H × Q × K` probabilities, zero at a -1.
        queries: `B × Q`; -1 is none.
        keys: `B × K`; -1 is none.
    """
    targets = targets.to(logits.device)
    # Once for the batch and for its samples: it is as wide as the vocabulary.
    likely = logits.flatten(0, 1).float().log_softmax(-1)
    of_tokens = partial(functional.nll_loss, likely, targets.flatten(), ignore_index=IGNORED)
    pairs = ((queries >= 0).sum(1) * (keys >= 0).sum(1)).to(logits.device)
    attention = given.pow(2).mean(2).sum((0, 2, 3)).to(logits.device) / pairs.clamp(min=1)

    def by_sample() -> SampleLosses:
        return SampleLosses(of_tokens(reduction="none").view_as(targets), targets, attention)

    return Loss(of_tokens(), attention.sum() / (pairs > 0).sum().clamp(min=1), by_sample)
