"""`Embedding`: the vectors of a concept that are appended to one backbone's visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from myvlm.errors import InputError, check_is
from myvlm.text import has_lone_surrogates


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """A concept embedding: vectors that are appended to one backbone's visual tokens.

    Attributes:
        directions: rows × dim float32, finite, at least one row.
        norm: the rule by which the backbone scales each row.
        prompt: the instruction it was learned with.
        fingerprint: of the frozen weights it was learned on.
        settings: the learning settings, as plain JSON values.
        figures: measurements taken during learning, as plain JSON values.

    Raises:
        InputError: the directions are not such an array.
    """

    directions: npt.NDArray[np.float32]
    norm: str
    prompt: str
    fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("norm", "prompt", "fingerprint"):
            check_storable(getattr(self, part), f"{part} of an embedding")
        directions = np.asarray(self.directions)
        finite = directions.dtype.kind == "f" and bool(np.isfinite(directions).all())
        if directions.ndim != 2 or 0 in directions.shape or not finite:
            raise InputError(
                "The array is not a concept embedding.",
                got=f"shape {directions.shape}, {directions.dtype}" + ("" if finite else ", not all finite"),
                expected="floats of shape (rows, dim), at least one row, all finite",
                fix="if it contains NaN, learn with a smaller learning rate",
            )
        # a copy, since the optimiser may keep changing its own buffer
        object.__setattr__(self, "directions", np.array(directions, dtype=np.float32))

    def __repr__(self) -> str:
        rows, dim = self.directions.shape
        return f"Embedding({rows} × {dim}, norm={self.norm!r}, weights {self.fingerprint[:12]})"


class StoredEmbedding(Embedding):
    """An embedding in a concept folder, whose directions are read and checked on first access.

    Args:
        read: returns the directions. Raises ConceptFileError if the file was changed since it was written.
        norm, prompt, fingerprint, settings, figures: as in `Embedding`; taken from the folder's record.
    """

    _read: Callable[[], npt.NDArray[np.float32]]

    def __init__(
        self,
        read: Callable[[], npt.NDArray[np.float32]],
        *,
        norm: str,
        prompt: str,
        fingerprint: str,
        settings: dict[str, Any],
        figures: dict[str, Any],
    ) -> None:
        values = {"norm": norm, "prompt": prompt, "fingerprint": fingerprint}
        for name, value in {**values, "settings": settings, "figures": figures, "_read": read}.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    @cached_property
    def directions(self) -> npt.NDArray[np.float32]:
        """The directions, read on first access. Raises ConceptFileError if the file was changed."""
        return self._read()


def check_storable(text: object, what: str) -> None:
    """Raise InputError unless `text` is a string that can be written as UTF-8; it may be empty."""
    check_is(text, str, what=what, expected="a string")
    if isinstance(text, str) and has_lone_surrogates(text):
        raise InputError(
            f"The {what} contains half of a character (a lone surrogate).",
            got=ascii(text)[:80],
            expected="text that can be encoded in UTF-8",
            fix="decode it with errors='replace'",
        )
