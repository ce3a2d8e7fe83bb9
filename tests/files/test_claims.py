"""Files and folders written whole or not at all, where writers meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from myvlm.files import claims
from myvlm.files.claims import unclaimed
from myvlm.files.writing import whole_file

pytestmark = pytest.mark.skipif(
    claims.fcntl is None, reason="there are no locks on this system; run it on another"
)


def test_a_file_that_is_taken_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 45,000 writings by four processes at once 114 said that there was no such file."""
    touch, taken = Path.touch, list[Path]()

    def quicker(place: Path, *given: Any, **options: Any) -> None:
        touch(place, *given, **options)
        if not taken:
            taken.append(place)
            claims.take_away(place)

    monkeypatch.setattr(Path, "touch", quicker)
    with whole_file(tmp_path / "page.html") as fresh:
        assert fresh.exists()
        with unclaimed(fresh) as free:
            assert not free
        fresh.write_text("whole")
    assert len(taken) == 1
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("page.html", "whole")]
