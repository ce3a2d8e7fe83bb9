"""Files and folders are written whole or not at all, with several writers and forked processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from myvlm.files import claims
from myvlm.files.claims import folder_lock, locked_part, try_lock
from myvlm.files.writing import atomic_file

pytestmark = pytest.mark.skipif(
    claims.fcntl is None, reason="there are no locks on this system; run it on another"
)


def test_a_file_that_is_taken_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, 114 of 45,000 writes by four processes failed because the file was missing."""
    touch, taken = Path.touch, list[Path]()

    def quicker(place: Path, *given: Any, **options: Any) -> None:
        touch(place, *given, **options)
        if not taken:
            taken.append(place)
            claims.delete_if_abandoned(place)

    monkeypatch.setattr(Path, "touch", quicker)
    with atomic_file(tmp_path / "page.html") as fresh:
        assert fresh.exists()
        with try_lock(fresh) as free:
            assert not free
        fresh.write_text("whole")
    assert len(taken) == 1
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("page.html", "whole")]


@contextmanager
def _part(folder: Path) -> Iterator[None]:
    with locked_part(folder / "part", folder=True):
        yield


@contextmanager
def _free(folder: Path) -> Iterator[None]:
    with try_lock(folder) as free:
        assert free
        yield


@pytest.mark.parametrize(("lock", "name"), [(folder_lock, "."), (_part, "part"), (_free, ".")])
def test_a_lock_ends_with_its_block_whatever_was_forked_in_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lock: Callable[[Path], AbstractContextManager[None]],
    name: str,
) -> None:
    """A worker forked by another thread inherits the open file; all writers waited until it had ended."""
    opened, of_the_worker = claims._open_for_locking, list[int]()

    def forked(path: Path) -> int:
        found = opened(path)
        assert found is not None
        of_the_worker.append(os.dup(found))  # as a fork does
        return found

    monkeypatch.setattr(claims, "_open_for_locking", forked)
    with lock(tmp_path):
        pass
    monkeypatch.setattr(claims, "_open_for_locking", opened)
    with try_lock(tmp_path / name) as free:
        assert free
    os.close(*of_the_worker)
