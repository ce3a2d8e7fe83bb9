"""A hash of frozen weights that does not depend on their floating point type."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLES = 4096


def weights_fingerprint(tensors: Iterable[Tensor]) -> str:
    """Hash the shapes of some weights and the signs of up to 4,096 values of each.

    Only signs are exactly the same in float32, bfloat16 and float16. Values rounded to bfloat16 would not
    be, since a float32 weight that passed through float16 is rounded twice. Order and names of the tensors
    do not matter, so a transformers release may rename modules.

    Returns: 32 hexadecimal digits.

    >>> weights = [torch.linspace(-1, 1, 100).reshape(10, 10), torch.randn(7)]
    >>> weights_fingerprint(weights) == weights_fingerprint(w.to(torch.float16) for w in reversed(weights))
    True
    >>> weights_fingerprint(weights) == weights_fingerprint([weights[0], -weights[1]])
    False
    """
    digests = sorted(_digest(tensor) for tensor in tensors if tensor.is_floating_point())
    return hashlib.sha256(b"".join(digests)).hexdigest()[:32]


def _digest(tensor: Tensor) -> bytes:
    values = tensor.detach().reshape(-1)
    count = min(SAMPLES, values.numel())
    places = torch.arange(count, device=values.device) * values.numel() // max(count, 1)
    # signbit, not sign: a small negative weight becomes -0.0 in float16 and keeps its sign bit.
    signs = torch.signbit(values[places]).to("cpu", torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + signs).digest()
