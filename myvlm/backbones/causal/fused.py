"""Fused norms and attentions for learning: the same results with half the kernel launches.

A step runs a tail of a few dozen tokens after a long prefix. Its norms, rotary embeddings, concatenated keys
and recorded attention are many small operations, each a launch on a GPU. Here the usual kinds of layers are
computed in a few operations with hand-written gradients. A tail's keys and values are written into the room
after the prefix's, and the recorded probabilities are read from the attention's own softmax. Nothing is
assumed about a module: before the first step each one is tested, and it is replaced only if its fused form
gives the same output and gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from myvlm.backbones.causal.attention import AttentionRecorder, attention_bias
from myvlm.backbones.frozen import SharedChange

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}
"""Largest difference from the module's own output and gradient, relative to their norm."""
TOLERANCE_OF_HALF = 5e-2
"""Two correct ways to compute a sharp attention in bfloat16 differ by up to 3e-2."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
UNSUPPORTED_ATTRIBUTES = ("q_norm", "k_norm", "sinks", "attn_logit_softcapping")
"""Attributes of attentions that compute differently, even if the test input shows hardly any difference."""

_log = logging.getLogger(__name__)
_STEP: ContextVar[Step | None] = ContextVar("myvlm_fused_step", default=None)


class FusedLayers:
    """The norms and attentions of one language model that can be run in fused form.

    Attributes:
        agrees: for each tested module, whether its fused form gave the module's own results.
    """

    def __init__(self, language_model: nn.Module, config: Any) -> None:
        own = list(language_model.modules())
        self.norms = [one for one in own if _is_norm(one)]
        self.attentions = [one for one in own if _is_attention(one, config)]
        of_config = [one for one in language_model.modules() if _is_layer_of(one, config)]
        if len(of_config) != len(self.attentions):  # recorded probabilities must have one form
            self.attentions = []
        self.agrees: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    @property
    def has_untested(self) -> bool:
        """Whether any module has not been tested yet; the next step then tests all modules and fuses none."""
        return any(one not in self.agrees for one in (*self.norms, *self.attentions))

    def room(self, tail: int) -> int:
        """Spare positions for a tail's keys and values after a prefix's: 0 if attention is not fused."""
        return tail if self.attentions and all(self.agrees.get(one, True) for one in self.attentions) else 0

    @contextmanager
    def step(self, recorder: AttentionRecorder) -> Iterator[None]:
        """Fuse this thread's passes through the modules within the block; other threads are not affected.

        Args:
            recorder: the recorder of the same block; fused attentions record every query.
        """
        testing = self.has_untested
        norms = [one for one in self.norms if _has_class_forward(one) and (testing or self.agrees[one])]
        attentions = self.attentions
        if not all(_has_class_forward(one) and (testing or self.agrees[one]) for one in attentions):
            attentions = []
        fused: dict[Any, Any] = {**dict.fromkeys(norms, norm), **dict.fromkeys(attentions, attention)}
        recorder.all_queries = not testing and bool(attentions)
        with ExitStack() as after:
            for one in fused:
                after.enter_context(_fusable_forward(one))
            after.callback(_STEP.reset, _STEP.set(Step(self, fused, recorder, testing=testing)))
            yield
        for one in (*self.norms, *self.attentions) if testing else ():
            self.agrees.setdefault(one, False)  # no forward pass reached it


def _has_class_forward(module: nn.Module) -> bool:
    """Whether the module's forward is its class's: a forward that other code has replaced is left alone."""
    return module in _fusable_forward or "forward" not in vars(module)


@SharedChange
@contextmanager
def _fusable_forward(module: nn.Module) -> Iterator[None]:
    """Give a module a forward that is fused in a step and its own elsewhere; all threads' steps share it."""
    own = type(module).forward.__get__(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        step = _STEP.get()
        fused = step and step.fused.get(module)
        return fused(step, module, own, *args, **kwargs) if fused else own(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


class Step:
    """One learning step: its recorder, and tensors that all layers share, computed once."""

    def __init__(
        self, layers: FusedLayers, fused: Mapping[Any, Any], recorder: AttentionRecorder, *, testing: bool
    ) -> None:
        self.layers, self.fused, self.recorder, self.testing = layers, fused, recorder, testing
        self._rotary: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None
        self._biases: dict[int, tuple[Tensor, Tensor]] = {}

    def rotary(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotary factors, `B × 1 × T × d` each: cosines, signed sines, and signed sines of the backward pass.

        The sines are multiplied with a vector rolled by half its width, see `_apply_rotary`.
        """
        if self._rotary is None or self._rotary[0] is not cos:
            half = cos.shape[-1] // 2
            signed = torch.cat([-sin[..., :half], sin[..., half:]], -1).unsqueeze(1)
            self._rotary = cos, (cos.unsqueeze(1), signed, signed.roll(half, -1))
        return self._rotary[1]

    def bias(self, mask: Tensor) -> Tensor:
        """The additive mask, `B × 1 × T × L` float32, built once for all layers that share a mask."""
        if id(mask) not in self._biases:
            every = torch.arange(mask.shape[2], device=mask.device).expand(len(mask), -1)
            bias = attention_bias(mask, every, length=mask.shape[2], columns=mask.shape[3], causal=True)
            self._biases[id(mask)] = mask, bias  # keeps the mask alive, so that its id is not reused
        return self._biases[id(mask)][1]


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("RMSNorm") and weight is not None and weight.ndim == 1


def _is_layer_of(module: nn.Module, config: Any) -> bool:
    return getattr(module, "config", None) is config and hasattr(module, "layer_idx")


def _is_attention(module: nn.Module, config: Any) -> bool:
    usual = all(hasattr(module, name) for name in (*PROJECTIONS, "head_dim", "scaling"))
    otherwise = any(getattr(module, name, None) is not None for name in UNSUPPORTED_ATTRIBUTES)
    return _is_layer_of(module, config) and usual and not otherwise


def _all_close(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> bool:
    tolerance = TOLERANCE.get(dtype, TOLERANCE_OF_HALF)
    return all(
        one.shape == other.shape
        and float((one.float() - other.float()).norm()) <= tolerance * float(other.float().norm())
        for one, other in zip(ours, theirs, strict=True)
    )


def _with_gradient(run: Callable[[Tensor], list[Tensor]], entered: Tensor) -> list[Tensor]:
    """A function's outputs, and the gradient of their sum with a different weight for every element."""
    leaf = entered.detach().requires_grad_()
    with torch.enable_grad():
        given = run(leaf)
        weights = [torch.arange(one.numel(), device=one.device).sin().view_as(one) for one in given]
        total: Any = sum((one.float() * weight).sum() for one, weight in zip(given, weights, strict=True))
        [gradient] = torch.autograd.grad(total, [leaf])
    return [*(one.detach() for one in given), gradient]


def _agrees(ours: Callable[..., list[Tensor]], theirs: Callable[..., list[Tensor]], entered: Tensor) -> bool:
    """Whether a module's fused form equals the module in output and gradient on one input."""
    try:
        return _all_close(_with_gradient(ours, entered), _with_gradient(theirs, entered), entered.dtype)
    except Exception as error:  # a module built differently may fail in any way
        _log.debug("not fused: %s", error)
        return False


# ---------------------------------------------------------------- norms


def norm(step: Step, module: nn.Module, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Fused forward of a root-mean-square norm."""
    if not step.testing:
        return _fused_norm(module, hidden)
    step.layers.agrees[module] = _agrees(lambda x: [_fused_norm(module, x)], lambda x: [own(x)], hidden)
    return own(hidden)


def _fused_norm(module: Any, hidden: Tensor) -> Tensor:
    eps = float(getattr(module, "variance_epsilon", None) or module.eps)
    if hidden.is_cuda:  # one kernel there
        return functional.rms_norm(hidden, hidden.shape[-1:], module.weight, eps)
    normed: Tensor = _RMSNorm.apply(hidden, module.weight, eps)
    return normed


class _RMSNorm(torch.autograd.Function):
    """`x · w / sqrt(mean(x²) + eps)` for devices without a kernel, in four operations each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_full_precision(x.dtype))
        root = x.shape[-1] ** 0.5
        length = torch.hypot(length, _constant(root * eps**0.5, length.dtype, x.device))  # sqrt(|x|² + D·eps)
        ctx.zero = _constant(0.0, length.dtype, x.device)
        unit = torch.addcdiv(ctx.zero, x, length, value=root)
        ctx.save_for_backward(unit, length, weight)
        return torch.mul(unit, weight, out=torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        unit, length, weight = ctx.saved_tensors
        width = unit.shape[-1]
        grad_unit = torch.mul(gradient, weight, out=torch.empty_like(unit))
        along = torch.bmm(grad_unit.view(-1, 1, width), unit.view(-1, width, 1)).view_as(length)
        across = torch.addcmul(grad_unit, unit, along, value=-1 / width)
        out = torch.empty_like(gradient)
        return torch.addcdiv(ctx.zero, across, length, value=width**0.5, out=out), None, None


@cache
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _full_precision(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# ---------------------------------------------------------------- attentions


def attention(
    step: Step, module: Any, own: Callable[..., Any], hidden_states: Tensor, **given: Any
) -> tuple[Tensor, None]:
    """Fused forward of attention with rotary embeddings, recording its probabilities."""
    recorder = step.recorder
    if not step.testing:
        output, probabilities = _fused_attention(step, module, hidden_states, given)
        recorder.probabilities.append(probabilities)
        return output, None

    def theirs(entered: Tensor) -> list[Tensor]:
        past = _past(module, given)
        kept = past.keys, past.values
        output, _ = own(entered, **given)
        past.keys, past.values = kept  # undo the append of the module's own forward
        return [output, recorder.probabilities.pop()]

    def ours(entered: Tensor) -> list[Tensor]:
        output, probabilities = _fused_attention(step, module, entered, given)
        return [output, recorder.select_queries(probabilities)]

    step.layers.agrees[module] = _agrees(ours, theirs, hidden_states)
    result: tuple[Tensor, None] = own(hidden_states, **given)
    return result


def _past(module: Any, given: Mapping[str, Any]) -> Any:
    """The layer's cache: `keys` and `values`, `B × G × P × d` each."""
    cache = given.get("cache")
    return (given["past_key_values"] if cache is None else cache).layers[module.layer_idx]


def _fused_attention(
    step: Step, module: Any, hidden: Tensor, given: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The attention's output, and the probabilities of the recorded keys, `B × H × T × K`."""
    shape = (*hidden.shape[:-1], -1, module.head_dim)
    projected = (getattr(module, name)(hidden).view(shape) for name in PROJECTIONS[:3])
    attended, probabilities = _TailAttention.apply(
        *projected,
        step.rotary(*given["position_embeddings"]),
        _past(module, given).joined,
        step.bias(given["attention_mask"]),
        step.recorder.indices(hidden.device).keys,
        module.scaling,
    )
    return module.o_proj(attended.flatten(2)), probabilities


def _apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Apply rotary embeddings, `x · cos + rotate_half(x) · sin`.

    A roll by half the width is `rotate_half` except for signs, which `sin` contains (`Step.rotary`).
    """
    torch.mul(x, cos, out=out)
    return out.addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


class _TailAttention(torch.autograd.Function):
    """Attention of a tail over a cached prefix and itself; the prefix gets no gradient.

    Args:
        query: `B × T × H × d`.
        key, value: `B × T × G × d`, `G` key/value heads, `H` a multiple of `G`.
        rotary: as `Step.rotary`.
        joined: keys and values, `B × G × (P + T) × d` each; the forward pass writes the tail's into them.
        bias: `B × 1 × T × (P + T)` float32.
        columns: `B × 1 × 1 × K` indices into `P + T`: the columns whose probabilities are returned.
        scale: factor of the scores.

    Returns: `B × T × H × d`, and `B × H × T × K` probabilities.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor, key: Tensor, value: Tensor, rotary: tuple[Tensor, Tensor, Tensor],
        joined: tuple[Tensor, Tensor], bias: Tensor, columns: Tensor, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, length, heads, width = query.shape
        groups, both = key.shape[2], joined[0].shape[2]
        cos, sin, _ = rotary
        rotated = _apply_rotary(query.transpose(1, 2), cos, sin, query.new_empty(batch, heads, length, width))
        # Group the query heads that share a key head: the keys need not be repeated.
        rotated = rotated.view(batch * groups, -1, width)
        _apply_rotary(key.transpose(1, 2), cos, sin, joined[0][:, :, -length:])
        joined[1][:, :, -length:] = value.transpose(1, 2)
        keys, values = (part.view(batch * groups, -1, width) for part in joined)
        # Products of half-precision inputs are computed in float32, as in the recorder.
        if query.is_cuda and query.dtype.itemsize == 2:
            scores = torch.bmm(rotated, keys.mT, out_dtype=torch.float32)
        else:
            scores = torch.bmm(
                rotated.to(_full_precision(query.dtype)), keys.mT.to(_full_precision(query.dtype))
            )
        scores = scores.view(batch, heads, length, -1)
        scores = torch.add(bias, scores, alpha=scale, out=scores)
        p = torch.softmax(scores, -1, out=_softmax_output(scores))
        probabilities = p.gather(-1, columns.expand(batch, heads, length, -1))
        p = p.to(query.dtype).view(batch * groups, -1, both)
        attended = torch.bmm(p, values).view(batch, heads, length, width)
        ctx.save_for_backward(rotated, keys, values, p, columns, *rotary)
        ctx.scale, ctx.shape = scale, (batch, length, heads, width)
        return attended.transpose(1, 2).contiguous(), probabilities

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_probabilities: Tensor) -> tuple[Tensor | None, ...]:
        rotated, keys, values, p, columns, cos, _, sin_backward = ctx.saved_tensors
        batch, length, heads, width = ctx.shape
        grad_out = grad_out.transpose(1, 2).reshape(rotated.shape)
        grad_values = torch.bmm(p[..., -length:].transpose(1, 2), grad_out)
        grad_p = torch.bmm(grad_out, values.transpose(1, 2))
        grad_p.view(batch, heads, length, -1).scatter_add_(
            -1, columns.expand(batch, heads, length, -1), grad_probabilities.to(p.dtype)
        )
        grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype, grad_input=_softmax_output(grad_p))
        # The product times the scale; the first argument of `baddbmm` is multiplied by 0.
        scaled = {"beta": 0, "alpha": ctx.scale}
        grad_query = torch.baddbmm(rotated, grad_scores, keys, **scaled)
        grad_keys = torch.baddbmm(grad_values, grad_scores[..., -length:].transpose(1, 2), rotated, **scaled)
        grad_query = _rotary_backward(grad_query.view(batch, heads, length, width), cos, sin_backward)
        grad_keys = _rotary_backward(grad_keys.view(batch, -1, length, width), cos, sin_backward)
        return grad_query, grad_keys, grad_values.view(batch, -1, length, width).transpose(1, 2), *[None] * 5


def _softmax_output(rows: Tensor) -> Tensor | None:
    """Output tensor for a softmax, or its backward pass, over rows that are not needed again.

    On a CPU it is the rows themselves: they are a step's largest tensors, and allocating costs as much as
    computing.
    """
    return None if rows.is_cuda else rows


def _rotary_backward(gradient: Tensor, cos: Tensor, sin_backward: Tensor) -> Tensor:
    """Backward pass of `_apply_rotary`, `B × T × H × d`."""
    batch, heads, length, width = gradient.shape
    out = gradient.new_empty(batch, length, heads, width)
    _apply_rotary(gradient, cos, sin_backward, out.transpose(1, 2))
    return out
