"""How many samples a backbone is given at once."""

from __future__ import annotations

from typing import Any

import pytest

from myvlm.backbones import Backbone


def sizes_of(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, loss: str) -> list[int]:
    """The sizes of the batches that backbones of this class are given from now on, in the loss so named."""
    kind, sizes = type(backbone), list[int]()
    plainly: Any = getattr(kind, loss)

    def counted(self: Any, kept: Any, *rest: Any) -> Any:
        sizes.append(len(kept))
        return plainly(self, kept, *rest)

    monkeypatch.setattr(kind, loss, counted)
    return sizes
