"""Change the `concept.json` of a folder, as a release that writes other values would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myvlm.concepts.disk.record import json_with_digest


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and update its digest."""
    file = folder / "concept.json"
    record = json.loads(file.read_bytes())
    change(record)
    file.write_bytes(json_with_digest(record))
