"""`benchmarks/album.py`, small: all bounds hold on a few photos of every turn."""

from __future__ import annotations

from pathlib import Path

import album  # benchmarks/ is on the path
import pytest

from tests.support.exif import needs_exiftool, needs_exiv2


@needs_exiftool
@needs_exiv2
def test_a_small_album_keeps_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "opened", lambda page: {"page_seconds": 0.0})  # tests/album opens one
    figures = album.measure(tmp_path, photos=20, inside=10, spoken=0, page=20)
    assert figures["worst_region"] <= album.BOUNDS["worst_region"]
    assert set(figures["worst_region_by_turn"]) == set(range(1, 9))
    assert (figures["sidecars_written"], figures["files_written"]) == (20, 10)
    assert (figures["written_again"], figures["not_as_before"], figures["read_again"]) == (0, 0, 0)
