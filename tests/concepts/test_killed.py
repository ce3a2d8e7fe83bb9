"""`kill -9` during a write leaves the old folder or the new one; the next write cleans up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here; run it on Linux")
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """Tests every third step; set MYVLM_EVERY_STEP=1 for all."""
    every = os.environ.get("MYVLM_EVERY_STEP", "3")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed", str(tmp_path), every],
        capture_output=True, text=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["unclean"] == []
    replaced, fresh = found["left"]["old"], found["left"]["nothing"]
    assert len(replaced) > 10
    assert len(fresh) > 5
    for outcomes, before in ((replaced, "old"), (fresh, None)):
        assert set(outcomes) == {before, "new"}
        assert outcomes == sorted(outcomes, key=lambda one: one == "new"), "once it is new it stays so"
