"""Where the model weights that ship with the package are."""

from __future__ import annotations

from pathlib import Path

from myvlm.errors import UnknownBackboneError

WEIGHTS = Path(__file__).parent / "weights"


def path(name: str) -> Path:
    """Return the folder of an embedded model, such as `llava` or `clip`.

    Raises:
        UnknownBackboneError: there is no embedded model of that name; the message lists the others, without
            image encoders.

    >>> path("clip").name
    'clip'
    """
    folder = WEIGHTS / name
    if not (folder / "README.md").is_file():
        folders = [file.parent for file in WEIGHTS.glob("*/README.md")]
        known = sorted(one.name for one in folders if not (one / "open_clip_config.json").is_file())
        raise UnknownBackboneError(
            f"There is no model tinyworld/{name}.",
            got=f"tinyworld/{name}",
            expected=" or ".join(f"tinyworld/{k}" for k in known) or "none: no model is trained yet",
            fix="check the spelling, or train the weights with `python -m benchmarks.pretrain`",
        )
    return folder
