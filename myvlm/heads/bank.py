"""The bank of negatives that ships beside an encoder: windows of everyday pictures, already encoded.

Users have photos of their mug, not of other mugs. The bank stands for "everything else". Imports only
`errors` and the head contract.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from myvlm.errors import InputError
from myvlm.heads.base import FloatArray
from myvlm.heads.windows import Crops

BANK_FILE = "bank.safetensors"


def write_bank(folder: Path, pictures: list[FloatArray], *, crops: Crops = "auto") -> Path:
    """Write the window features of P pictures (each C × D) as one P × C × D float16 tensor beside an encoder.

    A picture with fewer windows than another is filled up with its first; a maximum over windows stays what
    it is.
    """
    most = max(len(rows) for rows in pictures)
    filled = [np.concatenate([rows, np.repeat(rows[:1], most - len(rows), axis=0)]) for rows in pictures]
    file = folder / BANK_FILE
    save_file({"features": np.stack(filled).astype(np.float16)}, file, metadata={"crops": str(crops)})
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


def _unusable(file: Path, got: str) -> InputError:
    return InputError(
        f"The bank of negatives {file} cannot be used.",
        got=got,
        expected="one tensor `features`: pictures, windows, dimensions; all values finite",
        fix="build it again with myvlm.heads.bank.write_bank, or delete it to do without",
    )
