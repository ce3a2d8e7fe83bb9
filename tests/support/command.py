"""The `myvlm` command in process, for tests: what a run leaves, and the files below a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Run:
    """What one run of the command left: exit code, stdout, and stderr with its frames and wraps undone."""

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
