"""`benchmarks/album.py` in small: all bounds hold on a few photos of every orientation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import album  # benchmarks/ is in sys.path
import pytest

from myvlm.album.journal import Row
from myvlm.album.names import NameResult
from tests.support.exif import needs_exiftool, needs_exiv2


@needs_exiftool
@needs_exiv2
def test_a_small_album_keeps_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "opened", lambda page: {"page_seconds": 0.0})  # tests/album opens one
    figures = album.Run(tmp_path, 20).measure(inside=10, spoken=0, page=20)
    assert figures["worst_region"] <= album.BOUNDS["worst_region"]
    assert set(figures["worst_region_by_turn"]) == set("12345678")
    assert (figures["sidecars_written"], figures["files_written"]) == (20, 10)
    assert (figures["written_again"], figures["not_as_before"], figures["read_again"]) == (0, 0, 0)


@needs_exiftool
@needs_exiv2
def test_a_run_that_was_stopped_goes_on_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album, "opened", lambda page: {"page_seconds": 0.0})
    write_names, asked = album.write_names, []

    def stopped(tool: object, rows: Sequence[Row], *given: Any, **options: Any) -> Iterator[NameResult]:
        asked.append(len(rows))
        for number, one in enumerate(write_names(tool, rows, *given, **options)):
            if number == 7 and len(asked) == 1:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(album, "write_names", stopped)
    with pytest.raises(KeyboardInterrupt):
        album.Run(tmp_path, 20).measure(inside=0, spoken=0, page=20)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "album").rglob("*.jpg")}
    figures = album.Run(tmp_path, 20).measure(inside=0, spoken=0, page=20)
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "album").rglob("*.jpg")}
    assert (figures["sidecars_written"], figures["written_again"], figures["not_as_before"]) == (20, 0, 0)
    assert figures["memory_photos"] == 20
    assert asked == [20, 20, 20, 0, 0], "stopped, again, once more; no files"
    assert album.Run(tmp_path, 20).measure(inside=0, spoken=0, page=20).items() >= {
        (name, value) for name, value in figures.items() if isinstance(value, int)
    }
    assert len(asked) == 5, "all was known"
