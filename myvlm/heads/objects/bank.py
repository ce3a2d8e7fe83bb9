"""The bank of negatives that ships beside an encoder: windows of everyday pictures, already encoded.

Users have photos of their mug, not of other mugs. The bank stands for "everything else".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from myvlm.errors import InputError
from myvlm.heads.base import FloatArray
from myvlm.heads.objects.whitening import Whitening
from myvlm.heads.windows import Crops

BANK_FILE = "bank.safetensors"


def write_bank(
    folder: Path, pictures: list[FloatArray], *, crops: Crops = "auto", whitening: Whitening | None = None
) -> Path:
    """Write the window features of P pictures (each C × D) as one P × C × D float16 tensor beside an encoder.

    With them goes the encoder's whitening, where it was learned. A picture with fewer windows than another is
    filled up with its first; a maximum over windows stays what it is.
    """
    most = max(len(rows) for rows in pictures)
    filled = [np.concatenate([rows, np.repeat(rows[:1], most - len(rows), axis=0)]) for rows in pictures]
    file = folder / BANK_FILE
    tensors: dict[str, np.ndarray[Any, Any]] = {"features": np.stack(filled).astype(np.float16)}
    if whitening is not None:
        tensors |= {"whitening_mean": whitening.mean, "whitening_matrix": whitening.matrix}
    save_file(tensors, file, metadata={"crops": str(crops)})
    return file


def read_bank(folder: Path) -> FloatArray | None:
    """P × C × D float32, each row of length 1; None where no bank ships.

    Raises:
        InputError: there is one, and it cannot be read.
    """
    file = folder / BANK_FILE
    if not file.is_file():
        return None
    try:
        bank = load_file(file)["features"].astype(np.float32)
    except (SafetensorError, KeyError, OSError) as error:
        raise _unusable(file, f"{type(error).__name__}: {error}") from error
    if bank.ndim != 3 or 0 in bank.shape or not np.isfinite(bank).all():
        raise _unusable(file, f"shape {bank.shape}, or values that are not finite")
    lengths = np.linalg.norm(bank, axis=-1, keepdims=True)  # float16 cost a little of the length
    return np.asarray(bank / np.maximum(lengths, 1e-6), dtype=np.float32)


def read_whitening(folder: Path) -> Whitening | None:
    """The whitening that ships with the bank; None where there is none."""
    file = folder / BANK_FILE
    if not file.is_file():
        return None
    with safe_open(file, "np") as tensors:
        if "whitening_matrix" not in tensors.keys():  # noqa: SIM118 (not a mapping)
            return None
        return Whitening(tensors.get_tensor("whitening_mean"), tensors.get_tensor("whitening_matrix"))


def _unusable(file: Path, got: str) -> InputError:
    return InputError(
        f"The bank of negatives {file} cannot be used.",
        got=got,
        expected="one tensor `features`: pictures, windows, dimensions; all values finite",
        fix="build it again with myvlm.heads.objects.bank.write_bank, or delete it to do without",
    )
