"""Run the `myvlm` command in process, and list the files below a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Run:
    """Result of a run: exit code, stdout, and stderr without frames and line wraps."""

    def __init__(self, result: Any) -> None:
        self.code = result.exit_code
        self.stdout = result.stdout
        self.stderr = " ".join(re.sub(r"[─│╭╮╰╯]", " ", result.stderr).split())

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


Myvlm = Callable[..., Run]


def files_under(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))
