"""A folder written whole or not at all: beside its place first, then renamed into it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Hand out a fresh, empty folder that takes the place of `target` when the block ends well.

    If the block or the renaming fails, `target` is as it was and nothing new is left, not even parents.

    Raises:
        OSError: the place cannot be written.
    """
    with _made(target.parent):
        fresh = target.parent / f".{target.name[:100]}.{uuid4().hex[:12]}.part"  # a rename stays on one disk
        try:
            fresh.mkdir()
            yield fresh
            _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def _made(parent: Path) -> Iterator[None]:
    """Make the folders above, and on failure unmake those that were made."""
    missing = [one for one in [parent, *parent.parents] if not one.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def _swap(fresh: Path, target: Path) -> None:
    if not target.exists():
        os.replace(fresh, target)
        return
    aside = fresh.with_suffix(".old")
    os.replace(target, aside)
    try:
        os.replace(fresh, target)
    except BaseException:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        _log.warning("what was replaced could not be deleted, please delete %s", aside)
