"""Record the batch sizes that a backbone is given."""

from __future__ import annotations

from typing import Any

import pytest

from myvlm.backbones import Backbone


def sizes_of(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, loss: str) -> list[int]:
    """A list that collects the batch sizes given to the method `loss` of backbones of this class."""
    kind, sizes = type(backbone), list[int]()
    plainly: Any = getattr(kind, loss)

    def counted(self: Any, kept: Any, *rest: Any) -> Any:
        sizes.append(len(kept))
        return plainly(self, kept, *rest)

    monkeypatch.setattr(kind, loss, counted)
    return sizes
